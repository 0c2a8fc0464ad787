"""Recordings: the trajectory store, clips sampled from it, and their statistics."""

from worldmodel.core.spec import EnvironmentSpec
from worldmodel.data.clips import ClipBatch, ClipSampler, FrameClips, Split, split_episodes
from worldmodel.data.frames import load_camera_frames, load_frames
from worldmodel.data.recorder import Recorder
from worldmodel.data.statistics import DatasetStatistics, compute_statistics
from worldmodel.data.store.durable import WritingStopped
from worldmodel.data.store.reader import Episode, StoreError, TrajectoryStore
from worldmodel.data.store.writer import EpisodeWriter

__all__ = [
    "ClipBatch",
    "ClipSampler",
    "DatasetStatistics",
    "EnvironmentSpec",
    "Episode",
    "EpisodeWriter",
    "FrameClips",
    "Recorder",
    "Split",
    "StoreError",
    "TrajectoryStore",
    "WritingStopped",
    "compute_statistics",
    "load_camera_frames",
    "load_frames",
    "split_episodes",
]

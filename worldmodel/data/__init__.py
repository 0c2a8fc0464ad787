"""Recordings: the trajectory store, clips drawn from it, and their statistics."""

from worldmodel.data.clips import ClipBatch, ClipSampler, Split, split_episodes
from worldmodel.data.durable import WritingStopped
from worldmodel.data.frames import load_frames
from worldmodel.data.recorder import Recorder
from worldmodel.data.spec import EnvironmentSpec
from worldmodel.data.statistics import DatasetStatistics, compute_statistics
from worldmodel.data.store import Episode, StoreError, TrajectoryStore
from worldmodel.data.writer import EpisodeWriter

__all__ = [
    "ClipBatch",
    "ClipSampler",
    "DatasetStatistics",
    "EnvironmentSpec",
    "Episode",
    "EpisodeWriter",
    "Recorder",
    "Split",
    "StoreError",
    "TrajectoryStore",
    "WritingStopped",
    "compute_statistics",
    "load_frames",
    "split_episodes",
]

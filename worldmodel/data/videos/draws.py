"""Draws clips from videos and from trajectory stores.

Shapes: `T` frames of a clip, `V` videos.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from worldmodel.core.errors import UserError
from worldmodel.core.ranks import ALONE, Rank
from worldmodel.data.clips import ClipConfig, ClipSampler
from worldmodel.data.store.layout import image_column
from worldmodel.data.store.reader import TrajectoryStore
from worldmodel.data.videos.catalogue import Catalogue

Request = dict[str, Any]


class Source(Protocol):
    """Something that clips are drawn from. Its size in windows is its weight, if no other is given."""

    @property
    def windows(self) -> int:
        """Number of clips that fit side by side."""

    def draw(self, rng: np.random.Generator) -> Request:
        """The place of a random clip, as a request to a worker without its size and augmentation."""


class VideoSource:
    """Clips of videos. A long video is cut into windows, each of which is as likely as a whole short video.

    A window is as long as the longest clip. A clip begins at a uniformly drawn frame, at the average rate, and its
    stride is uniform over those given. With strides in frames, the time between two frames of the clip is the stride
    divided by the rate. In a video that is shorter than a clip, the last frame is repeated, as in V-JEPA.

    Args:
        catalogue: the videos.
        clips: length and strides of clips.
        short: `repeat`, or `skip` to leave out videos that are shorter than the longest clip.

    Raises:
        UserError: when no video is left.
    """

    def __init__(self, catalogue: Catalogue, clips: ClipConfig, short: str = "repeat") -> None:
        self._catalogue, self._clips = catalogue, clips
        # float64 [V]: time from the beginning of the first frame of the longest clip to the end of its last.
        span = (clips.frames - 1) * self._period_s(-1) + 1 / catalogue.rates_hz
        # A clip that fits exactly must not be lost to rounding.
        windows = np.floor(catalogue.durations_s / span + 1e-6).astype(np.int64)
        self.num_short = int((windows == 0).sum())
        if short == "repeat":
            windows = np.maximum(windows, 1)
        self._cumulative = np.cumsum(windows)
        if not self.windows:
            raise UserError(
                f"none of {len(catalogue)} videos lasts for a clip of {clips.frames} frames, which takes "
                f"{span.min():.3g} s: videos.short=repeat repeats their last frame"
            )

    @property
    def windows(self) -> int:
        return int(self._cumulative[-1])

    def draw(self, rng: np.random.Generator) -> Request:
        video = int(np.searchsorted(self._cumulative, rng.integers(self.windows), side="right"))
        duration, rate = self._catalogue.durations_s[video], self._catalogue.rates_hz[video]
        period = self._period_s(int(rng.integers(len(self._strides))), video)
        span = (self._clips.frames - 1) * period + 1 / rate
        first = int(rng.integers(max(0, int((duration - span) * rate + 1e-6)) + 1))
        # In the middle of a frame, no rounding of time stamps shows its neighbour.
        times = (first + 0.5) / rate + np.arange(self._clips.frames) * period
        times = np.minimum(times, duration - 0.5 / rate)
        return {"do": "clip", "path": str(self._catalogue.path(video)), "times": [round(t, 6) for t in times]}

    @property
    def _strides(self) -> Sequence[float]:
        return sorted(self._clips.strides_s or self._clips.strides)

    def _period_s(self, which: int, video: int | slice = slice(None)) -> Any:
        """Time between two frames of a clip with a stride, of one video or all [s]."""
        if self._clips.strides_s:
            return self._strides[which]
        return self._strides[which] / self._catalogue.rates_hz[video]


class StoreSource:
    """Clips of a trajectory store, read in the workers without a cache of decoded frames.

    Args:
        store: the recording.
        clips: length and strides of clips.
        episodes: episodes to draw from; all of them by default.
    """

    def __init__(self, store: TrajectoryStore, clips: ClipConfig, episodes: NDArray[np.int64] | None = None) -> None:
        self._store = store
        strides = clips.in_control_steps(store.spec.control_step_s)
        self._sampler = ClipSampler(store.episode_ends, clips.frames, strides, 0, episodes)
        span = (clips.frames - 1) * max(strides) + 1
        lengths = np.diff(store.episode_ends, prepend=0)
        self.windows = max(1, int(np.sum(lengths // span))) * len(store.spec.cameras)

    def draw(self, rng: np.random.Generator) -> Request:
        camera = self._store.spec.camera_names[int(rng.integers(len(self._store.spec.cameras)))]
        batch = self._sampler.sample(int(rng.integers(2**62)), 1)
        return request_rows(self._store, camera, int(batch.episodes[0]), batch.rows[0])


def first_frames(request: Request, frames: int) -> Request:
    """The request for the first `frames` frames of a clip."""
    of = "times" if "times" in request else "rows"
    return {**request, of: request[of][:frames]}


def request_rows(store: TrajectoryStore, camera: str, episode: int, rows: NDArray[np.int64]) -> Request:
    """The request for `rows` of one camera, which are of one episode."""
    column = image_column(camera)
    return {"do": "rows", "path": str(store.name), "column": column, "episode": episode, "rows": rows.tolist()}


@dataclasses.dataclass(frozen=True)
class Mix:
    """Random clips of several sources, all brought to one size.

    Clip `b` of step `k` depends on (seed, k, b) alone, and so does every further clip that takes its place if it cannot
    be read. A counter-based generator (Philox; Salmon et al. 2011) makes them independent.

    Attributes:
        sources: what clips are drawn from.
        weights: how likely each source is; they need not add up to 1.
        shape: shape of a clip, `(T, H, W)`.
        augmentation: values of an `AugmentationConfig`, or None for the largest crop in the middle.
        batch_size: clips per step of all ranks, B.
        seed: seed of the draws.
        rank: this process among those that train together, each of which has its share of the clips.
        frames_at: how many of the first frames of its clips a step needs, at most T. None for all of them. The clips
            are the same, and the other frames are not read.
    """

    sources: Sequence[Source]
    weights: Sequence[float]
    shape: tuple[int, int, int]
    augmentation: Mapping[str, Any] | None
    batch_size: int
    seed: int
    rank: Rank = ALONE
    frames_at: Callable[[int], int] | None = None

    @property
    def share(self) -> int:
        """Clips per step of this rank."""
        return self.batch_size // self.rank.count

    def shape_of(self, step: int) -> tuple[int, int, int]:
        """Shape of the clips of a step, `(T, H, W)`."""
        frames, height, width = self.shape
        return frames if self.frames_at is None else self.frames_at(step), height, width

    def requests(self, step: int, clip: int) -> Iterator[Request]:
        """Requests for clip `clip` of this rank. Each takes the place of the previous one, which could not be read."""
        number = step * self.batch_size + self.rank.number + self.rank.count * clip
        # The second word of the key keeps these draws apart from those of `ClipSampler`.
        rng = np.random.Generator(np.random.Philox(key=self.seed | 1 << 64, counter=number << 192))
        chances = np.array(self.weights, np.float64) / np.sum(self.weights)
        while True:
            request = self.sources[int(rng.choice(len(chances), p=chances))].draw(rng)
            # The generator of the augmentation has a seed of its own, since its draws depend on the size of the video.
            seed = int(rng.integers(2**63))
            request = first_frames(request, self.shape_of(step)[0])
            yield {**request, "size": self.shape[1:], "augmentation": self.augmentation, "seed": seed}


@dataclasses.dataclass(frozen=True)
class StoreRows:
    """The clips of `worldmodel.data.clips.FrameClips`, read from the store instead of a cache of decoded frames.

    Attributes:
        store: the recording.
        sampler: draws the rows of clips.
        frames: frames per clip, T.
        batch_size: clips per step of all ranks, B.
        rank: this process among those that train together.
        frames_at: as of a `Mix`.
    """

    store: TrajectoryStore
    sampler: ClipSampler
    frames: int
    batch_size: int
    rank: Rank = ALONE
    frames_at: Callable[[int], int] | None = None

    @property
    def share(self) -> int:
        """Clips per step of this rank."""
        return self.batch_size // self.rank.count

    def shape_of(self, step: int) -> tuple[int, int, int]:
        """Shape of the clips of a step, `(T, H, W)`. Cameras take turns."""
        camera = self.store.spec.cameras[step % len(self.store.spec.cameras)]
        return self.frames if self.frames_at is None else self.frames_at(step), camera.height, camera.width

    def requests(self, step: int, clip: int) -> Iterator[Request]:
        """The request for clip `clip` of this rank. Nothing can take its place."""
        batch = self.sampler.sample(step, self.batch_size)
        camera = self.store.spec.camera_names[step % len(self.store.spec.cameras)]
        number = self.rank.number + self.rank.count * clip
        rows = batch.rows[number][: self.shape_of(step)[0]]
        yield request_rows(self.store, camera, int(batch.episodes[number]), rows)

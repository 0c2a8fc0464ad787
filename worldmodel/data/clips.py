"""Selects the rows of a store for every training batch.

Shapes: `B` clips per batch, `L` frames per clip, `E` episodes.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from worldmodel.core.errors import UserError
from worldmodel.core.ranks import ALONE, Rank

Indices = NDArray[np.int64]
_SAME_STRIDE = 0.01  # relative difference that rounded rates have


@dataclasses.dataclass(frozen=True)
class Split:
    """Episode numbers for training and for evaluation, ascending. No episode is in both.

    Attributes:
        train: `[E_train]`.
        held_out: `[E_held_out]`.
    """

    train: Indices
    held_out: Indices


def split_episodes(num_episodes: int, held_out_fraction: float, seed: int) -> Split:
    """Divide episodes at random. The same arguments give the same result.

    Whole episodes are held out, because neighbouring frames are nearly equal. A fraction above zero holds out at least
    one episode and leaves at least one for training.

    Raises:
        UserError: for a fraction outside [0, 1), or too few episodes for both parts.
    """
    if not 0 <= held_out_fraction < 1:
        raise UserError(f"held_out_fraction {held_out_fraction}: expected 0 up to, not including, 1")
    needed = 2 if held_out_fraction > 0 else 1
    if num_episodes < needed:
        raise UserError(f"{num_episodes} recorded episodes cannot be split: record at least {needed}")
    num_held_out = round(num_episodes * held_out_fraction)
    if held_out_fraction > 0:
        num_held_out = min(max(num_held_out, 1), num_episodes - 1)
    order = np.random.default_rng(seed).permutation(num_episodes)
    return Split(train=np.sort(order[num_held_out:]), held_out=np.sort(order[:num_held_out]))


def episode_starts(episode_ends: Indices) -> Indices:
    """The first row of every episode `[E]`. `episode_ends [E]` has the row after its last one."""
    return np.concatenate([[0], episode_ends[:-1]]).astype(np.int64)


def rows_of(episode_ends: Indices, episodes: Indices) -> Indices:
    """All rows of `episodes`, in the order of `episodes`."""
    starts = episode_starts(episode_ends)
    return np.concatenate([np.arange(starts[e], episode_ends[e]) for e in episodes])


def rows_followed(episode_ends: Indices, count: int) -> Indices:
    """All rows that at least `count` more rows of the same episode follow, ascending."""
    starts = episode_starts(episode_ends)
    return np.concatenate([np.arange(start, end - count) for start, end in zip(starts, episode_ends, strict=True)])


@dataclasses.dataclass(frozen=True)
class ClipConfig:
    """Shape of the clips.

    Attributes:
        frames: number of frames per clip, `L`.
        strides: strides to choose from [control steps between neighbouring frames; of a video, frames of its own].
        strides_s: strides to choose from [s], in place of `strides`; None for those.
    """

    frames: int = 4
    strides: tuple[int, ...] = (1, 2, 3)
    strides_s: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        if self.strides_s is not None and not (self.strides_s and all(0 < s < math.inf for s in self.strides_s)):
            raise ValueError(f"strides_s {list(self.strides_s)}: expected seconds between frames, above 0")

    def in_control_steps(self, control_step_s: float) -> tuple[int, ...]:
        """The strides in a recording whose control steps take `control_step_s`.

        Raises:
            UserError: for a stride in seconds that is no multiple of a control step.
        """
        if self.strides_s is None:
            return self.strides
        steps = tuple(max(1, round(stride / control_step_s)) for stride in self.strides_s)
        for stride, count in zip(self.strides_s, steps, strict=True):
            if abs(stride - count * control_step_s) > _SAME_STRIDE * stride:
                raise UserError(
                    f"clips.strides_s has {stride:g} s, and the control steps of the recording take "
                    f"{control_step_s:g} s: expected a multiple of them"
                )
        return steps


@dataclasses.dataclass(frozen=True)
class ClipBatch:
    """The rows of one batch of clips.

    With a stride of one, the action of `rows[:, t]` leads to `rows[:, t + 1]`. With a larger stride, several actions
    lie between two frames. The action of the last frame is not part of the clip. At the end of an episode it is the
    zero that was never taken.

    Attributes:
        rows: int64 `[B, L]`, row numbers in the store.
        strides: int64 `[B]`, control steps between neighbouring frames.
        episodes: int64 `[B]`, the episode of each clip.
    """

    rows: Indices
    strides: Indices
    episodes: Indices


class ClipSampler:
    """Random clips that stay within one episode.

    The stride of each clip is uniform over the strides that fit into some episode. Its place is uniform over all places
    where a clip of that stride fits. A counter-based generator (Philox; Salmon et al. 2011) makes batch `step` a
    function of (seed, step) alone, so a resumed training sees the same batches as an uninterrupted one.

    Args:
        episode_ends: int64 `[E]`, row after the last one of each episode.
        clip_length: frames per clip, `L`.
        strides: strides to choose from [control steps between neighbouring frames].
        seed: seed of the sampling, at least 0.
        episodes: numbers of the episodes to sample from; all of them by default.

    Raises:
        UserError: for a clip length or stride below one, or when no episode is long enough for a clip.
    """

    def __init__(
        self,
        episode_ends: Indices,
        clip_length: int,
        strides: tuple[int, ...] = (1, 2, 3),
        seed: int = 0,
        episodes: Indices | None = None,
    ) -> None:
        if clip_length < 1 or not strides or min(strides) < 1 or seed < 0:
            raise UserError(
                f"clip_length {clip_length}, strides {list(strides)}, seed {seed}: "
                "expected a length and strides of at least 1 and a seed of at least 0"
            )
        ends = np.asarray(episode_ends, np.int64)
        self._starts = episode_starts(ends)
        self._episodes = np.arange(len(ends)) if episodes is None else np.asarray(episodes, np.int64)
        self._clip_length = clip_length
        self._seed = seed
        lengths = (ends - self._starts)[self._episodes]
        places = {s: np.maximum(lengths - (clip_length - 1) * s, 0) for s in sorted(set(strides))}
        # For each stride that fits, the cumulative number of clips up to and including each episode.
        self._cumulative = {s: np.cumsum(count) for s, count in places.items() if count.any()}
        if not self._cumulative:
            longest = int(lengths.max(initial=0))
            raise UserError(
                f"no episode is long enough for clips of {clip_length} frames at stride {min(strides)}: "
                f"the longest of {len(lengths)} has {longest} frames"
            )

    def sample(self, step: int, batch_size: int, per_episode: int = 1) -> ClipBatch:
        """The batch for training step `step` (0 or above).

        Args:
            step: training step.
            batch_size: number of clips, B; a multiple of `per_episode`.
            per_episode: number of consecutive clips in the batch that share an episode and a stride.
        """
        groups, left_over = divmod(batch_size, per_episode)
        if left_over:
            raise ValueError(f"batch_size {batch_size} is not a multiple of per_episode {per_episode}")
        # The step is the highest word of the counter, so 2^192 draws lie between the batches of two steps.
        rng = np.random.Generator(np.random.Philox(key=self._seed, counter=step << 192))
        choices = np.array(list(self._cumulative), np.int64)
        strides = choices[rng.integers(len(choices), size=groups)]
        totals = {s: int(cumulative[-1]) for s, cumulative in self._cumulative.items()}
        places = rng.integers(np.array([totals[int(s)] for s in strides], np.int64))
        position, available = np.empty((2, groups), np.int64)
        for stride, cumulative in self._cumulative.items():
            chosen = strides == stride
            position[chosen] = np.searchsorted(cumulative, places[chosen], side="right")
            before = np.concatenate([[0], cumulative[:-1]])
            places[chosen] -= before[position[chosen]]
            available[chosen] = (cumulative - before)[position[chosen]]
        if per_episode > 1:
            places = rng.integers(np.repeat(available, per_episode))
        strides, position = np.repeat(strides, per_episode), np.repeat(position, per_episode)
        episodes = self._episodes[position]
        first = self._starts[episodes] + places
        rows = first[:, None] + np.arange(self._clip_length) * strides[:, None]
        return ClipBatch(rows=rows, strides=strides, episodes=episodes)


class FrameClips:
    """Clips from the decoded frames of a store's cameras (`worldmodel.data.load_camera_frames`).

    Each batch is from one camera, since cameras may differ in size, and the cameras take turns. A batch is a function
    of the sampler's seed and the step. Each rank has its share of it.

    Args:
        frames: by camera, uint8 `[N, H, W, 3]`.
        sampler: selects the rows.
        batch_size: number of clips of all ranks, B.
        rank: this process among those that train together.
    """

    def __init__(
        self,
        frames: Mapping[str, NDArray[np.uint8]],
        sampler: ClipSampler,
        batch_size: int,
        rank: Rank = ALONE,
    ) -> None:
        assert frames
        self._frames, self._sampler, self._batch_size, self._rank = dict(frames), sampler, batch_size, rank

    def __call__(self, step: int) -> NDArray[np.uint8]:
        """This rank's clips for training step `step`, uint8 `[B / ranks, L, H, W, 3]`."""
        cameras = list(self._frames)
        return self.of(cameras[step % len(cameras)], step)

    def of(self, camera: str, step: int) -> NDArray[np.uint8]:
        """The clips of one camera."""
        return self._frames[camera][self._rank.share(self._sampler.sample(step, self._batch_size).rows)]

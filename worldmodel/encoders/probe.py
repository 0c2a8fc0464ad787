"""A linear probe of recorded quantities in an encoder's features, and measures of how much the features vary.

Shapes: `R` frames (rows), `H, W` height and width of a camera's images, `Y` quantities that the probe estimates.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from worldmodel.data.clips import Split
from worldmodel.data.store.reader import TrajectoryStore
from worldmodel.encoders.base import Encoder
from worldmodel.encoders.features import encode_frames
from worldmodel.encoders.jepa.health import effective_rank, linear_probe, spread


class FrameRows(Protocol):
    """Frames of one camera `[R, H, W, 3]`, in memory or not."""

    def __getitem__(self, rows: NDArray[np.int64], /) -> NDArray[np.uint8]:
        """The frames in `rows`, which ascend."""


@dataclasses.dataclass(frozen=True)
class ProbeData:
    """Frames, uint8 `[R, H, W, 3]`, and recorded quantities `[R, Y]`, for training and for testing the probe."""

    train_pixels: NDArray[np.uint8]
    train_state: NDArray[np.float32]
    test_pixels: NDArray[np.uint8]
    test_state: NDArray[np.float32]


@dataclasses.dataclass(frozen=True)
class Probed:
    """The result of a probe.

    Attributes:
        spread: spread of the layer-normed features around each position's mean, from 0 (they are constant) to 1 (the
            means are zero).
        effective_rank: effective rank of the features, from 1 to their width.
        r2: coefficient of determination for every quantity `[Y]`, NaN for one that is constant in the tested frames.
    """

    spread: float
    effective_rank: float
    r2: tuple[float, ...]

    @property
    def mean_r2(self) -> float:
        """Mean of `r2` over the quantities that vary, NaN if there are none."""
        varying = [score for score in self.r2 if not np.isnan(score)]
        return float(np.mean(varying)) if varying else float("nan")


def probe_data(
    store: TrajectoryStore, frames: Mapping[str, FrameRows], split: Split, num_frames: int, seed: int
) -> dict[str, ProbeData]:
    """Frames of every camera with their proprioception and then the simulator's state. Half of them are held out.

    Without held-out episodes, there are no quantities (Y is 0), and the frames only show whether features still vary.

    Args:
        store: the recording.
        frames: images of the recording by camera, `[R, H, W, 3]`.
        split: episodes to train the probe with, and to test it on.
        num_frames: number of frames in all.
        seed: seed of the choice of frames.
    """
    state = np.concatenate([store.column("proprio"), store.column("state")], axis=1).astype(np.float32)
    held_out = split.held_out
    if len(held_out) == 0:
        state, held_out = state[:, :0], split.train
    rng = np.random.default_rng([seed, 1])
    picked = []
    for episodes in (split.train, held_out):
        rows = np.concatenate([np.arange(r.start, r.stop) for r in map(store.episode_rows, episodes)])
        picked.append(np.sort(rng.choice(rows, min(num_frames // 2, len(rows)), replace=False)))
    train, test = picked
    return {
        camera: ProbeData(of_camera[train], state[train], of_camera[test], state[test])
        for camera, of_camera in frames.items()
    }


def probe(encoder: Encoder, data: ProbeData, device: torch.device) -> Probed:
    """Encode the frames, and estimate every quantity from all tokens of a frame by ridge regression."""
    train, test = (
        encode_frames(encoder, pixels, np.arange(len(pixels)), device)
        for pixels in (data.train_pixels, data.test_pixels)
    )
    # Features are layer-normed like the targets of V-JEPA's loss, so their spread is at most 1.
    normed = torch.nn.functional.layer_norm(test, test.shape[-1:])
    found = Probed(spread(normed), effective_rank(normed), ())
    if data.train_state.shape[1] == 0:
        return found
    scores = linear_probe(
        train.flatten(1), torch.from_numpy(data.train_state), test.flatten(1), torch.from_numpy(data.test_state)
    )
    return dataclasses.replace(found, r2=tuple(scores.tolist()))


def probe_encoder(encoder: Encoder, data: ProbeData, device: torch.device) -> dict[str, float]:
    """The figures of `probe` by name, for a log. Without quantities (`Y` is 0), they are spread and rank only."""
    found = probe(encoder, data, device)
    health = {"spread": found.spread, "effective_rank": found.effective_rank}
    if not found.r2:
        return health
    varying = {f"probe_r2_{i:02d}": score for i, score in enumerate(found.r2) if not np.isnan(score)}
    return {**health, "probe_r2": found.mean_r2, **varying}

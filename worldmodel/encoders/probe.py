"""What can be read from an encoder's features: a linear probe of what was recorded, and whether features vary at all.

Shapes: `R` frames (rows), `H, W` height and width of a camera's pictures, `Y` quantities to be read.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray

from worldmodel.data.clips import Split
from worldmodel.data.store.reader import TrajectoryStore
from worldmodel.encoders.base import Encoder
from worldmodel.encoders.features import encode_frames
from worldmodel.encoders.jepa.health import effective_rank, linear_probe, spread


@dataclasses.dataclass(frozen=True)
class ProbeData:
    """Frames and what was recorded with them: uint8 `[R, H, W, 3]` and `[R, Y]`, for training and testing the probe."""

    train_pixels: NDArray[np.uint8]
    train_state: NDArray[np.float32]
    test_pixels: NDArray[np.uint8]
    test_state: NDArray[np.float32]


@dataclasses.dataclass(frozen=True)
class Probed:
    """What a probe found.

    Attributes:
        spread: of the layer-normed features around each position's mean; 1: all of them varies, 0: nothing does.
        effective_rank: of the features, from 1 to their width.
        r2: coefficient of determination for every quantity `[Y]`; NaN where it does not vary in the tested frames.
    """

    spread: float
    effective_rank: float
    r2: tuple[float, ...]

    @property
    def mean_r2(self) -> float:
        """Over the quantities that vary; NaN where there are none."""
        varying = [score for score in self.r2 if not np.isnan(score)]
        return float(np.mean(varying)) if varying else float("nan")


def probe_data(
    store: TrajectoryStore, frames: Mapping[str, NDArray[np.uint8]], split: Split, num_frames: int, seed: int
) -> dict[str, ProbeData]:
    """Of every camera frames with what is known of them (proprioception, then a simulator's state), half held out.

    Where nothing is held out, nothing is to be read from the frames: they only show whether features still vary.

    Args:
        store: the recording.
        frames: its pictures by camera, `[R, H, W, 3]`.
        split: episodes to train the probe with, and to test it on.
        num_frames: in all.
        seed: of the choice.
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
    """Encode the frames, and read every quantity off all their tokens by ridge regression."""
    train, test = (
        encode_frames(encoder, pixels, np.arange(len(pixels)), device)
        for pixels in (data.train_pixels, data.test_pixels)
    )
    # Layer-normed like the targets of V-JEPA's loss, so that spread 1 means "all of it varies".
    normed = torch.nn.functional.layer_norm(test, test.shape[-1:])
    found = Probed(spread(normed), effective_rank(normed), ())
    if data.train_state.shape[1] == 0:
        return found
    scores = linear_probe(
        train.flatten(1), torch.from_numpy(data.train_state), test.flatten(1), torch.from_numpy(data.test_state)
    )
    return dataclasses.replace(found, r2=tuple(scores.tolist()))


def probe_encoder(encoder: Encoder, data: ProbeData, device: torch.device) -> dict[str, float]:
    """`probe` as figures for a log, by name. Without a quantity to be read (`Y` is 0), spread and rank only."""
    found = probe(encoder, data, device)
    health = {"spread": found.spread, "effective_rank": found.effective_rank}
    if not found.r2:
        return health
    varying = {f"probe_r2_{i:02d}": score for i, score in enumerate(found.r2) if not np.isnan(score)}
    return {**health, "probe_r2": found.mean_r2, **varying}

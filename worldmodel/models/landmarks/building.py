"""Makes landmarks from a recording, after everything else is frozen.

Shapes: `M` considered frames of the recording, `L` landmarks, `E` edges, `P` proprioception, `H, W` height and width of
a camera's images. Latents of frames are `[M, ...]`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from worldmodel.core.errors import UserError
from worldmodel.core.observation import Observation
from worldmodel.data.clips import episode_starts
from worldmodel.models.contract import Latent, WorldModel
from worldmodel.models.landmarks.graph import Edges
from worldmodel.models.landmarks.landmarks import LandmarkConfig, Landmarks, distances

Progress = Callable[[int, int], None]
_AT_ONCE = 128  # images per batch, which bounds memory
_FAST = 0.9  # quantile of the recorded motions that count as fast


@dataclasses.dataclass(frozen=True)
class Considered:
    """The frames from which landmarks are chosen.

    Attributes:
        rows: their rows in the recording, int64 `[M]`, ascending.
        episode: number of the episode of each, int64 `[M]`.
    """

    rows: NDArray[np.int64]
    episode: NDArray[np.int64]

    @classmethod
    def of(cls, episode_ends: NDArray[np.int64], every: int) -> Considered:
        """Every `every`-th frame of every episode, from its first one on."""
        starts = episode_starts(episode_ends)
        rows = [np.arange(start, end, every) for start, end in zip(starts, episode_ends, strict=True)]
        episode = [np.full(len(part), number) for number, part in enumerate(rows)]
        return cls(np.concatenate(rows), np.concatenate(episode))

    def require(self, config: LandmarkConfig) -> None:
        """Raises UserError if the recording has too few frames or too short episodes for `config`."""
        if config.count > len(self.rows):
            raise UserError(
                f"landmarks.count={config.count}: at most the {len(self.rows)} frames that landmarks.every="
                f"{config.every} leaves are accepted"
            )
        later = config.within // config.every
        if not (self.episode[later:] == self.episode[:-later]).any():
            raise UserError(f"landmarks.within={config.within}: no episode has so many control steps")


def encode(
    model: WorldModel,
    frames: Mapping[str, NDArray[np.uint8]],
    proprio: NDArray[np.float32],
    rows: NDArray[np.int64],
    progress: Progress,
) -> Latent:
    """Latents `[M, ...]` at rest of the frames at `rows [M]`, each as at the start of an episode."""
    parts: list[Latent] = []
    for begin in range(0, len(rows), _AT_ONCE):
        block = rows[begin : begin + _AT_ONCE]
        seen = Observation({camera: np.array(of_camera[block]) for camera, of_camera in frames.items()}, proprio[block])
        with torch.no_grad():
            parts.append(model.observe(None, seen, None))
        progress(begin + len(block), len(rows))
    return type(parts[0]).cat(parts)


@dataclasses.dataclass(frozen=True)
class Cover:
    """Landmarks that cover all frames.

    Attributes:
        chosen: which frames are landmarks, int64 `[L]`.
        nearest: number of the nearest landmark of every frame, int64 `[M]`.
        distance: the distance to it, `[M]`.
    """

    chosen: Tensor
    nearest: Tensor
    distance: Tensor


def cover(model: WorldModel, latents: Latent, count: int, seed: int, progress: Progress) -> Cover:
    """`count` of the frames with `latents [M, ...]`, each the farthest from those before (farthest-point sampling)."""
    frames = len(next(iter(latents.tensors().values())))
    first = int(torch.randint(frames, (1,), generator=torch.Generator().manual_seed(seed)))
    chosen = [first]
    distance, nearest = distances(model, latents, latents.rows(slice(first, first + 1))), torch.zeros(frames).long()
    while len(chosen) < count:
        farthest = int(distance.argmax())
        to_it = distances(model, latents, latents.rows(slice(farthest, farthest + 1)))
        nearest = torch.where(to_it < distance, len(chosen), nearest)
        distance = torch.minimum(distance, to_it)
        chosen.append(farthest)
        progress(len(chosen), count)
    return Cover(torch.tensor(chosen), nearest, distance)


def pace_of(model: WorldModel, latents: Latent, considered: Considered, config: LandmarkConfig) -> float:
    """Control steps that fast recorded motions of `within` steps take for a unit of distance."""
    later = config.within // config.every
    same = torch.from_numpy(considered.episode[later:] == considered.episode[:-later])
    before = latents.rows(slice(0, len(same))).rows(same)
    after = latents.rows(slice(later, later + len(same))).rows(same)
    with torch.no_grad():
        moved = model.distance(before, after).float().cpu()
    return later * config.every / max(float(moved.quantile(_FAST)), 1e-6)


def connect(
    model: WorldModel, latents: Latent, found: Cover, considered: Considered, config: LandmarkConfig, pace: float
) -> Edges:
    """All edges between the landmarks, whose own latents are `latents [L, ...]`.

    An edge is as long as the recorded way from a frame near its start to a frame near its end. The distances of these
    frames to the landmarks have to be travelled too, at `detour` times the pace. Neighbours are connected straight.
    """
    per_unit = config.detour * pace
    parts = []
    for later in range(1, config.within // config.every + 1):
        same = torch.from_numpy(considered.episode[later:] == considered.episode[:-later])
        ends = found.distance[:-later] + found.distance[later:]
        steps = later * config.every + per_unit * ends
        parts.append(Edges(found.nearest[:-later][same], found.nearest[later:][same], steps[same]))
    for number in range(config.count):
        to_it = distances(model, latents, latents.rows(slice(number, number + 1)))
        near = to_it.topk(min(config.neighbours + 1, config.count), largest=False).indices
        parts.append(Edges(near, torch.full_like(near, number), 1 + per_unit * to_it[near]))
    return Edges.cat(parts).shortest(config.count)


def build(
    model: WorldModel, latents: Latent, considered: Considered, config: LandmarkConfig, seed: int, progress: Progress
) -> tuple[Landmarks, Tensor]:
    """The landmarks, and which of the frames they are `[L]`."""
    found = cover(model, latents, config.count, seed, progress)
    own = latents.rows(found.chosen)
    pace = pace_of(model, latents, considered, config)
    edges = connect(model, own, found, considered, config, pace)
    return Landmarks(model, config, own, edges, pace), found.chosen

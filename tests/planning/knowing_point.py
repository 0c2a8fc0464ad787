"""The point mass with a model that knows how sure it is and what images look like, and failures of its world."""

from __future__ import annotations

import collections
import dataclasses
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor

from planning.evaluation.manifest import Pair
from tests.planning.point_mass import PointEnv, PointLatent, PointModel
from worldmodel.core.goal import Goal
from worldmodel.core.observation import Observation

KINDS: Final = ("pushed_away", "blocked", "colours", "frozen", "pose", "slippery", "delayed")
# A pixel is 0.02 m, and the distance is squared: what rounding alone makes of a step of 0.1 m.
_EXPECTED: Final = 0.002


@dataclasses.dataclass(frozen=True)
class KnownLatent(PointLatent):
    """With the readings `[B, 2]`, and how much the pixels of the image differ among each other `[B]`."""

    felt: Tensor | None = None
    texture: Tensor | None = None


@dataclasses.dataclass
class KnowingPoint(PointModel):
    """An image of the task has one colour, without any blue."""

    has_confidence: bool = True
    has_novelty: bool = True
    with_confidence: bool = False
    novelty_limit: float = 1.0

    def observe(self, previous: Any, observation: Observation, action: Tensor | None) -> KnownLatent:
        seen = super().observe(previous, observation, action)
        felt = torch.as_tensor(observation.proprio)
        return KnownLatent(seen.position, seen.frames, seen.action, felt, _texture(observation.images["camera"]))

    def goal(self, goal: Goal) -> KnownLatent:
        wanted, images = super().goal(goal), getattr(goal, "images", None)
        texture = torch.zeros(1) if images is None else _texture(images["camera"][None])
        return KnownLatent(wanted.position, wanted.frames, wanted.action, None, texture)

    def proprioception(self, latents: PointLatent) -> Tensor:
        felt = getattr(latents, "felt", None)
        return latents.position if felt is None else felt

    def novelty(self, latents: KnownLatent) -> Tensor:
        assert latents.texture is not None
        return latents.texture

    def error_bound(self, latents: PointLatent, level: float = 0.9) -> Tensor:
        assert self.with_confidence, "these latents know nothing of confidence"
        return torch.full(latents.position.shape[:-1], _EXPECTED)


def _texture(pixels: Any) -> Tensor:
    image = torch.as_tensor(pixels).float()
    return image.flatten(1, 2).std(1).mean(1) + image[..., 2].mean((1, 2)) / 16


class FailingPoint(PointEnv):
    """A world in which `kind` happens from control step `since` on."""

    def __init__(self, kind: str | None = None, since: int = 3) -> None:
        super().__init__()
        self._kind, self._since, self._at = kind, since, 0

    def reset(self, **options: Any) -> Any:
        self._at, self._queue, self._kept = 0, collections.deque[Any](), None
        return super().reset(**options)

    def step(self, action: Any) -> Any:
        self._at += 1
        self._queue.append(np.asarray(action, np.float64))
        if self._fails("blocked"):
            action = np.zeros(2)
        if self._fails("delayed"):
            action = self._queue[max(0, len(self._queue) - 4)]
        if self._fails("slippery"):
            self._state = self._state + 0.1 * np.asarray(action, np.float64)
        if self._fails("pushed_away") and self._at == self._since:
            self._state = self._state - np.sign(self._state) * 0.4
        return super().step(action)

    def observe(self) -> Any:
        seen = super().observe()
        image = seen["images"]["camera"]
        if self._fails("frozen") and self._kept is not None:
            image = self._kept
        self._kept = image
        if self._fails("colours"):
            image = image[..., ::-1].copy()
        if self._fails("pose"):
            image = np.clip(image + np.array([20, 0, 0]), 0, 255).astype(np.uint8)
        return {**seen, "images": {"camera": image}}

    def _fails(self, kind: str) -> bool:
        return self._kind == kind and self._at >= self._since


def draw_pairs(count: int, seed: int) -> list[Pair]:
    """Starts and goals that are at least a metre apart."""
    rng, pairs = np.random.default_rng(seed), list[Pair]()
    while len(pairs) < count:
        start, goal = rng.uniform(-1.2, 1.2, (2, 2))
        if np.linalg.norm(start - goal) > 1:
            pairs.append(Pair(len(pairs), tuple(start.tolist()), tuple(goal.tolist())))
    return pairs

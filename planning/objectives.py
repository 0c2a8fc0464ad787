"""The objective of a plan, which reduces the distances to the goal along an imagined future to one cost."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import math
from collections.abc import Iterator, Sequence
from typing import Any, Final

import torch
from torch import Tensor

from planning.types import Model
from worldmodel.core.errors import UserError

_STEPS: Final = ("confident", "discounted", "mean", "min", "mix", "terminal")
_CAUTIOUS_LEVEL: Final = 0.9


@dataclasses.dataclass(frozen=True)
class ObjectiveConfig:
    """Options of the objective.

    Attributes:
        steps: how the distances `d_1 ... d_H` become one cost:
            `terminal`: `d_H`; `mean`: their mean; `discounted`: their mean, weighted with `discount ** h`;
            `min`: the smallest; `mix`: `d_H + mean_weight * mean`, which prefers to arrive early;
            `confident`: their mean, weighted with `discount ** h` and the model's confidence in each step.
        discount: per-step factor of `discounted` and `confident`.
        mean_weight: weight of the mean in `mix`.
        caution: weight of the model's error. The bound that nine of ten errors do not exceed is added to every
            distance, times this weight, so that a plan counts by how far from the goal it may end.
    """

    steps: str = "mix"
    discount: float = 0.95
    mean_weight: float = 0.1
    caution: float = 0.0

    def __post_init__(self) -> None:
        if self.steps not in _STEPS:
            raise ValueError(f"steps '{self.steps}' is unknown: choose from {', '.join(_STEPS)}")
        if not 0 < self.discount <= 1:
            raise ValueError(f"discount {self.discount} must be above 0 and at most 1")
        if self.mean_weight < 0:
            raise ValueError(f"mean_weight {self.mean_weight} must not be negative")
        if not 0 <= self.caution < math.inf:
            raise ValueError(f"caution {self.caution} must be finite and not negative")

    @property
    def needs_confidence(self) -> bool:
        """Whether it needs a model that estimates its confidence."""
        return self.caution > 0 or self.steps == "confident"

    def cost(self, model: Any, latents: Any, goal: Any) -> Tensor:
        """Cost `[B, S]` of imagined latents `[B, S, H, ...]` toward goals `[B, ...]`."""
        distance: Tensor = model.distance(latents, goal)
        if self.caution:
            distance = distance + self.caution * model.error_bound(latents, _CAUTIOUS_LEVEL)
        if self.steps != "confident":
            return self.reduce(distance)
        weight = _step_weights(self, distance.shape[-1]).to(distance) * model.confidence(latents)
        # Without any confidence, every step counts alike. Doubt must not make a plan cheap.
        weight = weight + torch.finfo(weight.dtype).tiny
        return (distance * weight).sum(-1) / weight.sum(-1)

    def reduce(self, distance: Tensor) -> Tensor:
        """Cost `[B, S]` of the distances `[B, S, H]`."""
        if self.steps == "min":
            return distance.amin(-1)
        return distance @ _step_weights(self, distance.shape[-1]).to(distance)

    def step_weights(self, horizon: int) -> Tensor:
        """Weight `[H]` of every step. `min` has no weights, and `confident` multiplies them with confidences."""
        return _step_weights(self, horizon).clone()


@functools.lru_cache(maxsize=16)  # needed in every evaluation of every row
def _step_weights(config: ObjectiveConfig, horizon: int) -> Tensor:
    mean = torch.full((horizon,), 1 / horizon)
    terminal = torch.zeros(horizon)
    terminal[-1] = 1
    discounted = config.discount ** torch.arange(horizon)
    return {
        "terminal": terminal,
        "mean": mean,
        "discounted": discounted / discounted.sum(),
        "confident": discounted / discounted.sum(),
        "mix": terminal + config.mean_weight * mean,
    }[config.steps]


@dataclasses.dataclass(frozen=True)
class LatentGoalCost:
    """`cost(a) = reduce_h distance(imagine(latent, a)_h, goal)`, a `CostFn`.

    One environment is imagined at a time. A matrix product may round differently if it has more rows, and a search
    amplifies small differences. Plans differed by up to half of the action range between batches of one and of three
    environments. Imagined alone, an environment has the same plan in every batch. On a CPU, this costs 3 % of the
    rate in fp32 and a third in bf16 (192 samples, 20 environments, one thread).

    Attributes:
        model: the model that imagines.
        latents: current latent states, `[1, ...]` each, one per row.
        goals: goals as `model.goal` returns them, `[1, ...]` each, one per row.
        objective: reduces the distances of all steps to a cost.
    """

    model: Model
    latents: Sequence[Any]
    goals: Sequence[Any]
    objective: ObjectiveConfig

    def __call__(self, actions: Tensor) -> Tensor:
        """Cost `[B, S]` of `actions [B, S, H, A]`."""
        with imagining_with_confidence(self.model) if self.objective.needs_confidence else contextlib.nullcontext():
            rows = zip(self.latents, actions.split(1), self.goals, strict=True)
            return torch.cat(
                [self.objective.cost(self.model, self.model.imagine(latent, a), goal) for latent, a, goal in rows]
            )


@contextlib.contextmanager
def imagining_with_confidence(model: Any) -> Iterator[bool]:
    """In here, `model` imagines with confidence if it can, which is what is yielded."""
    can = bool(getattr(model, "has_confidence", False))
    before = getattr(model, "with_confidence", False)
    if can:
        model.with_confidence = True
    try:
        yield can
    finally:
        if can:
            model.with_confidence = before


def require_confidence(model: Any, objective: ObjectiveConfig) -> None:
    """Raises UserError if the objective needs the model's confidence, and `model` does not estimate it."""
    if not objective.needs_confidence or getattr(model, "has_confidence", False):
        return
    wanted = "steps=confident" if objective.steps == "confident" else f"caution={objective.caution:g}"
    raise UserError(
        f"planner.objective.{wanted} needs a model that estimates its confidence, and this one does not: expected "
        "one of family=keypoint, trained with predictor.heads above 1"
    )

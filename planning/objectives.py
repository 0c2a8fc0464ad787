"""The objective of a plan, which reduces the distances to the goal along an imagined future to one cost."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from planning.types import Model


@dataclasses.dataclass(frozen=True)
class ObjectiveConfig:
    """Options of the objective.

    Attributes:
        steps: how the distances `d_1 ... d_H` become one cost:
            `terminal`: `d_H`; `mean`: their mean; `discounted`: their mean, weighted with `discount ** h`;
            `min`: the smallest; `mix`: `d_H + mean_weight * mean`, which prefers to arrive early.
        discount: per-step factor of `discounted`.
        mean_weight: weight of the mean in `mix`.
    """

    steps: str = "mix"
    discount: float = 0.95
    mean_weight: float = 0.1

    def __post_init__(self) -> None:
        if self.steps not in ("discounted", "mean", "min", "mix", "terminal"):
            raise ValueError(f"steps '{self.steps}' is unknown: choose from discounted, mean, min, mix, terminal")
        if not 0 < self.discount <= 1:
            raise ValueError(f"discount {self.discount} must be above 0 and at most 1")
        if self.mean_weight < 0:
            raise ValueError(f"mean_weight {self.mean_weight} must not be negative")

    def reduce(self, distance: Tensor) -> Tensor:
        """Cost `[B, S]` of the distances `[B, S, H]`."""
        if self.steps == "min":
            return distance.amin(-1)
        return distance @ _step_weights(self, distance.shape[-1]).to(distance)

    def step_weights(self, horizon: int) -> Tensor:
        """Weight `[H]` of every step. `min` has no weights."""
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
        rows = zip(self.latents, actions.split(1), self.goals, strict=True)
        return torch.cat(
            [
                self.objective.reduce(self.model.distance(self.model.imagine(latent, a), goal))
                for latent, a, goal in rows
            ]
        )

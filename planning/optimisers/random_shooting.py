"""Random shooting: the planner that any other has to beat."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from planning.actions.knots import from_knots, shift, to_knots
from planning.actions.safety import finite_or_worst
from planning.types import Bounds, CostFn, Optimiser, Plan


@dataclasses.dataclass(frozen=True)
class RandomShootingConfig:
    """Options of `RandomShooting`.

    Attributes:
        samples: action sequences drawn per plan, S.
        block: control steps that share one action in the plan (action repeat).
    """

    samples: int = 512
    block: int = 1

    def __post_init__(self) -> None:
        if self.samples < 2 or self.block < 1:
            raise ValueError(f"samples {self.samples}, block {self.block}: at least 2 and 1 are accepted")


class RandomShooting(Optimiser):
    """The best of `S` sequences drawn uniformly within bounds, the warm start among them.

    `argmin_s cost(a_s), a_s ~ U(low, high)` (Nagabandi et al. 2018, arXiv 1708.02596). Rows share the draws.
    """

    def __init__(self, config: RandomShootingConfig) -> None:
        self.config = config

    @torch.no_grad()
    def plan(
        self, cost_fn: CostFn, warm_start: Tensor, bounds: Bounds, generator: torch.Generator, elapsed: int = 0
    ) -> Plan:
        """See `Optimiser.plan`. A row without a finite cost keeps its warm start and reports an infinite cost."""
        horizon = warm_start.shape[1]
        start = to_knots(bounds.clip(warm_start), self.config.block, elapsed)
        shape = (self.config.samples - 1, *start.shape[1:])
        share = torch.rand(shape, generator=generator, device=generator.device).to(start)
        drawn = bounds.clip(bounds.low + share * (bounds.high - bounds.low))
        knots = torch.cat([start[:, None], drawn.expand(len(start), -1, -1, -1)], dim=1)
        candidates = from_knots(knots, self.config.block, horizon, elapsed)
        cost, index = finite_or_worst(cost_fn(candidates)).min(dim=1)
        actions = candidates[torch.arange(len(start), device=index.device), torch.where(cost.isinf(), 0, index)]
        return Plan(actions, cost, shift(actions, 1, bounds))

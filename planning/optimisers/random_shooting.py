"""Random shooting, the baseline of optimisers."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from planning.actions.limits import ActionLimits
from planning.optimisers.base import OptimiserEntry, SamplingConfig, SamplingOptimiser, Search


@dataclasses.dataclass(frozen=True)
class RandomShootingConfig:
    """Options of `RandomShooting`.

    Attributes:
        samples: action sequences drawn per plan, S.
        action_repeat: control steps that share one action in the plan.
    """

    samples: int = 512
    action_repeat: int = 1

    def __post_init__(self) -> None:
        self.sampling()

    def sampling(self) -> SamplingConfig:
        """Options for a single iteration that returns its best sample."""
        return SamplingConfig(self.samples, iterations=1, result="best", action_repeat=self.action_repeat)


class RandomShooting(SamplingOptimiser):
    """The best of `S` sequences drawn uniformly within bounds, the warm start among them.

    `argmin_s cost(a_s), a_s ~ U(low, high)` (Nagabandi et al. 2018, arXiv 1708.02596). Rows share the draws.
    """

    def __init__(self, config: RandomShootingConfig) -> None:
        super().__init__(config.sampling())

    def draw(self, search: Search, limits: ActionLimits, generator: torch.Generator) -> Tensor:
        rows, knots, size = search.mean.shape
        share = torch.rand(self.config.samples - 1, knots, size, generator=generator, device=generator.device)
        return (limits.low + share.to(search.mean) * limits.span).expand(rows, -1, -1, -1)

    def refit(self, search: Search, knots: Tensor, cost: Tensor, limits: ActionLimits) -> Search:
        """Returns the distribution unchanged, since there is no second iteration."""
        return search


ENTRY = OptimiserEntry(RandomShooting, RandomShootingConfig)

"""Random shooting, the baseline of all optimisers."""

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
        block: control steps that share one action in the plan (action repeat).
    """

    samples: int = 512
    block: int = 1

    def __post_init__(self) -> None:
        self.sampling()

    def sampling(self) -> SamplingConfig:
        """A single round, of which the best sample is taken."""
        return SamplingConfig(self.samples, iterations=1, result="best", block=self.block)


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
        """There is no second round."""
        return search


ENTRY = OptimiserEntry(RandomShooting, RandomShootingConfig)

"""`planner=mppi`: a sampling planner in two methods."""

import dataclasses

import torch
from torch import Tensor

from planning.actions.limits import ActionLimits
from planning.optimisers.base import OptimiserEntry, SamplingConfig, SamplingOptimiser, Search


@dataclasses.dataclass(frozen=True)
class MPPIConfig(SamplingConfig):
    """Options of `MPPI`, beside those of every sampling planner.

    Attributes:
        temperature: share of the costs' spread that a candidate may be worse than the best and still count.
    """

    temperature: float = 0.1


class MPPI(SamplingOptimiser):
    """Every candidate counts, the better the more (Williams et al. 2017, arXiv 1707.02342).

    `mean <- sum_s w_s a_s` with `w_s ~ exp(-(J_s - min J) / temperature)`.
    """

    config: MPPIConfig

    def draw(self, search: Search, limits: ActionLimits, generator: torch.Generator) -> Tensor:
        noise = torch.randn(self.config.samples - 1, *search.mean.shape[1:], generator=generator)
        return search.mean[:, None] + search.std[:, None] * noise.to(search.mean)

    def refit(self, search: Search, knots: Tensor, cost: Tensor, limits: ActionLimits) -> Search:
        finite = torch.where(cost.isfinite(), cost, cost.amin(1, keepdim=True))
        spread = finite.std(1, keepdim=True).clamp(min=1e-9)
        weight = torch.softmax(-cost / (self.config.temperature * spread), dim=1)
        mean = torch.einsum("bs,bska->bka", weight, knots)
        # Where nothing is known to be better, it stays where it was.
        return Search(torch.where(cost.isfinite().any(1)[:, None, None], mean, search.mean), search.std)


ENTRY = OptimiserEntry(MPPI, MPPIConfig)

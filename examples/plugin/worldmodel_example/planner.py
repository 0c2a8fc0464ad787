"""`planner=averaging`: a sampling planner in two methods."""

import dataclasses

import torch
from torch import Tensor

from planning.actions.limits import ActionLimits
from planning.optimisers.base import OptimiserEntry, SamplingConfig, SamplingOptimiser, Search


@dataclasses.dataclass(frozen=True)
class AveragingConfig(SamplingConfig):
    """Options of `Averaging`, beside those of every sampling planner.

    Attributes:
        temperature: excess cost over the best at which a weight falls to 1/e, as a share of the costs' spread.
    """

    temperature: float = 0.1


class Averaging(SamplingOptimiser):
    """Averages all candidates, with weights that fall with their costs, as MPPI does.

    See Williams et al. 2017, arXiv 1707.02342. `planner=mppi` is the project's own version.

    `mean <- sum_s w_s a_s` with `w_s ~ exp(-(J_s - min J) / temperature)`.
    """

    config: AveragingConfig

    def draw(self, search: Search, limits: ActionLimits, generator: torch.Generator) -> Tensor:
        noise = torch.randn(self.config.samples - 1, *search.mean.shape[1:], generator=generator)
        return search.mean[:, None] + search.std[:, None] * noise.to(search.mean)

    def refit(self, search: Search, knots: Tensor, cost: Tensor, limits: ActionLimits) -> Search:
        finite = torch.where(cost.isfinite(), cost, cost.amin(1, keepdim=True))
        spread = finite.std(1, keepdim=True).clamp(min=1e-9)
        weight = torch.softmax(-cost / (self.config.temperature * spread), dim=1)
        mean = torch.einsum("bs,bska->bka", weight, knots)
        # Without a finite cost, the mean stays as it was.
        return Search(torch.where(cost.isfinite().any(1)[:, None, None], mean, search.mean), search.std)


ENTRY = OptimiserEntry(Averaging, AveragingConfig)

"""Predictive sampling, the simplest planner that improves its last plan."""

from __future__ import annotations

import dataclasses
import math

import torch
from torch import Tensor

from planning.actions.limits import ActionLimits
from planning.optimisers.base import OptimiserEntry, SamplingConfig, SamplingOptimiser, Search
from planning.types import Problem
from worldmodel.core.tensor_record import TensorRecord


@dataclasses.dataclass(frozen=True)
class PredictiveSamplingConfig:
    """Options of `PredictiveSampling`.

    Attributes:
        samples: action sequences evaluated per plan, S. The rest of the last plan is one of them.
        std: standard deviation of the noise, as a fraction of half the action range.
        action_repeat: control steps that share one action in the plan.
        narrow_share: share of the drawn samples that lie nearer to the last plan, from 0 to 1.
        narrow_scale: their distance to it, as a fraction of what was drawn.
    """

    samples: int = 192
    std: float = 0.5
    action_repeat: int = 4
    narrow_share: float = 0.0
    narrow_scale: float = 0.25

    def __post_init__(self) -> None:
        self.sampling()
        if not 0 < self.std < math.inf:
            raise ValueError(f"std {self.std} must be finite and above 0")

    def sampling(self) -> SamplingConfig:
        """Options for a single iteration that returns its best sample."""
        narrow = (self.narrow_share, self.narrow_scale)
        return SamplingConfig(self.samples, 1, "best", self.action_repeat, *narrow)


class PredictiveSampling(SamplingOptimiser):
    """The best of the last plan and of copies of it with Gaussian noise (Howell et al. 2022, arXiv 2212.00541).

    `argmin_s cost(clip(plan + std * noise_s))`. One iteration is made per control step, so the search goes on over
    time. Knots are held, which is the paper's spline of order zero.
    """

    def __init__(self, config: PredictiveSamplingConfig) -> None:
        super().__init__(config.sampling())
        self._std = config.std

    def begin(self, mean: Tensor, problem: Problem, memory: TensorRecord | None) -> Search:
        return Search(mean, (self._std * problem.limits.span / 2).expand_as(mean))

    def draw(self, search: Search, limits: ActionLimits, generator: torch.Generator) -> Tensor:
        shape = (self.config.samples - 1, *search.mean.shape[1:])
        noise = torch.randn(shape, generator=generator, device=generator.device)
        return search.mean[:, None] + search.std[:, None] * noise.to(search.mean)

    def refit(self, search: Search, knots: Tensor, cost: Tensor, limits: ActionLimits) -> Search:
        """Returns the distribution unchanged, since there is no second iteration."""
        return search


ENTRY = OptimiserEntry(PredictiveSampling, PredictiveSamplingConfig)

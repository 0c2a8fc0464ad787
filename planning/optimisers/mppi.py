"""Model predictive path integral control, MPPI."""

from __future__ import annotations

import dataclasses
import math

import torch
from torch import Tensor

from planning.actions.limits import ActionLimits
from planning.actions.noise import coloured_noise
from planning.optimisers.base import OptimiserEntry, SamplingConfig, SamplingOptimiser, Search
from planning.types import Problem
from worldmodel.core.tensor_record import TensorRecord


@dataclasses.dataclass(frozen=True)
class MPPIConfig(SamplingConfig):
    """Options of `MPPI`, beside those of `SamplingConfig`.

    Attributes:
        temperature: excess cost over the best sample at which a weight falls to 1/e, as a fraction of the standard
            deviation of the costs.
        std: standard deviation of the noise in the first iteration, as a fraction of half the action range.
        std_decay: factor on the standard deviation from each iteration to the next, above 0 and at most 1.
        colour: exponent of the noise's spectrum along the horizon. 0 is white noise.
    """

    temperature: float = 0.1
    std: float = 0.5
    std_decay: float = 0.7
    colour: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not (0 < self.temperature < math.inf and 0 < self.std < math.inf and 0 < self.std_decay <= 1):
            raise ValueError(
                f"temperature {self.temperature}, std {self.std}, std_decay {self.std_decay}: finite numbers above 0 "
                "are accepted, the last at most 1"
            )
        if not 0 <= self.colour < math.inf:
            raise ValueError(f"colour {self.colour} must be finite and not negative")


class MPPI(SamplingOptimiser):
    """Moves the mean to the average of all samples, weighted by cost (Williams et al. 2017, arXiv 1707.02342).

    `mean <- sum_s w_s a_s` with `w_s ~ exp(-(J_s - min J) / (temperature * std J))`. The paper has a fixed temperature
    in the unit of the cost. Here it is relative to the standard deviation of the costs, so the unit does not matter.
    The paper's additional cost of control is left out, since the limits are applied to every sample. With several
    iterations the standard deviation falls by `std_decay`.
    """

    config: MPPIConfig

    def __init__(self, config: MPPIConfig) -> None:
        super().__init__(config)

    def begin(self, mean: Tensor, problem: Problem, memory: TensorRecord | None) -> Search:
        return Search(mean, (self.config.std * problem.limits.span / 2).expand_as(mean))

    def draw(self, search: Search, limits: ActionLimits, generator: torch.Generator) -> Tensor:
        _, knots, size = search.mean.shape
        noise = coloured_noise(self.config.samples - 1, knots, size, self.config.colour, generator)
        return search.mean[:, None] + search.std[:, None] * noise.to(search.mean)

    def refit(self, search: Search, knots: Tensor, cost: Tensor, limits: ActionLimits) -> Search:
        weight = path_weights(cost, self.config.temperature)
        any_finite = cost.isfinite().any(1)[:, None, None]
        # Summed row by row, since a matrix product of several rows may round differently.
        mean = torch.where(any_finite, (weight[:, :, None, None] * knots).sum(1), search.mean)
        return Search(mean, self.config.std_decay * search.std)


def path_weights(cost: Tensor, temperature: float) -> Tensor:
    """Weights `[B, S]` of samples with costs `[B, S]`, as `MPPI` has them. A row sums to 1.

    Samples whose cost is not finite have weight zero. A row without a finite cost is all zero.
    """
    finite, tiny = cost.isfinite(), torch.finfo(cost.dtype).tiny
    # Halved before subtraction and scaled to 1, since differences and squares of finite costs need not be finite.
    halved = torch.where(finite, cost / 2, torch.inf)
    above_best = torch.where(finite, halved - halved.amin(1, keepdim=True), 0.0)
    scaled = above_best / above_best.amax(1, keepdim=True).clamp(min=tiny)
    count = finite.sum(1, keepdim=True).clamp(min=1)
    centred = torch.where(finite, scaled - scaled.sum(1, keepdim=True) / count, 0.0)
    spread = (centred.square().sum(1, keepdim=True) / count).sqrt()
    exponent = torch.where(spread > 0, scaled / (temperature * spread).clamp(min=tiny), 0.0)
    weight = torch.where(finite, torch.exp(-exponent), 0.0)
    return weight / weight.sum(1, keepdim=True).clamp(min=tiny)


ENTRY = OptimiserEntry(MPPI, MPPIConfig)

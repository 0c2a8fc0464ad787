"""The cross-entropy method."""

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
class CEMConfig(SamplingConfig):
    """Options of `CEM`, beside those of `SamplingConfig`.

    Attributes:
        elites: number of best samples that the distribution is refitted to.
        temperature: excess cost over the best elite at which an elite's weight in the new mean falls to 1/e, as a
            fraction of the difference between worst and best elite. If it is infinite, all elites have the same weight.
            A single sample that found the way to the block is then averaged with many that missed it.
        initial_std: standard deviation at the start of every plan, as a fraction of half the action range.
        min_std: smallest standard deviation, as the same fraction. It keeps the search alive.
        momentum: share of the old mean and standard deviation that a refit keeps.
        colour: exponent of the noise's spectrum along the horizon. 0 is white noise.
    """

    elites: int = 16
    temperature: float = 0.1
    initial_std: float = 1.0
    min_std: float = 0.05
    momentum: float = 0.1
    colour: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        # If every sample were an elite, the cost would have no effect.
        if not 1 <= self.elites < self.samples:
            raise ValueError(f"elites {self.elites} must be at least 1 and below samples {self.samples}")
        if not self.temperature > 0:
            raise ValueError(f"temperature {self.temperature} must be positive (inf: all elites alike)")
        if not 0 <= self.momentum < 1:
            raise ValueError(f"momentum {self.momentum} must be at least 0 and below 1")
        spreads = (self.initial_std, self.min_std, self.colour)
        if not (self.initial_std > 0 and min(spreads) >= 0 and all(map(math.isfinite, spreads))):
            raise ValueError(
                f"initial_std {self.initial_std} must be positive, min_std {self.min_std} and colour {self.colour} "
                "not negative, all finite"
            )


class CEM(SamplingOptimiser):
    """Minimises the expected cost of a Gaussian over action sequences by refitting it to its own best samples.

    Each iteration draws `a_s = clip(mean + std * noise_s)`, sorts by cost, and moves toward the elites' moments:
    `mean <- m mean + (1 - m) mean_elites`, `std <- max(m std + (1 - m) std_elites, min_std)`. The present mean is one
    of the candidates (Rubinstein 1999, as used by V-JEPA 2-AC, arXiv 2506.09985). With a finite temperature the
    elites' mean is weighted by cost, as in MPPI (Williams et al. 2015, arXiv 1509.01149) and TD-MPC (arXiv 2203.04955).
    Their standard deviation about that mean is not: one elite with most of the weight would end the search.

    A sample whose cost is not finite is never an elite. A binary dimension is searched like any other. Its command is
    the value on the same side of the middle.
    """

    config: CEMConfig

    def __init__(self, config: CEMConfig) -> None:
        super().__init__(config)

    def begin(self, mean: Tensor, problem: Problem, memory: TensorRecord | None) -> Search:
        return Search(mean, (self.config.initial_std * problem.limits.span / 2).expand_as(mean))

    def draw(self, search: Search, limits: ActionLimits, generator: torch.Generator) -> Tensor:
        _, knots, size = search.mean.shape
        noise = coloured_noise(self.config.samples - 1, knots, size, self.config.colour, generator)
        return search.mean[:, None] + search.std[:, None] * noise.to(search.mean)

    def refit(self, search: Search, knots: Tensor, cost: Tensor, limits: ActionLimits) -> Search:
        """Moments of the elites whose cost is finite, with momentum."""
        cost, elite = cost.topk(self.config.elites, dim=1, largest=False)
        elites = knots.gather(1, elite[:, :, None, None].expand(-1, -1, *search.mean.shape[1:]))
        by_cost = elite_weights(cost, self.config.temperature)[:, :, None, None]
        alike = elite_weights(cost, math.inf)[:, :, None, None]
        elite_mean = (by_cost * elites).sum(1)
        elite_std = (alike * (elites - elite_mean[:, None]) ** 2).sum(1).sqrt()
        keep, any_finite = self.config.momentum, cost.isfinite().any(1)[:, None, None]
        mean = torch.where(any_finite, keep * search.mean + (1 - keep) * elite_mean, search.mean)
        std = torch.where(any_finite, keep * search.std + (1 - keep) * elite_std, search.std)
        return Search(mean, torch.maximum(std, self.config.min_std * limits.span / 2))


def elite_weights(cost: Tensor, temperature: float) -> Tensor:
    """Weights `[B, E]` of the elites in the new mean, from their costs `[B, E]` in ascending order. A row sums to 1.

    They are proportional to `exp(-(cost - best) / (temperature * (worst - best)))`, so the unit of cost does not
    matter. Elites whose cost is not finite have weight zero. A row without a finite cost is all zero.
    """
    finite, tiny = cost.isfinite(), torch.finfo(cost.dtype).tiny
    # Halved before subtraction, since the difference of two finite costs need not be finite.
    above_best = torch.where(finite, cost / 2 - cost[:, :1] / 2, 0.0)
    spread = above_best.amax(1, keepdim=True)
    exponent = torch.where(spread > 0, above_best / (temperature * spread).clamp(min=tiny), 0.0)
    weight = torch.where(finite, torch.exp(-exponent), 0.0)
    return weight / weight.sum(1, keepdim=True).clamp(min=tiny)


ENTRY = OptimiserEntry(CEM, CEMConfig)

"""The cross-entropy method."""

from __future__ import annotations

import dataclasses
import functools
import math

import torch
from torch import Tensor

from planning.actions.knots import from_knots, shift, to_knots
from planning.actions.noise import coloured_noise
from planning.actions.safety import finite_or_worst
from planning.types import Bounds, CostFn, Optimiser, Plan


@dataclasses.dataclass(frozen=True)
class CEMConfig:
    """Options of `CEM`.

    Attributes:
        samples: action sequences drawn per iteration, S.
        iterations: rounds of sampling and refitting.
        elites: how many of the best samples the distribution is refitted to.
        temperature: how far the cost of an elite, as a fraction of the spread between the best and the worst elite,
            may lie above the best before its say in the new mean falls to 1/e. Infinite: all elites have the same say,
            which washes out the one sample that found the way to the block among many that missed it.
        initial_std: standard deviation at the start of every plan, as a fraction of half the action range.
        min_std: smallest standard deviation, likewise; keeps the search alive.
        momentum: share of the old mean and standard deviation that a refit keeps.
        result: `mean` returns the refitted mean, `best` the best sample seen. The best sample overfits the model.
        block: control steps that share one action in the plan (action repeat).
        colour: exponent of the noise's spectrum along the horizon; 0 is white.
    """

    samples: int = 192
    iterations: int = 4
    elites: int = 16
    temperature: float = 0.1
    initial_std: float = 1.0
    min_std: float = 0.05
    momentum: float = 0.1
    result: str = "mean"
    block: int = 4
    colour: float = 0.0

    def __post_init__(self) -> None:
        if self.samples < 2 or self.iterations < 1 or self.block < 1:
            raise ValueError(
                f"samples {self.samples}, iterations {self.iterations}, block {self.block}: "
                "at least 2, 1 and 1 are accepted"
            )
        # With every sample an elite, the cost would have no say.
        if not 1 <= self.elites < self.samples:
            raise ValueError(f"elites {self.elites} must be at least 1 and below samples {self.samples}")
        if not self.temperature > 0:
            raise ValueError(f"temperature {self.temperature} must be positive (inf: all elites alike)")
        if not 0 <= self.momentum < 1:
            raise ValueError(f"momentum {self.momentum} must be at least 0 and below 1")
        if self.initial_std <= 0 or self.min_std < 0 or self.colour < 0:
            raise ValueError(
                f"initial_std {self.initial_std} must be positive, min_std {self.min_std} and colour {self.colour} "
                "not negative"
            )
        if self.result not in ("mean", "best"):
            raise ValueError(f"result '{self.result}' is unknown: choose from best, mean")


class CEM(Optimiser):
    """Minimises the expected cost of a Gaussian over action sequences by refitting it to its own best samples.

    Each iteration draws `a_s = clip(mean + std * noise_s)`, sorts by cost, and moves toward the elites' moments:
    `mean <- m mean + (1 - m) mean_elites`, `std <- max(m std + (1 - m) std_elites, min_std)`. The present mean is one
    of the candidates. Rubinstein (1999); used so by V-JEPA 2-AC (arXiv 2506.09985). With a finite temperature the
    elites' mean is weighted by cost, as in MPPI (Williams et al. 2015, arXiv 1509.01149) and TD-MPC (arXiv 2203.04955).
    Their standard deviation about that mean is not: one elite with most of the weight would end the search.

    All rows of a batch share the noise, so a row's plan depends neither on the other rows nor on how many there are.
    A cost that is not finite can never be elite; a row without a finite cost keeps its mean and reports cost inf.
    """

    def __init__(self, config: CEMConfig) -> None:
        self.config = config

    @torch.no_grad()
    def plan(
        self, cost_fn: CostFn, warm_start: Tensor, bounds: Bounds, generator: torch.Generator, elapsed: int = 0
    ) -> Plan:
        """See `Optimiser.plan`. The noise is drawn on the generator's device, everything else on `warm_start`'s."""
        config, horizon = self.config, warm_start.shape[1]
        actions_of = functools.partial(from_knots, block=config.block, horizon=horizon, elapsed=elapsed)
        half_range = (bounds.high - bounds.low) / 2
        mean = to_knots(bounds.clip(warm_start), config.block, elapsed)  # [B, K, A]
        std = (config.initial_std * half_range).expand_as(mean)
        best, best_cost = mean, torch.full_like(mean[:, 0, 0], torch.inf)
        for _ in range(config.iterations):
            noise = coloured_noise(config.samples - 1, mean.shape[1], mean.shape[2], config.colour, generator).to(mean)
            drawn = bounds.clip(mean[:, None] + std[:, None] * noise)
            candidates = torch.cat([mean[:, None], drawn], dim=1)  # [B, S, K, A]
            cost = finite_or_worst(cost_fn(actions_of(candidates)))
            elite_cost, elite = cost.topk(config.elites, dim=1, largest=False)
            elites = candidates.gather(1, elite[:, :, None, None].expand(-1, -1, *mean.shape[1:]))
            improved = elite_cost[:, 0] < best_cost
            best = torch.where(improved[:, None, None], elites[:, 0], best)
            best_cost = torch.minimum(elite_cost[:, 0], best_cost)
            mean, std = self._refit(mean, std, elites, elite_cost, config.min_std * half_range)
        if config.result == "mean":
            best, best_cost = _mean_unless_worthless(cost_fn(actions_of(mean[:, None])), mean, best, best_cost)
        actions = actions_of(best)
        return Plan(actions, best_cost, shift(actions, 1, bounds))

    def _refit(self, mean: Tensor, std: Tensor, elites: Tensor, cost: Tensor, min_std: Tensor) -> tuple[Tensor, Tensor]:
        """Moments `[B, K, A]` of the elites `[B, E, K, A]` whose cost `[B, E]` is finite, with momentum."""
        by_cost = elite_weights(cost, self.config.temperature)[:, :, None, None]
        alike = elite_weights(cost, math.inf)[:, :, None, None]
        elite_mean = (by_cost * elites).sum(1)
        elite_std = (alike * (elites - elite_mean[:, None]) ** 2).sum(1).sqrt()
        keep, any_finite = self.config.momentum, cost.isfinite().any(1)[:, None, None]
        new_mean = torch.where(any_finite, keep * mean + (1 - keep) * elite_mean, mean)
        new_std = torch.where(any_finite, keep * std + (1 - keep) * elite_std, std)
        return new_mean, torch.maximum(new_std, min_std)


def _mean_unless_worthless(mean_cost: Tensor, mean: Tensor, best: Tensor, best_cost: Tensor) -> tuple[Tensor, Tensor]:
    """The mean `[B, K, A]` and its cost `[B]`; the best sample in rows where only the mean's cost is not finite."""
    cost = finite_or_worst(mean_cost)[:, 0]
    fall_back = cost.isinf() & best_cost.isfinite()
    return torch.where(fall_back[:, None, None], best, mean), torch.where(fall_back, best_cost, cost)


def elite_weights(cost: Tensor, temperature: float) -> Tensor:
    """What each elite counts in the new mean `[B, E]`, from its cost `[B, E]` in ascending order: sums to 1 over a row.

    Proportional to `exp(-(cost - best) / (temperature * (worst - best)))`, so the unit of cost does not matter. Elites
    whose cost is not finite count nothing; a row without a finite cost is all zero.
    """
    finite = cost.isfinite()
    above_best = torch.where(finite, cost - cost[:, :1], 0.0)
    spread = above_best.amax(1, keepdim=True)
    exponent = torch.where(spread > 0, above_best / (temperature * spread), 0.0)
    weight = torch.where(finite, torch.exp(-exponent), 0.0)
    return weight / weight.sum(1, keepdim=True).clamp(min=torch.finfo(weight.dtype).tiny)

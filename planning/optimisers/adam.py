"""Gradient descent through the model, from several starts."""

from __future__ import annotations

import dataclasses
import math

import torch
from torch import Tensor

from planning.actions.knots import to_knots
from planning.optimisers.base import MOST_ITERATIONS, MOST_SAMPLES, OptimiserEntry
from planning.optimisers.descent import Descent
from planning.optimisers.judge import Judge
from planning.optimisers.pace import Pace
from planning.optimisers.warm_start import first_mean, warm_start, with_proposals
from planning.types import Optimiser, Plan, Problem
from worldmodel.core.tensor_record import TensorRecord


@dataclasses.dataclass(frozen=True)
class AdamConfig:
    """Options of `Adam`.

    Attributes:
        samples: action sequences that descend side by side, S. The first begins at the rest of the last plan.
        iterations: times that each of them is evaluated. Between two evaluations lies one step.
        learning_rate: length of the first step, as a fraction of half the action range. It falls linearly to zero.
        initial_std: standard deviation of the other starts around the first, as the same fraction.
        action_repeat: control steps that share one action in the plan.
    """

    samples: int = 16
    iterations: int = 12
    learning_rate: float = 0.2
    initial_std: float = 0.5
    action_repeat: int = 4

    def __post_init__(self) -> None:
        counts = (self.samples, self.iterations, self.action_repeat)
        if min(counts) < 1 or self.samples > MOST_SAMPLES or self.iterations > MOST_ITERATIONS:
            raise ValueError(
                f"samples {self.samples}, iterations {self.iterations}, action_repeat {self.action_repeat}: at least 1 "
                f"each, and at most {MOST_SAMPLES:,} and {MOST_ITERATIONS:,} of the first two are accepted"
            )
        if not (0 < self.learning_rate < math.inf and 0 < self.initial_std < math.inf):
            raise ValueError(
                f"learning_rate {self.learning_rate}, initial_std {self.initial_std}: finite numbers above 0 are "
                "accepted"
            )


class Adam(Optimiser):
    """Follows the gradient of the cost through the model (Henaff et al. 2017, arXiv 1705.07177).

    Each of `samples` sequences takes `iterations - 1` steps of Adam within the bounds, and the best of all sequences
    that were evaluated is the plan. Binary dimensions have no gradient, so they stay as they were drawn.
    """

    def __init__(self, config: AdamConfig) -> None:
        self.config = config

    @property
    def samples(self) -> int:
        return self.config.samples

    @property
    def evaluations(self) -> int:
        return self.config.samples * self.config.iterations

    @property
    def needs_gradient(self) -> bool:
        return True

    @torch.no_grad()
    def plan(self, problem: Problem, memory: TensorRecord | None, generator: torch.Generator) -> Plan:
        """See `Optimiser.plan`. With a deadline, no step begins that could end too late.

        Raises:
            UserError: if the cost is not differentiable.
        """
        config, limits = self.config, problem.limits
        judge, pace = Judge(problem, config.action_repeat), Pace(problem.deadline)
        points = self._starts(problem, memory, generator)
        descent = Descent.begin(points)
        best, best_cost = points[:, 0], torch.full_like(points[:, 0, 0, 0], torch.inf)
        trace: list[Tensor] = []
        steps = config.iterations - 1
        for iteration in range(config.iterations):
            if not pace.allows_another(best_cost):
                break
            is_last = iteration == steps
            cost, slope = (judge.cost(points), None) if is_last else judge.gradient(points)
            lowest, index = cost.min(1)
            better = points[torch.arange(len(points), device=index.device), index]
            best = torch.where((lowest < best_cost)[:, None, None], better, best)
            best_cost = torch.minimum(lowest, best_cost)
            trace.append(lowest)
            if slope is not None:
                rate = config.learning_rate * (1 - iteration / steps)
                points, descent = descent.step(points, slope, rate, limits)
        trace += [torch.full_like(best_cost, torch.nan)] * (config.iterations - len(trace))
        return Plan(judge.actions(best), best_cost, warm_start(judge.held(best), problem), torch.stack(trace, dim=1))

    def _starts(self, problem: Problem, memory: TensorRecord | None, generator: torch.Generator) -> Tensor:
        """The sequences `[B, S, K, A]` before the first step."""
        config, limits = self.config, problem.limits
        first = to_knots(first_mean(problem, memory), config.action_repeat, problem.step)[:, None]
        shape = (config.samples - 1, *first.shape[2:])
        noise = torch.randn(shape, generator=generator, device=generator.device).to(first)
        drawn = first + config.initial_std * limits.span / 2 * noise
        drawn = with_proposals(drawn, problem, config.action_repeat, generator)
        return torch.cat([first, limits.clip(drawn)], dim=1)


ENTRY = OptimiserEntry(Adam, AdamConfig)

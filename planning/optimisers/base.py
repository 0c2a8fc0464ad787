"""The base class of sampling optimisers, and the registry entry of an optimiser."""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, Final

import torch
from torch import Tensor

from planning.actions.knots import to_knots
from planning.actions.limits import ActionLimits
from planning.optimisers.judge import Judge
from planning.optimisers.pace import Pace
from planning.optimisers.warm_start import WarmStart, first_mean, warm_start, with_proposals
from planning.types import Optimiser, Plan, Problem
from worldmodel.core.errors import UserError
from worldmodel.core.tensor_record import TensorRecord

# Far above the numbers of any published planner. `planning.registry` checks the memory for a horizon and a model.
MOST_SAMPLES: Final = 100_000
MOST_ITERATIONS: Final = 1_000


@dataclasses.dataclass(frozen=True)
class OptimiserEntry:
    """An optimiser that users choose by name.

    Attributes:
        make: makes the optimiser from an instance of `config`.
        config: a frozen dataclass of the options, with their default values.
    """

    make: Callable[[Any], Optimiser]
    config: type[Any]


@dataclasses.dataclass(frozen=True)
class SamplingConfig:
    """Options that all optimisers that sample have.

    Attributes:
        samples: action sequences drawn per iteration, S.
        iterations: rounds of sampling and refitting.
        result: `mean` returns the refitted mean, `best` the best sample seen. The best sample overfits the model.
        action_repeat: control steps that share one action in the plan.
        narrow_share: share of the drawn samples that lie nearer to the mean, from 0 to 1. They refine what is found
            while the others still explore.
        narrow_scale: their distance to the mean, as a fraction of what was drawn.
    """

    samples: int = 192
    iterations: int = 4
    result: str = "mean"
    action_repeat: int = 4
    narrow_share: float = 0.0
    narrow_scale: float = 0.25

    def __post_init__(self) -> None:
        if self.samples < 2 or self.iterations < 1 or self.action_repeat < 1:
            raise ValueError(
                f"samples {self.samples}, iterations {self.iterations}, action_repeat {self.action_repeat}: "
                "at least 2, 1 and 1 are accepted"
            )
        if self.samples > MOST_SAMPLES or self.iterations > MOST_ITERATIONS:
            raise ValueError(
                f"samples {self.samples}, iterations {self.iterations}: at most {MOST_SAMPLES:,} and "
                f"{MOST_ITERATIONS:,} are accepted"
            )
        if self.result not in ("mean", "best"):
            raise ValueError(f"result '{self.result}' is unknown: choose from best, mean")
        if not (0 <= self.narrow_share <= 1 and 0 < self.narrow_scale <= 1):
            raise ValueError(
                f"narrow_share {self.narrow_share}, narrow_scale {self.narrow_scale}: 0 to 1, and above 0 and at most "
                "1 are accepted"
            )


@dataclasses.dataclass(frozen=True)
class Search(TensorRecord):
    """The sampling distribution: mean `[B, K, A]` and standard deviation `[B, K, A]` of every knot's action."""

    mean: Tensor
    std: Tensor


class SamplingOptimiser(Optimiser):
    """Draws action sequences, evaluates their costs, and refits the distribution to the best ones.

    A subclass implements `draw` and `refit`. This class handles knots, limits, warm starts, two spreads, proposed
    candidates, costs that are not finite, deadlines, the best of all candidates, and the result.

    All rows of a batch share the noise, so a row's plan depends neither on the other rows nor on how many there are.
    The mean so far is the first candidate of every iteration. A row without a finite cost keeps its mean and reports
    an infinite cost.
    """

    def __init__(self, config: SamplingConfig) -> None:
        self.config = config

    @abc.abstractmethod
    def draw(self, search: Search, limits: ActionLimits, generator: torch.Generator) -> Tensor:
        """`samples - 1` candidates `[B, S-1, K, A]`. They need not lie within limits."""

    @abc.abstractmethod
    def refit(self, search: Search, knots: Tensor, cost: Tensor, limits: ActionLimits) -> Search:
        """The next distribution, from the candidates' `knots [B, S, K, A]` and their costs `[B, S]`.

        The cost of a bad candidate may be infinite, but never NaN. A row whose costs are all infinite keeps its mean.
        """

    # --- what a subclass may change ----------------------------------------------------------------------------------

    def begin(self, mean: Tensor, problem: Problem, memory: TensorRecord | None) -> Search:
        """The first distribution, around `mean [B, K, A]`, which is what `memory` leaves of the last plan."""
        return Search(mean, (problem.limits.span / 2).expand_as(mean))

    def counts(self) -> Sequence[int]:
        """The number of candidates that are evaluated in each iteration, at most `samples`. The mean is one of them."""
        return [self.config.samples] * self.config.iterations

    def kept(self, search: Search) -> Tensor | None:
        """Candidates `[B, N, K, A]` of earlier iterations that take the place of drawn ones, or None."""
        return None

    def admit(self, knots: Tensor, problem: Problem) -> Tensor:
        """The nearest knots `[B, N, K, A]` that may be candidates."""
        return problem.limits.clip(knots)

    def improve(self, knots: Tensor, cost: Tensor, judge: Judge, limits: ActionLimits) -> tuple[Tensor, Tensor]:
        """Candidates `[B, S, K, A]` and costs `[B, S]` in place of those evaluated. No cost may be above the old one.

        A subclass that evaluates more here adds the number to `evaluations`.
        """
        return knots, cost

    def remember(self, actions: Tensor, search: Search, judge: Judge, problem: Problem) -> WarmStart:
        """The memory of the plan `actions [B, H, A]`, found with the last distribution."""
        return warm_start(actions, problem)

    # --- the search --------------------------------------------------------------------------------------------------

    @property
    def samples(self) -> int:
        return self.config.samples

    @property
    def evaluations(self) -> int:
        return sum(self.counts()) + (self.config.result == "mean")

    @torch.no_grad()
    def plan(self, problem: Problem, memory: TensorRecord | None, generator: torch.Generator) -> Plan:
        """See `Optimiser.plan`. The noise is drawn on the generator's device, everything else on the limits'.

        With a deadline, no iteration begins that could end too late, as long as the longest one so far. The first one
        is always made. What is returned then is the best sample so far, also where the result is the mean, because the
        cost of the mean is not known.
        """
        config, limits = self.config, problem.limits
        judge, pace = Judge(problem, config.action_repeat), Pace(problem.deadline)
        mean = to_knots(first_mean(problem, memory), config.action_repeat, problem.step)
        search = self.begin(mean, problem, memory)
        best, best_cost = search.mean, torch.full_like(search.mean[:, 0, 0], torch.inf)
        trace: list[Tensor] = []
        for iteration in range(config.iterations):
            if not pace.allows_another(best_cost):
                break
            knots = self._candidates(search, problem, iteration, generator)
            knots, cost = self.improve(knots, judge.cost(knots), judge, limits)
            lowest, index = cost.min(1)
            better = knots[torch.arange(len(knots), device=index.device), index]
            best = torch.where((lowest < best_cost)[:, None, None], better, best)
            best_cost = torch.minimum(lowest, best_cost)
            trace.append(lowest)
            search = self.refit(search, knots, cost, limits)
            self._require_shape("refit", search.mean, best.shape)
        if config.result == "mean" and pace.allows_another(best_cost):
            best, best_cost = _mean_unless_worthless(judge.cost(search.mean[:, None]), search.mean, best, best_cost)
        trace += [torch.full_like(best_cost, torch.nan)] * (config.iterations - len(trace))
        remembered = self.remember(judge.held(best), search, judge, problem)
        return Plan(judge.actions(best), best_cost, remembered, torch.stack(trace, dim=1))

    def _candidates(self, search: Search, problem: Problem, iteration: int, generator: torch.Generator) -> Tensor:
        """The candidates `[B, S, K, A]` of an iteration: the mean, those kept, those drawn and those proposed."""
        config = self.config
        drawn, kept = self.draw(search, problem.limits, generator), self.kept(search)
        self._require_shape("draw", drawn, (len(search.mean), config.samples - 1, *search.mean.shape[1:]))
        drawn = drawn[:, : self.counts()[iteration] - 1 - (0 if kept is None else kept.shape[1])]
        narrow = round(config.narrow_share * drawn.shape[1])
        if narrow:
            mean = search.mean[:, None]
            near = mean + config.narrow_scale * (drawn[:, :narrow] - mean)
            drawn = torch.cat([near, drawn[:, narrow:]], dim=1)
        if iteration == 0:
            drawn = with_proposals(drawn, problem, config.action_repeat, generator)
        beside = drawn if kept is None else torch.cat([kept, drawn], dim=1)
        return torch.cat([search.mean[:, None], self.admit(beside, problem)], dim=1)

    def _require_shape(self, method: str, values: Tensor, shape: Sequence[int]) -> None:
        """Raises UserError if a subclass, which may be a user's, returns values of another shape."""
        if tuple(values.shape) != tuple(shape):
            raise UserError(
                f"{method} of {type(self).__name__} gives {list(values.shape)}: expected {list(shape)}, as its "
                "docstring in planning/optimisers/base.py says"
            )


def _mean_unless_worthless(mean_cost: Tensor, mean: Tensor, best: Tensor, best_cost: Tensor) -> tuple[Tensor, Tensor]:
    """The mean `[B, K, A]` and its cost `[B]`, or the best sample in rows where only the mean's cost is not finite."""
    cost = mean_cost[:, 0]
    fall_back = cost.isinf() & best_cost.isfinite()
    return torch.where(fall_back[:, None, None], best, mean), torch.where(fall_back, best_cost, cost)

"""The base class of sampling optimisers, and the registry entry of an optimiser."""

from __future__ import annotations

import abc
import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any, Final

import torch
from torch import Tensor

from planning.actions.knots import from_knots, shift, to_knots
from planning.actions.limits import ActionLimits
from planning.actions.safety import finite_or_worst
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
    """

    samples: int = 192
    iterations: int = 4
    result: str = "mean"
    action_repeat: int = 4

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


@dataclasses.dataclass(frozen=True)
class Search(TensorRecord):
    """The sampling distribution: mean `[B, K, A]` and standard deviation `[B, K, A]` of every knot's action."""

    mean: Tensor
    std: Tensor


@dataclasses.dataclass(frozen=True)
class WarmStart(TensorRecord):
    """The memory of a sampling optimiser.

    Attributes:
        actions: `[B, H, A]`, the last plan before limits on changes and binary dimensions were applied. Applying them
            to the remaining actions gives the rest of the plan.
        step: `[B]`, the control step in which the plan was made.
    """

    actions: Tensor
    step: Tensor


class SamplingOptimiser(Optimiser):
    """Draws action sequences, evaluates their costs, and refits the distribution to the best ones.

    A subclass implements `draw` and `refit`. This class handles knots, limits, warm starts, proposed candidates, costs
    that are not finite, the best of all candidates, and the result.

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

    def begin(self, mean: Tensor, limits: ActionLimits) -> Search:
        """The first distribution, around `mean [B, K, A]`."""
        return Search(mean, (limits.span / 2).expand_as(mean))

    @property
    def samples(self) -> int:
        return self.config.samples

    @property
    def evaluations(self) -> int:
        return self.config.samples * self.config.iterations + (self.config.result == "mean")

    @torch.no_grad()
    def plan(self, problem: Problem, memory: TensorRecord | None, generator: torch.Generator) -> Plan:
        """See `Optimiser.plan`. The noise is drawn on the generator's device, everything else on the limits'."""
        config, limits = self.config, problem.limits
        repeat, step = config.action_repeat, problem.step
        held = functools.partial(from_knots, action_repeat=repeat, horizon=problem.horizon, elapsed=step)
        search = self.begin(to_knots(first_mean(problem, memory), repeat, step), limits)
        best, best_cost = search.mean, torch.full_like(search.mean[:, 0, 0], torch.inf)
        trace = []

        def judge(knots: Tensor) -> Tensor:
            return finite_or_worst(problem.cost(limits.project(held(knots), problem.last)))

        for iteration in range(config.iterations):
            drawn = self.draw(search, limits, generator)
            self._require_shape("draw", drawn, (len(search.mean), config.samples - 1, *search.mean.shape[1:]))
            drawn = limits.clip(drawn)
            if iteration == 0 and problem.propose is not None:
                drawn = _with_proposals(drawn, problem, repeat, generator)
            knots = torch.cat([search.mean[:, None], drawn], dim=1)
            cost = judge(knots)
            lowest, index = cost.min(1)
            better = knots[torch.arange(len(knots), device=index.device), index]
            best = torch.where((lowest < best_cost)[:, None, None], better, best)
            best_cost = torch.minimum(lowest, best_cost)
            trace.append(lowest)
            search = self.refit(search, knots, cost, limits)
            self._require_shape("refit", search.mean, best.shape)
        if config.result == "mean":
            best, best_cost = _mean_unless_worthless(judge(search.mean[:, None]), search.mean, best, best_cost)
        wanted = held(best)
        made_at = torch.full((len(wanted),), problem.step, device=wanted.device)
        actions = limits.project(wanted, problem.last)
        return Plan(actions, best_cost, WarmStart(wanted, made_at), torch.stack(trace, dim=1))

    def _require_shape(self, method: str, values: Tensor, shape: Sequence[int]) -> None:
        """Raises UserError if a subclass, which may be a user's, returns values of another shape."""
        if tuple(values.shape) != tuple(shape):
            raise UserError(
                f"{method} of {type(self).__name__} gives {list(values.shape)}: expected {list(shape)}, as its "
                "docstring in planning/optimisers/base.py says"
            )


def first_mean(problem: Problem, memory: TensorRecord | None) -> Tensor:
    """The initial mean `[B, H, A]`. It is the rest of the last plan, or rest if there is none."""
    if memory is None:
        return problem.rest()
    assert isinstance(memory, WarmStart), "memory is given back to who made it"
    made_at = memory.step.tolist()
    if len(set(made_at)) == 1:
        left = shift(memory.actions, problem.step - made_at[0], problem.limits)
    else:  # rows that are equally far into their episodes can have made their last plans at different times
        rows = zip(memory.actions.split(1), made_at, strict=True)
        left = torch.cat([shift(actions, problem.step - step, problem.limits) for actions, step in rows])
    return problem.limits.clip(left)


def _with_proposals(drawn: Tensor, problem: Problem, action_repeat: int, generator: torch.Generator) -> Tensor:
    """The candidates `[B, S-1, K, A]`, of which the last are replaced by the proposed ones."""
    assert problem.propose is not None
    most = drawn.shape[1]
    proposed = to_knots(problem.propose(most, generator).to(drawn), action_repeat, problem.step)[:, :most]
    return torch.cat([drawn[:, : most - proposed.shape[1]], problem.limits.clip(proposed)], dim=1)


def _mean_unless_worthless(mean_cost: Tensor, mean: Tensor, best: Tensor, best_cost: Tensor) -> tuple[Tensor, Tensor]:
    """The mean `[B, K, A]` and its cost `[B]`, or the best sample in rows where only the mean's cost is not finite."""
    cost = mean_cost[:, 0]
    fall_back = cost.isinf() & best_cost.isfinite()
    return torch.where(fall_back[:, None, None], best, mean), torch.where(fall_back, best_cost, cost)

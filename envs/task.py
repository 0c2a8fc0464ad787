"""The task in a world, with its success rule, its choice of goals, and its exploration.

Shapes: `N` simulator state, `A` action, `...` any leading dimensions.
"""

from __future__ import annotations

import abc
import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from envs.world import Floats
from worldmodel.core.errors import UserError, choices_message

if TYPE_CHECKING:
    from envs.protocol import GoalEnv


@dataclasses.dataclass(frozen=True)
class Metric:
    """One component of the distance to a goal, for example the block's position error.

    Attributes:
        name: key in `Task.errors`, for example `position`.
        unit: unit of errors, for example `cm`.
        tolerance: largest error that counts as success, in the same unit.
    """

    name: str
    unit: str
    tolerance: float


class Explorer(abc.ABC):
    """A policy without a goal, which records the effects of actions."""

    @abc.abstractmethod
    def act(self, env: GoalEnv) -> NDArray[np.float32]:
        """Action `[A]` for the present state of the environment. It may read the simulator, since it does not plan."""


class Task(abc.ABC):
    """Measures the errors of states against goals, and makes explorers. It has no state.

    Attributes:
        metrics: the metrics of `errors`, in this order.
        exploration: kinds of exploration that `explorer` mixes, with the share of each. Empty if they are not options.
        goal_kinds: kinds of goals, which take turns in a manifest. Empty if goals are not told apart.
    """

    metrics: tuple[Metric, ...]
    exploration: Mapping[str, float] = {}
    goal_kinds: tuple[str, ...] = ()

    @abc.abstractmethod
    def errors(self, states: Floats, goal: Floats) -> Mapping[str, Floats]:
        """Error `[...]` of `states [..., N]` against `goal [N]` or `[..., N]`, by metric and in its unit."""

    @abc.abstractmethod
    def is_interesting(self, start: Floats, goal: Floats) -> bool:
        """Whether going from `start [N]` to `goal [N]` is worth evaluating, because enough has moved."""

    @abc.abstractmethod
    def explorer(self, rng: np.random.Generator) -> Explorer:
        """A fresh exploration policy for one episode."""

    def draw_pair(self, rng: np.random.Generator) -> tuple[Floats, Floats] | None:
        """Start and goal `[N]` of an evaluation, for a task with goals that exploration rarely reaches.

        None leaves the choice to the manifest, which takes both from one exploratory episode.
        """
        return None

    def explorer_with(self, rng: np.random.Generator, shares: Mapping[str, float]) -> Explorer:
        """Like `explorer`, with other `shares` of the kinds in `exploration` (`read_shares`).

        Raises:
            UserError: for a kind that this task does not have, and for shares that cannot be used.
        """
        read_shares(shares, self.exploration)
        return self.explorer(rng)

    def approach(self, states: Floats, goal: Floats) -> Floats:
        """A cost `[...]` of being far from what has to be moved, zero by default.

        A search over actions that touch nothing would find all of them equal otherwise. Only the oracle reads it.
        """
        return np.zeros(np.shape(states)[:-1])

    def goal_kind(self, start: Floats, goal: Floats) -> str:
        """Which of `goal_kinds` the goal is. Empty text for none of them."""
        return ""

    @abc.abstractmethod
    def path_points(self, states: Floats) -> Mapping[str, Floats]:
        """Paths for plots of `states [..., N]`: name → `[..., 2]` (column, row) in fractions of the first camera's
        image."""

    def is_success(self, states: Floats, goal: Floats, scale: float = 1.0) -> NDArray[np.bool_]:
        """Whether each of `states [..., N]` meets `scale` times every metric's tolerance, `[...]`."""
        return within_tolerance(self.errors(states, goal), self.metrics, scale)


@dataclasses.dataclass(frozen=True)
class Criterion:
    """One criterion of success.

    Attributes:
        metric: name, unit and tolerance of the error.
        error: returns the error `[...]` of `states [..., N]` against `goal [N]` or `[..., N]`, in the metric's unit.
        min_change: a goal is interesting if, for one criterion, the error of the start is at least this.
    """

    metric: Metric
    error: Callable[[Floats, Floats], Floats]
    min_change: float


class CriteriaTask(Task):
    """A task with criteria that must all be met.

    Args:
        criteria: at least one criterion.
        make_explorer: makes an exploration policy for one episode from a random generator.
        paths: the function for `Task.path_points`.
    """

    def __init__(
        self,
        criteria: Sequence[Criterion],
        make_explorer: Callable[[np.random.Generator], Explorer],
        paths: Callable[[Floats], Mapping[str, Floats]],
    ) -> None:
        self._criteria, self._make_explorer, self._paths = tuple(criteria), make_explorer, paths
        self.metrics = tuple(criterion.metric for criterion in criteria)

    def errors(self, states: Floats, goal: Floats) -> Mapping[str, Floats]:
        states, goal = np.asarray(states, np.float64), np.asarray(goal, np.float64)
        return {criterion.metric.name: criterion.error(states, goal) for criterion in self._criteria}

    def is_interesting(self, start: Floats, goal: Floats) -> bool:
        changes = self.errors(start, goal)
        moved = any(bool(changes[criterion.metric.name] >= criterion.min_change) for criterion in self._criteria)
        return moved and not bool(self.is_success(start, goal))

    def explorer(self, rng: np.random.Generator) -> Explorer:
        return self._make_explorer(rng)

    def path_points(self, states: Floats) -> Mapping[str, Floats]:
        return self._paths(np.asarray(states, np.float64))


def within_tolerance(errors: Mapping[str, Floats], metrics: Sequence[Metric], scale: float) -> NDArray[np.bool_]:
    """Whether every error `[...]` is at most `scale` times its metric's tolerance, `[...]`."""
    return np.logical_and.reduce([errors[m.name] <= scale * m.tolerance for m in metrics])


def read_shares(shares: Mapping[str, float], own: Mapping[str, float]) -> dict[str, float]:
    """The share of every kind of exploration in `own`, summing to one. Kinds that `shares` leaves out keep their own.

    Raises:
        UserError: for a kind that `own` does not have, a negative or infinite share, and shares that are all zero.
    """
    if shares and not own:
        raise UserError(
            f"shares of exploration {sorted(shares)} are given: this environment has no kinds of exploration"
        )
    for kind, share in shares.items():
        if kind not in own:
            raise UserError(choices_message("kind of exploration", kind, own))
        if isinstance(share, bool) or not isinstance(share, int | float) or not 0 <= share < math.inf:
            raise UserError(f"share of exploration {kind} is {share!r}: expected a number of at least 0")
    mixed = {**own, **shares}
    total = sum(mixed.values())
    if shares and not total > 0:
        raise UserError("shares of exploration are all 0: expected at least one above 0")
    return {kind: share / total for kind, share in mixed.items()}

"""What a controller decides at one control step, and what may look at it before it is carried out.

See `planning.types` for shapes.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from planning.actions.limits import ActionLimits
from planning.alarms import Alarm, Check
from planning.rows import Heading
from planning.types import Plan
from worldmodel.core.observation import Observation


@dataclasses.dataclass(frozen=True)
class Decision:
    """The decision at one control step, for B environments.

    Attributes:
        actions: float32 `[B, A]`, finite and within all limits.
        distance: `[B]`, the latent distance of the current observation to the goal.
        reached: `[B]`, whether this is at most `reached_distance`. It is false for a distance that is not finite.
        sub_goal: `[B]`, index of each row's current sub-goal, from 0 on.
        predicted_cost: `[B]`, the predicted cost of the plan in execution.
        replaced: `[B]`, rows where no plan could be used and the action is rest.
        refused: `[B]`, those of these rows whose plan was refused by the verification (`planning.verification`).
        trace: `[B, I]`, the lowest cost in every iteration of the search for the plan in execution. NaN without one.
        plan_ms: time from observations to actions of all B rows [ms].
        planned: whether a plan was made at this step, or the last one is still being executed.
        latents: of the current observation, `[1, ...]` per row; empty for a policy without a model.
        plans: each row's plan in execution, from its first action on; None without one.
        alarm: the monitor's alarm of each row, None where all is well; empty without a monitor.
        scores: the monitor's scores of each row; empty without a monitor.
        headings: the hierarchy's sub-goal of each row, with the reason for it; empty without a hierarchy.
    """

    actions: NDArray[np.float32]
    distance: NDArray[np.float32]
    reached: NDArray[np.bool_]
    sub_goal: NDArray[np.int64]
    predicted_cost: NDArray[np.float32]
    replaced: NDArray[np.bool_]
    refused: NDArray[np.bool_]
    trace: NDArray[np.float32]
    plan_ms: float = 0.0
    planned: bool = False
    latents: tuple[Any, ...] = dataclasses.field(default=(), repr=False, compare=False)
    plans: tuple[Plan | None, ...] = dataclasses.field(default=(), repr=False, compare=False)
    imagine: Callable[[], tuple[Any, ...]] = dataclasses.field(default=tuple, repr=False, compare=False)
    alarm: tuple[Alarm | None, ...] = ()
    scores: tuple[Mapping[Check, float], ...] = dataclasses.field(default=(), repr=False, compare=False)
    headings: tuple[Heading | None, ...] = dataclasses.field(default=(), compare=False)

    @functools.cached_property
    def imagined(self) -> tuple[Any, ...]:
        """Imagined latents `[1, 1, H', ...]` of the rest of each row's plan. None without a plan.

        They are computed on first access, which takes about as long as the evaluation of one sample.
        """
        return self.imagine()

    @classmethod
    def blind(cls, actions: NDArray[np.float32]) -> Decision:
        """Decision of a policy without observations: actions `[B, A]`, and no distance to a goal."""
        rows = len(actions)
        unknown, never = np.full(rows, np.nan, np.float32), np.zeros(rows, bool)
        return cls(actions, unknown, never, np.zeros(rows, np.int64), unknown, never, never, unknown[:, None])


class Watcher(Protocol):
    """Looks at every decision of a controller, as `planning.monitor` does.

    Attributes:
        reached_distance: the largest latent distance at which a goal counts as reached, None if it does not know.
    """

    reached_distance: float | None

    def require_known(self, goal: Any) -> None:
        """Raises UserError for a goal `[1, ...]` that must not be headed for."""

    def begin(self, row: int) -> None:
        """A new episode begins for robot `row`."""

    def forget(self, row: int) -> None:
        """There is a gap in what robot `row` saw."""

    def was_given(self, row: int, command: Tensor) -> None:
        """Robot `row` was given `command [1, A]` instead of the one decided last."""

    def watch(self, decision: Decision, seen: Observation, limits: ActionLimits, last: Tensor) -> Decision:
        """The decision as it is to be carried out, after observations `seen [B, ...]` and commands `last [B, A]`."""

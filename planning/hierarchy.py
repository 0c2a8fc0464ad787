"""Planning by sub-goals: a slow level chooses them, and the planner heads for the present one.

Goals for which going straight fails need ways that first lead away from them, such as around a wall. The slow level
knows such ways (`planning.types.Subgoals`). It sees latents, and never an image or a simulator.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

from planning.rows import Heading, Row
from planning.types import Guide, Model, Subgoals
from worldmodel.core.errors import UserError

BEGIN, REACHED, PASSED, OVERDUE = "begin", "reached", "passed", "overdue"


@dataclasses.dataclass(frozen=True)
class HierarchyConfig:
    """Options of the slow level.

    Attributes:
        ahead: how far away a sub-goal is chosen [control steps].
        patience: control steps after which a sub-goal that was not reached is replaced.
        near: largest latent distance at which a sub-goal counts as reached, as a multiple of the model's own for goals.
            Coming near is enough, since a sub-goal is only passed through.
    """

    ahead: float = 30.0
    patience: int = 20
    near: float = 2.5

    def __post_init__(self) -> None:
        if not 0 < self.ahead < math.inf:
            raise ValueError(f"ahead {self.ahead} must be a number above 0")
        if self.patience < 1:
            raise ValueError(f"patience {self.patience} must be at least 1")
        if not 0 < self.near < math.inf:
            raise ValueError(f"near {self.near} must be a number above 0")


def require_alone(hierarchy: object, **others: object) -> None:
    """Raises UserError for a hierarchy together with a part that expects plans to lead straight to the goal."""
    for name, value in others.items():
        if hierarchy is not None and value is not None:
            raise UserError(
                f"hierarchy={hierarchy} with {name}={value}: expected one of them, since the way to a sub-goal may "
                "lead away from the goal"
            )


class Hierarchy:
    """Keeps a sub-goal until it is reached, passed or overdue, and then chooses the next one.

    Args:
        model: the world model, which measures distances.
        subgoals: proposes sub-goals.
        config: options.
    """

    def __init__(self, model: Model, subgoals: Subgoals, config: HierarchyConfig) -> None:
        self._model, self._subgoals, self.config = model, subgoals, config
        self._near = config.near * model.reached_distance

    def guides(self, goals: Sequence[Any]) -> tuple[Guide, ...]:
        """A guide to each of `goals`, latents `[1, ...]`."""
        return tuple(self._subgoals.toward(goal) for goal in goals)

    def aim(self, row: Row) -> Row:
        """The row with the sub-goal that it should head for now. Its plan is dropped if that is another one."""
        guide, heading = row.guides[row.sub_goal], row.heading
        proposed = guide.propose(row.latent, self.config.ahead)
        reason = self._reason(row, proposed.steps)
        if reason is None:
            return row
        failed = frozenset[int | None]()
        if reason == OVERDUE and heading is not None:
            # The same way would be proposed again from here.
            failed = heading.failed | {heading.landmark}
            proposed = guide.propose(row.latent, self.config.ahead, failed)
        made = Heading(proposed.latent, proposed.landmark, proposed.steps, proposed.beyond, row.step, reason, failed)
        same = heading is not None and heading.landmark == made.landmark
        return dataclasses.replace(row, heading=made, plan=row.plan if same else None)

    def _reason(self, row: Row, steps: float) -> str | None:
        """Why the row needs another sub-goal, None if it keeps its own. The goal is `steps` control steps away."""
        heading = row.heading
        if heading is None:
            return BEGIN
        if heading.landmark is not None:
            if float(self._model.distance(row.latent, heading.latent)) <= self._near:
                return REACHED
            # The present state is nearer to the goal than the sub-goal is.
            if steps < heading.beyond:
                return PASSED
        return OVERDUE if row.step - heading.since >= self.config.patience else None

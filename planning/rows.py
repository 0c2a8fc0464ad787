"""The state of control of one robot, which `planning.controller` replaces at every control step."""

from __future__ import annotations

import dataclasses
from typing import Any

from torch import Tensor

from planning.types import Plan


@dataclasses.dataclass(frozen=True)
class Row:
    """The state of control of one environment.

    Attributes:
        goals: latents `[1, ...]` of its sub-goals, in order.
        targets: features `[1, F]` of their images if plans are verified, else empty.
        sub_goal: index of the current sub-goal.
        step: control steps since the episode began.
        latent: latent `[1, ...]` after the last observation.
        command: `[1, A]`, the last command.
        plan: the plan in execution, with one row. None if no plan could be used.
        planned_at: the control step in which the plan was made.
        refused: whether there is no plan because the verification refused it.
    """

    goals: tuple[Any, ...]
    targets: tuple[Tensor, ...] = ()
    sub_goal: int = 0
    step: int = 0
    latent: Any = None
    command: Tensor | None = None
    plan: Plan | None = None
    planned_at: int = 0
    refused: bool = False

    @property
    def goal(self) -> Any:
        return self.goals[self.sub_goal]

    @property
    def in_force(self) -> Tensor:
        """The last command `[1, A]`."""
        assert self.command is not None, "a command is in force as soon as something was seen"
        return self.command

"""The state of control of one robot, which `planning.controller` replaces at every control step."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

from torch import Tensor

from planning.types import Guide, Plan


@dataclasses.dataclass(frozen=True)
class Heading:
    """The sub-goal of a hierarchy that an environment is heading for.

    Attributes:
        latent: its latent `[1, ...]`.
        landmark: its number among the landmarks, None for the goal itself.
        steps: estimate of the way to the goal when it was chosen [control steps].
        beyond: estimate of the way from the sub-goal on to the goal [control steps].
        since: the control step in which it was chosen.
        reason: why it was chosen: `begin`, or `reached`, `passed` or `overdue` of the sub-goal before.
        failed: sub-goals that were overdue since one was last reached or passed, None for the goal itself.
    """

    latent: Any = dataclasses.field(repr=False)
    landmark: int | None
    steps: float
    beyond: float
    since: int
    reason: str
    failed: frozenset[int | None] = frozenset()

    def described(self) -> dict[str, Any]:
        """All but the latent, as plain values."""
        known = dataclasses.asdict(dataclasses.replace(self, latent=None))
        known |= {"failed": sorted(known["failed"], key=str)}
        known.pop("latent")
        return {name: None if value == math.inf else value for name, value in known.items()}


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
        guides: a hierarchy's guide to each sub-goal, empty without a hierarchy.
        heading: the hierarchy's sub-goal on the way to the current one, None without a hierarchy.
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
    guides: tuple[Guide, ...] = ()
    heading: Heading | None = None

    def anew(self) -> Row:
        """The same goals at the start of an episode, nothing of which is known yet."""
        return Row(self.goals, self.targets, self.sub_goal, guides=self.guides)

    @property
    def aim(self) -> Any:
        """Latent `[1, ...]` that plans lead to."""
        return self.goal if self.heading is None else self.heading.latent

    @property
    def goal(self) -> Any:
        return self.goals[self.sub_goal]

    @property
    def in_force(self) -> Tensor:
        """The last command `[1, A]`."""
        assert self.command is not None, "a command is in force as soon as something was seen"
        return self.command

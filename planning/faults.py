"""What must not happen on the way from a robot's cameras to its motors."""

from __future__ import annotations

import dataclasses
import enum


class FaultKind(enum.StrEnum):
    """What must not happen on the way from cameras to motors."""

    ACTION = "action"  # the action breaks the limits: a mistake in this software
    ALARM = "alarm"  # the monitor found that something is wrong
    CLOCK = "clock"  # a time stamp repeats, goes back, lies ahead or is no number
    FROZEN = "frozen"  # a camera shows the same frame again and again
    LATE = "late"  # the decision came after the deadline
    MODEL = "model"  # the model raised an exception
    NO_PLAN = "no_plan"  # the model returned no finite numbers
    OBSERVATION = "observation"  # an image or a reading is missing, of another shape, or not finite
    STALE = "stale"  # the observation is too old


@dataclasses.dataclass(frozen=True)
class Fault:
    """Something that must not happen.

    Attributes:
        kind: what.
        since_step: the control step since which it has happened without a break, from 0 on. Every `act` counts.
        detail: one line for a person.
    """

    kind: FaultKind
    since_step: int
    detail: str

"""What a monitor tests, what it finds, and what then happens to the robot."""

from __future__ import annotations

import dataclasses
import enum

from worldmodel.core.errors import UserError, choices_message


class Check(enum.StrEnum):
    """What a monitor tests at every control step. `planning.scores` measures it."""

    SURPRISE = "surprise"
    DRIFT = "drift"
    MOTION = "motion"
    STILLNESS = "stillness"
    DISAGREEMENT = "disagreement"
    NOVELTY = "novelty"
    STALL = "stall"


class OnAlarm(enum.StrEnum):
    """What an alarm does to the robot."""

    STOP = "stop"  # it rests
    SLOW = "slow"  # its motions are half as fast
    GO_ON = "go_on"  # nothing; the decision says that there is an alarm


@dataclasses.dataclass(frozen=True)
class Alarm:
    """A test that has failed.

    Attributes:
        check: which.
        since_step: the control step of the episode in which it failed first, from 0 on.
        score: the score then.
        threshold: the largest score that raises no alarm.
    """

    check: Check
    since_step: int
    score: float
    threshold: float

    def __str__(self) -> str:
        return f"{self.check} is {self.score:.3g} since step {self.since_step}, above {self.threshold:.3g}"


def read_on_alarm(given: str) -> OnAlarm:
    """The option `on_alarm`. Raises UserError for another value."""
    if given not in list(OnAlarm):
        raise UserError(choices_message("on_alarm", given, list(OnAlarm)))
    return OnAlarm(given)

"""A monitor beside the controller: it tells when something is wrong, and slows or stops the robot.

Every score of `planning.scores` is compared with a threshold, calibrated on successful runs (`planning.calibration`).
At most a share `alpha` of further runs of the same kind raises any alarm (conformal prediction; FAIL-Detect, arXiv
2503.08558). An alarm lasts until the next goal or until a person resumes. A goal that is unlike all images of the
training is refused before anything moves.

Shapes: `B` robots, `A` action dimensions.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch

from planning.actions.limits import ActionLimits
from planning.alarms import Alarm, Check, OnAlarm, read_on_alarm
from planning.calibration import read_calibration, require_same
from planning.decision import Decision
from planning.scores import Scores
from planning.types import Model
from worldmodel.core.errors import UserError
from worldmodel.core.observation import Observation
from worldmodel.core.spec import BINARY, HOLD, ZERO, ActionSpec

_LOG = logging.getLogger(__name__)
_SLOWED: Final = 0.5  # of what an action differs from rest, after an alarm

MOST_WINDOW: Final = 1_000  # control steps; longer running means are typing errors


@dataclasses.dataclass(frozen=True)
class MonitorConfig:
    """Options of a robot's monitor.

    Attributes:
        calibration: the file that `python -m planning.calibrate` or `planning.calibration` has written. None for a
            monitor that only measures scores, from which a calibration can be made.
        on_alarm: `stop` (until `resume`), `slow` (motions are half as fast) or `go_on`.
        window: control steps of the scores' running means. A calibration brings its own.
    """

    calibration: str | Path | None
    on_alarm: str = "stop"
    window: int = 2

    def __post_init__(self) -> None:
        read_on_alarm(self.on_alarm)
        if not isinstance(self.window, int) or not 1 <= self.window <= MOST_WINDOW:
            raise UserError(f"window of the monitor is {self.window!r}: expected a whole number, 1 to {MOST_WINDOW}")


def make_monitor(config: MonitorConfig, model: Model, belongs_to: Callable[[], Mapping[str, str]]) -> Monitor:
    """The monitor of a model. `belongs_to` gives the hashes of `checkpoint` and `planner`, which are read if needed.

    Raises:
        UserError: for a calibration that cannot be read, or that belongs to another model or planner.
    """
    if config.calibration is None:
        return Monitor(model, {}, config.window, config.on_alarm)
    path = Path(config.calibration)
    found = read_calibration(path)
    require_same(found, path, **belongs_to())
    return Monitor(model, found.thresholds, found.window, config.on_alarm, found.reached_distance)


class Monitor:
    """Watches all robots of one controller.

    Args:
        model: the model that plans.
        thresholds: the largest score of each check that raises no alarm. Without one, a check never fails.
        window: control steps of the scores' running means, as for the calibration.
        on_alarm: `stop`, `slow` or `go_on`.
        reached_distance: what counts as reached by the calibration, None if it does not say. The monitor does not use
            it.

    Raises:
        UserError: for a threshold of a score that this model does not have.
    """

    def __init__(
        self,
        model: Model,
        thresholds: Mapping[Check, float],
        window: int,
        on_alarm: str = "stop",
        reached_distance: float | None = None,
    ) -> None:
        self.on_alarm, self.reached_distance = read_on_alarm(on_alarm), reached_distance
        self._model: Any = model
        self._scores, self._thresholds = Scores(model, window), dict(thresholds)
        self._is_motion = _motions(model.spec.action)
        self._alarms: dict[int, Alarm] = {}
        self._steps: dict[int, int] = {}
        for check in self._thresholds:
            if check not in self._scores.checks:
                have = ", ".join(self._scores.checks)
                raise UserError(f"a threshold for {check}, which this model does not measure: expected some of {have}")

    def require_known(self, goal: Any) -> None:
        """Raises UserError for a goal `[1, ...]` unlike anything seen, with its novelty and the largest accepted."""
        if not getattr(self._model, "has_novelty", False):
            return
        novelty, limit = float(self._model.novelty(goal)), self._model.novelty_limit
        if not novelty <= limit:
            raise UserError(
                f"this goal is unlike anything seen in training: its novelty is {novelty:.3g}, and at most {limit:.3g} "
                "is accepted"
            )

    def begin(self, row: int) -> None:
        """A new episode begins for robot `row`, without an alarm."""
        self._scores.begin(row)
        self._alarms.pop(row, None)
        self._steps[row] = 0

    def alarm(self, row: int) -> Alarm | None:
        """The alarm of robot `row`, None if all is well."""
        return self._alarms.get(row)

    def forget(self, row: int) -> None:
        """There is a gap in what robot `row` saw."""
        self._scores.forget(row)

    def was_given(self, row: int, command: torch.Tensor) -> None:
        """Robot `row` was given `command [1, A]` instead of the one decided last."""
        self._scores.was_given(row, command)

    def watch(self, decision: Decision, seen: Observation, limits: ActionLimits, last: torch.Tensor) -> Decision:
        """The decision with its scores and alarms, and with the actions `[B, A]` that follow from these.

        Args:
            decision: as the controller made it.
            seen: the observation `[B, ...]` that it was made after.
            limits: limits of actions.
            last: `[B, A]`, the commands in force.
        """
        scores = self._scores.measure(decision, seen, last)
        for row, found in enumerate(scores):
            self._test(row, found)
        alarms = tuple(self._alarms.get(row) for row in range(len(scores)))
        watched = dataclasses.replace(decision, scores=scores, alarm=alarms)
        if self.on_alarm == OnAlarm.GO_ON or not any(alarms):
            return watched
        rows = np.array([alarm is not None for alarm in alarms])
        actions = self._held_back(torch.from_numpy(decision.actions), limits, last)
        for row in np.flatnonzero(rows).tolist():
            self.was_given(row, actions[row : row + 1])
        chosen = np.where(rows[:, None], actions.cpu().numpy(), decision.actions).astype(np.float32)
        return dataclasses.replace(watched, actions=chosen)

    def _test(self, row: int, found: Mapping[Check, float]) -> None:
        step = self._steps[row]
        self._steps[row] = step + 1
        if row in self._alarms:
            return
        failed = [check for check, most in self._thresholds.items() if not found[check] <= most]
        if failed:
            # Of several, the one that is furthest above its threshold says most about what is wrong.
            worst = max(failed, key=lambda check: found[check] / max(self._thresholds[check], 1e-12))
            self._alarms[row] = Alarm(worst, step, found[worst], self._thresholds[worst])
            _LOG.warning("robot %d: %s", row, self._alarms[row])

    def _held_back(self, wanted: torch.Tensor, limits: ActionLimits, last: torch.Tensor) -> torch.Tensor:
        """Rest, or actions `[B, A]` half as far from it where rest means to stay; all within the limits, on the CPU."""
        rest = limits.rest(last)
        if self.on_alarm == OnAlarm.SLOW:
            slowed = rest + _SLOWED * (wanted.to(rest) - rest)
            rest = torch.where(self._is_motion.to(rest.device), slowed, wanted.to(rest))
        return limits.project(rest[:, None], last)[:, 0].cpu()


def _motions(action: ActionSpec) -> torch.Tensor:
    """Dimensions `[A]` that say how far or how fast to move from where the robot is.

    Half of a switch is no command, and a dimension that rests at a value of its own moves there by resting.
    """
    pairs = zip(action.kinds, action.rest, strict=True)
    return torch.tensor([kind != BINARY and rest in (ZERO, HOLD) for kind, rest in pairs])

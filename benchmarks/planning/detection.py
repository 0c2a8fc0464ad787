"""How well alarms tell runs that fail from runs that succeed.

Two questions have two sets of labels. Whether an alarm follows what went wrong is asked of the runs in which something
was made to go wrong, from the control step on in which it began (`Detection.is_true`). Whether an alarm tells that the
goal will not be reached is asked of all runs, as in FIPER (arXiv 2510.09459) and FAIL-Detect (arXiv 2503.08558). There,
only the outcome counts. An alarm in a run that reaches its goal is a false one, also if something went wrong in it.

    accuracy = (TPR + TNR) / 2          time-weighted accuracy = (mean of (1 - detection time) [alarm] + TNR) / 2

The mean is over runs that fail, and the detection time is the share of the run until the alarm.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from planning.alarms import Check
from planning.calibration import Calibration
from planning.evaluation.watched import WatchedRun


@dataclasses.dataclass(frozen=True)
class Detection:
    """When a run raised an alarm.

    Attributes:
        score: the highest normalised score from the beginning of the failure on; without a failure, of the run.
        step: control step of the first alarm, None without one.
        check: the check that failed.
        steps: control steps of the run.
        since: control step in which the failure begins, 0 without one.
        reached: whether the run reached its goal.
    """

    score: float
    step: int | None
    check: Check | None
    steps: int
    since: int
    reached: bool

    @classmethod
    def of(cls, run: WatchedRun, calibration: Calibration, since: int = 0) -> Detection:
        """In a run with a failure that begins at step `since`."""
        each = [{Check(name): values[t] for name, values in run.scores.items()} for t in range(run.steps)]
        normalised = [calibration.normalised(scores) for scores in each]
        step = next((t for t, score in enumerate(normalised) if score > calibration.limit), None)
        check = None
        if step is not None:
            most = calibration.thresholds
            check = max(most, key=lambda name: each[step][name] / max(most[name], 1e-12))
        return cls(max(normalised[since:], default=-np.inf), step, check, run.steps, since, run.reached)

    @property
    def is_true(self) -> bool:
        """Whether there is an alarm, and none before the failure began."""
        return self.step is not None and self.step >= self.since

    @property
    def time(self) -> float:
        """The share of the run until the alarm; 1 without one."""
        return 1.0 if self.step is None else self.step / self.steps

    @property
    def delay(self) -> int | None:
        """Control steps from the beginning of the failure to the alarm, None without one."""
        return None if self.step is None else self.step - self.since


@dataclasses.dataclass(frozen=True)
class Rates:
    """Alarms as predictions of the outcome.

    Attributes:
        failed: runs that did not reach their goal.
        true_alarms: those of these with an alarm.
        succeeded: runs that reached it.
        false_alarms: those of these with an alarm.
        time: mean detection time of the true alarms, NaN without any.
    """

    failed: int
    true_alarms: int
    succeeded: int
    false_alarms: int
    time: float

    @classmethod
    def of(cls, seen: Sequence[Detection]) -> Rates:
        failed = [d for d in seen if not d.reached]
        true = [d.time for d in failed if d.step is not None]
        false = sum(d.reached and d.step is not None for d in seen)
        return cls(
            len(failed), len(true), len(seen) - len(failed), false, float(np.mean(true)) if true else float("nan")
        )

    @property
    def tpr(self) -> float:
        """True positive rate, the share of failing runs with an alarm."""
        return self.true_alarms / max(self.failed, 1)

    @property
    def tnr(self) -> float:
        """True negative rate, the share of succeeding runs without one."""
        return 1 - self.false_alarms / max(self.succeeded, 1)

    @property
    def accuracy(self) -> float:
        """See the module's docstring."""
        return (self.tpr + self.tnr) / 2

    @property
    def time_weighted(self) -> float:
        """See the module's docstring."""
        return (self.tpr * (1 - self.time if self.true_alarms else 0.0) + self.tnr) / 2

    def __str__(self) -> str:
        return (
            f"TPR {self.tpr:.2f} ({self.true_alarms} of {self.failed}), TNR {self.tnr:.2f} "
            f"({self.succeeded - self.false_alarms} of {self.succeeded}), accuracy {self.accuracy:.2f}, detection time "
            f"{self.time:.2f}, time-weighted accuracy {self.time_weighted:.2f}"
        )


def auroc(failing: Sequence[float], nominal: Sequence[float]) -> float:
    """The probability that the score of a failing run is above that of a nominal one."""
    a, b = np.array(failing)[:, None], np.array(nominal)
    return float((a > b).mean() + 0.5 * (a == b).mean())

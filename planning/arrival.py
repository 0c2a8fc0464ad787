"""How near is there: the latent distance from which on it is right to say that the goal is reached.

Toward a photo nobody but the model knows when to stop. It says "reached" in the first control step t of a run whose
distance is at most d. That is right if the task's own rule, or a person, sees success in that same step.

    said(d) = the first t with distance_t <= d          wrong(d) = the share of runs with a said(d) without success then

The calibrated d is the largest for which `wrong(d)` is shown to be at most 5 %. The distances of a grid are tested from
the smallest on that enough runs say it at, until one fails: k of n reports are wrong, and the upper Clopper-Pearson
bound of these is above 5 %. As the order is fixed, and the beginning does not depend on who is right, all tests share
one probability of 10 % that a distance passes which should not (fixed-sequence testing, Learn then Test, arXiv
2110.01052). The result holds for runs of the same kind, as those of `planning.calibration`.

Shapes: `U` control steps of a run. Runs go on after success, since the model may say it later.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Final, Self

import numpy as np

from worldmodel.core.errors import UserError

WRONG: Final = 0.05  # largest share of wrong reports
_CONFIDENCE: Final = 0.9
# Of the distance at which the model itself would say it, which may be much too large: a task with fine tolerances needs
# a quarter of it. Steps of an eighth of an octave are as fine as some hundred runs can tell.
_GRID: Final = 2.0 ** (np.arange(-32, 9) / 8)
_ENOUGH: Final = 45  # if so many reports are right and none is wrong, the bound is below 5 %; with fewer, it cannot be


@dataclasses.dataclass(frozen=True)
class Approach:
    """One run toward a goal.

    Attributes:
        distance: the model's distance to the goal at every control step `[U]`.
        success: whether the goal was truly reached then `[U]`.
    """

    distance: Sequence[float]
    success: Sequence[bool]

    def __post_init__(self) -> None:
        if len(self.distance) != len(self.success):
            raise UserError(f"{len(self.distance)} distances and {len(self.success)} successes: expected one of each")

    def is_right(self, most: float) -> bool | None:
        """Whether success is reported where there is some, if a distance of at most `most` is. None if it never is."""
        near = np.flatnonzero(np.asarray(self.distance) <= most)
        return bool(self.success[near[0]]) if len(near) else None


@dataclasses.dataclass(frozen=True)
class Reports:
    """Reports of success, and how many of them are right.

    Attributes:
        said: runs with a report.
        right: those of these whose report is right.
    """

    said: int
    right: int

    @classmethod
    def of(cls, runs: Sequence[Approach], most: float) -> Self:
        """If a distance of at most `most` counts as reached."""
        found = [run.is_right(most) for run in runs]
        return cls(sum(right is not None for right in found), sum(right is True for right in found))

    @property
    def wrong(self) -> int:
        """Runs whose report is wrong."""
        return self.said - self.right

    @property
    def bound(self) -> float:
        """The share of wrong reports that is not exceeded with a probability of 90 %."""
        return largest_rate(self.wrong, self.said, _CONFIDENCE)


@dataclasses.dataclass(frozen=True)
class Arrival:
    """What counts as reached.

    Attributes:
        distance: the largest latent distance at which at most 5 % of the reports are wrong.
        reports: of the runs that show this.
    """

    distance: float
    reports: Reports

    @classmethod
    def of(cls, runs: Sequence[Approach], own: float) -> Self | None:
        """From runs with and without success. None if they cannot show it of any distance.

        Args:
            runs: of the same kind as those in which it is to hold.
            own: distance at which the model itself says that the goal is reached. It is the scale of the grid.
        """
        found = None
        for distance in (own * _GRID).tolist():
            reports = Reports.of(runs, distance)
            if reports.said < _ENOUGH:
                continue
            if reports.bound > WRONG:
                break
            found = cls(distance, reports)
        return found


def largest_rate(count: int, n: int, confidence: float) -> float:
    """The upper bound for a rate of which `count` of `n` trials were seen (Clopper and Pearson 1934). 1 without any."""
    if count >= n:
        return 1.0
    low, high = count / n, 1.0
    while high - low > 1e-9:
        middle = (low + high) / 2
        is_possible = _at_most(count, n, middle) > 1 - confidence
        low, high = (middle, high) if is_possible else (low, middle)
    return high


def _at_most(count: int, n: int, rate: float) -> float:
    """The probability of at most `count` of `n` if each has the probability `rate`, between 0 and 1."""
    return sum(math.comb(n, k) * rate**k * (1 - rate) ** (n - k) for k in range(count + 1))

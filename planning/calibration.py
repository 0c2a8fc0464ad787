"""Thresholds of a monitor from the scores of successful runs, and the file that keeps them beside a checkpoint.

Every run has a peak for each check, the largest value of its score. All checks share one rate of false alarms:

    z_k = (peak_k - centre_k) / spread_k          limit = the ceil((n + 1)(1 - alpha))-th smallest of max_k z_k

Centre and spread are the median and the distance from it to the 90 % quantile, in a first third of the runs. The limit
comes from the n others. Then any further run of the same kind raises an alarm with a probability of at most `alpha`
(split conformal prediction, arXiv 2107.07511; thresholds from successes alone as in FIPER, arXiv 2510.09459). One limit
for all checks costs no power when checks are correlated, as dividing `alpha` among them does. "The same kind" means the
same distribution of starts and goals, the same planner and at most as many control steps.

Shapes: `R` runs, `n` of them for the limit, `K` checks.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Self

import numpy as np

from planning.alarms import Check
from worldmodel.core.errors import UserError
from worldmodel.core.files import regular_file, write_json
from worldmodel.core.options import from_config
from worldmodel.core.strict_json import parse_json

FILE: Final = "monitor.json"
_VERSION: Final = 1
_MOST_BYTES: Final = 2**16
_SCALE_SHARE: Final = 1 / 3
# Of the centre, where nine of ten peaks are alike: a whole step of a stall, or rounding, is no spread.
_LEAST_SPREAD: Final = 0.05


@dataclasses.dataclass(frozen=True)
class Calibration:
    """Thresholds, and what they hold for.

    Attributes:
        checkpoint: hash of the world model.
        planner: hash of the planner's options.
        alpha: largest share of further successful runs with an alarm.
        runs: successful runs that it was made from.
        budget: control steps of the longest run.
        window: control steps of the scores' running means.
        limit: the largest normalised score that raises no alarm.
        checks: names of the K checks.
        centres: of their peaks, `[K]`.
        spreads: of their peaks, `[K]`.
        reached_distance: the largest latent distance at which it is right to say that the goal is reached
            (`planning.arrival`). None if no run was judged for that, or the runs cannot show it.
    """

    checkpoint: str
    planner: str
    alpha: float
    runs: int
    budget: int
    window: int
    limit: float
    checks: tuple[str, ...]
    centres: tuple[float, ...]
    spreads: tuple[float, ...]
    reached_distance: float | None = None

    def __post_init__(self) -> None:
        sizes = {len(self.checks), len(self.centres), len(self.spreads)}
        numbers = (self.limit, *self.centres, *self.spreads)
        if len(sizes) > 1 or not self.checks or not all(map(math.isfinite, numbers)) or self.window < 1:
            raise ValueError(f"{len(self.checks)} checks need as many finite centres and spreads, and a window")
        if not set(self.checks) <= set(Check):
            raise ValueError(f"checks are {', '.join(self.checks)}: expected some of {', '.join(Check)}")
        if self.reached_distance is not None and not 0 < self.reached_distance < math.inf:
            raise ValueError(f"reached_distance is {self.reached_distance}: expected a number above 0, or null")

    @property
    def thresholds(self) -> dict[Check, float]:
        """The largest value of every score that raises no alarm."""
        each = zip(self.checks, self.centres, self.spreads, strict=True)
        return {Check(name): centre + self.limit * spread for name, centre, spread in each}

    def normalised(self, scores: Mapping[Check, float]) -> float:
        """The largest of all scores in the unit of their spreads; an alarm is raised above `limit`."""
        each = zip(self.checks, self.centres, self.spreads, strict=True)
        return max((scores[Check(name)] - centre) / spread for name, centre, spread in each)

    @classmethod
    def of(cls, peaks: Sequence[Mapping[Check, float]], alpha: float, **belongs_to: Any) -> Self:
        """From the peaks of R successful runs, in an order that says nothing about them.

        Args:
            peaks: by check, for every run.
            alpha: largest share of runs with a false alarm.
            belongs_to: `checkpoint`, `planner`, `budget` and `window`, and optionally what counts as reached.

        Raises:
            UserError: for too few runs.
        """
        needed = least_runs(alpha)
        if len(peaks) < needed:
            raise UserError(
                f"{len(peaks)} successful runs cannot show that at most {alpha:.1%} raise a false alarm: expected at "
                f"least {needed}"
            )
        checks = tuple(peaks[0])
        values = np.array([[run[check] for check in checks] for run in peaks])
        scale, rest = np.split(values, [len(values) - _for_limit(len(values))])
        centres, high = np.quantile(scale, [0.5, 0.9], axis=0)
        spreads = np.maximum(high - centres, np.maximum(_LEAST_SPREAD * np.abs(centres), 1e-6))
        worst = np.sort(((rest - centres) / spreads).max(1))
        limit = float(worst[conformal_rank(len(worst), alpha) - 1])
        return cls(
            alpha=alpha,
            runs=len(peaks),
            limit=limit,
            checks=tuple(map(str, checks)),
            centres=tuple(centres.tolist()),
            spreads=tuple(spreads.tolist()),
            **belongs_to,
        )

    def write(self, path: str | Path) -> None:
        """Write it as JSON."""
        write_json({"version": _VERSION, **dataclasses.asdict(self)}, Path(path), indent=1)


def conformal_rank(count: int, alpha: float) -> int:
    """The `ceil((n + 1)(1 - alpha))`-th smallest of n values; a further one exceeds it with probability <= `alpha`."""
    # Rounded, since 20 times 0.95 is a little more than 19 in floating point.
    return math.ceil(round((count + 1) * (1 - alpha), 9))


def least_runs(alpha: float) -> int:
    """The smallest number of runs from which a threshold for `alpha` can be computed."""
    needed = 2
    while conformal_rank(_for_limit(needed), alpha) > _for_limit(needed):
        needed += 1
    return needed


def _for_limit(runs: int) -> int:
    return runs - max(1, int(runs * _SCALE_SHARE))


def read_calibration(path: Path) -> Calibration:
    """The calibration in `path`. Raises UserError if it is missing or no calibration."""
    if not path.exists():
        raise UserError(f"there is no {path}: `python -m planning.calibrate` with the same env and checkpoint makes it")
    with regular_file(path, _MOST_BYTES) as file:
        content = parse_json(file.read(), str(path))
    if not isinstance(content, dict) or content.pop("version", None) != _VERSION:
        raise UserError(f"{path} is no calibration of a monitor: expected version {_VERSION}")
    try:
        return from_config(Calibration, content, str(path))
    except TypeError as error:
        raise UserError(f"{path} is no calibration of a monitor: {error}") from error


def require_same(calibration: Calibration, path: Path, checkpoint: str, planner: str | None = None) -> None:
    """Raises UserError if the calibration belongs to another world model, or was made with another planner."""
    for what, belongs_to, here in (
        ("the world model", calibration.checkpoint, checkpoint),
        ("the planner's options", calibration.planner, planner),
    ):
        if here is not None and belongs_to != here:
            raise UserError(
                f"{path} was made for {what} {belongs_to[:12]}, and this is {here[:12]}: "
                "`python -m planning.calibrate` makes another"
            )


def hash_of(planner: Mapping[str, Any]) -> str:
    """SHA-256 of the planner's options."""
    return hashlib.sha256(json.dumps(planner, sort_keys=True).encode()).hexdigest()

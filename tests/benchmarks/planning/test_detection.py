"""Alarms are counted as the literature counts them."""

from __future__ import annotations

import pytest

from benchmarks.planning.detection import Detection, Rates, auroc
from planning.alarms import Check
from planning.calibration import Calibration
from planning.evaluation.watched import WatchedRun

CALIBRATION = Calibration(
    "c", "p", alpha=0.05, runs=50, budget=50, window=1, limit=2.0, checks=("surprise", "stall"), centres=(1.0, 5.0),
    spreads=(1.0, 5.0),
)  # fmt: skip


def seen(step: int | None, reached: bool, since: int = 0) -> Detection:
    return Detection(0.0, step, None if step is None else Check.STALL, 20, since, reached)


def test_a_detection_is_the_first_score_above_its_threshold() -> None:
    run = WatchedRun(0, True, False, {"surprise": [0.0, 2.0, 3.1, 9.0], "stall": [0.0, 0.0, 16.0, 0.0]})
    found = Detection.of(run, CALIBRATION, since=1)
    assert (found.step, found.check, found.steps, found.score) == (2, Check.STALL, 4, 8.0)
    assert found.is_true and found.time == 0.5 and found.delay == 1 and found.reached
    calm = Detection.of(WatchedRun(1, True, False, {"surprise": [3.0], "stall": [15.0]}), CALIBRATION)
    assert calm.step is None and calm.check is None and calm.score == 2.0 and not calm.is_true and calm.time == 1.0


def test_an_alarm_before_the_failure_is_none_of_it() -> None:
    assert seen(5, False, since=5).is_true and not seen(4, False, since=5).is_true


def test_only_the_outcome_counts_in_the_rates() -> None:
    """Something went wrong in all of these. An alarm in a run that reaches its goal is a false one nevertheless."""
    found = Rates.of(
        [seen(5, False), seen(15, False), seen(None, False), seen(None, False), seen(5, True), seen(None, True)]
    )
    assert (found.tpr, found.tnr, found.accuracy, found.time) == (0.5, 0.5, 0.5, 0.5)
    assert found.time_weighted == pytest.approx(((0.75 + 0.25) / 4 + 0.5) / 2)
    assert "TPR 0.50 (2 of 4), TNR 0.50 (1 of 2), accuracy 0.50" in str(found)


def test_nobody_detects_anything_in_no_runs() -> None:
    assert Rates.of([seen(None, False)]).time_weighted == 0.5 and Rates.of([seen(None, True)]).tpr == 0.0


def test_auroc_is_the_share_of_pairs_in_order() -> None:
    assert auroc([2, 3], [0, 1]) == 1 and auroc([0, 1], [2, 3]) == 0 and auroc([1, 1], [1, 1]) == 0.5

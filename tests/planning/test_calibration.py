"""Thresholds hold as often as they say, whatever the scores are like."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from planning.alarms import Check
from planning.calibration import Calibration, conformal_rank, least_runs, read_calibration
from worldmodel.core.errors import UserError

CHECKS = (Check.SURPRISE, Check.NOVELTY, Check.STALL)
BELONGS_TO = {"checkpoint": "c", "planner": "p", "budget": 50, "window": 4}


def draw_peaks(count: int, rng: np.random.Generator) -> list[dict[Check, float]]:
    """Correlated peaks: with a heavy tail, all alike but for rounding, and whole numbers with ties."""
    common = rng.standard_normal(count)
    surprise = np.exp(common + rng.standard_normal(count))
    novelty = 0.7 + 1e-4 * rng.standard_normal(count)
    stall = rng.poisson(np.exp(1 + 0.3 * common))
    return [
        {Check.SURPRISE: float(a), Check.NOVELTY: float(b), Check.STALL: float(c)}
        for a, b, c in zip(surprise, novelty, stall, strict=True)
    ]


@pytest.mark.parametrize(("alpha", "runs"), [(0.05, 60), (0.1, 40), (0.2, 30)])
def test_false_alarms_are_as_rare_as_they_say_and_hardly_rarer(alpha: float, runs: int) -> None:
    rng, rates = np.random.default_rng(0), []
    for _ in range(300):
        found = Calibration.of(draw_peaks(runs, rng), alpha, **BELONGS_TO)
        rates.append(np.mean([found.normalised(peaks) > found.limit for peaks in draw_peaks(100, rng)]))
    spread = 3 * float(np.std(rates)) / np.sqrt(len(rates))
    assert np.mean(rates) <= alpha + spread
    # With n values without ties, it is at least alpha - 1 / (n + 1).
    assert np.mean(rates) >= alpha - 1 / (2 * runs / 3) - spread


def test_thresholds_and_the_normalised_score_agree() -> None:
    rng = np.random.default_rng(1)
    found = Calibration.of(draw_peaks(60, rng), 0.1, **BELONGS_TO)
    for peaks in draw_peaks(200, rng):
        by_check = any(peaks[check] > most for check, most in found.thresholds.items())
        assert by_check == (found.normalised(peaks) > found.limit)


@pytest.mark.parametrize(("n", "alpha", "rank"), [(19, 0.05, 19), (20, 0.05, 20), (39, 0.05, 38), (9, 0.1, 9)])
def test_the_rank_is_conformal(n: int, alpha: float, rank: int) -> None:
    assert conformal_rank(n, alpha) == rank


@pytest.mark.parametrize("alpha", [0.01, 0.05, 0.1, 0.3])
def test_too_few_runs_are_refused(alpha: float) -> None:
    needed, rng = least_runs(alpha), np.random.default_rng(0)
    Calibration.of(draw_peaks(needed, rng), alpha, **BELONGS_TO)
    with pytest.raises(UserError, match=f"{needed - 1} successful runs cannot show .* expected at least {needed}"):
        Calibration.of(draw_peaks(needed - 1, rng), alpha, **BELONGS_TO)


def test_a_file_reads_back_as_it_was(tmp_path: Path) -> None:
    found = Calibration.of(draw_peaks(60, np.random.default_rng(2)), 0.1, **BELONGS_TO)
    found.write(tmp_path / "monitor.json")
    assert read_calibration(tmp_path / "monitor.json") == found


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "cannot be read"),
        ("[]", "is no calibration of a monitor: expected version 1"),
        ('{"version": 2}', "is no calibration of a monitor: expected version 1"),
        ('{"version": 1}', "monitor.json"),
        ('{"version": 1, "fire": 1}', "fire"),
    ],
)
def test_what_is_no_calibration_is_refused(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "monitor.json").write_text(text)
    with pytest.raises(UserError, match=message):
        read_calibration(tmp_path / "monitor.json")


@pytest.mark.parametrize("distance", [0.0, -1.0, float("inf")])
def test_a_distance_that_nothing_can_reach_is_refused(distance: float) -> None:
    found = Calibration.of(draw_peaks(60, np.random.default_rng(3)), 0.1, **BELONGS_TO)
    with pytest.raises(ValueError, match="expected a number above 0, or null"):
        dataclasses.replace(found, reached_distance=distance)


def test_a_check_that_nobody_knows_is_refused() -> None:
    with pytest.raises(ValueError, match="checks are luck: expected some of surprise, drift"):
        Calibration(
            "c", "p", alpha=0.1, runs=9, budget=9, window=1, limit=0.0, checks=("luck",), centres=(0.0,), spreads=(1.0,)
        )

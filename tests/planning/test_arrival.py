"""What counts as reached is right as often as it says."""

from __future__ import annotations

import numpy as np
import pytest

from planning.arrival import WRONG, Approach, Arrival, Reports, largest_rate
from worldmodel.core.errors import UserError

OWN = 0.2


def draw_runs(count: int, rng: np.random.Generator, tolerance: float = 0.1) -> list[Approach]:
    """Approaches whose true distance falls below `tolerance`, seen by a model that errs by a tenth of it."""
    runs = []
    for _ in range(count):
        true = np.abs(np.linspace(1.0, 0.0, 30) + 0.02 * rng.standard_normal(30))
        seen = np.abs(true + 0.1 * tolerance * rng.standard_normal(30))
        runs.append(Approach(seen.tolist(), (true <= tolerance).tolist()))
    return runs


def test_a_report_is_judged_where_it_is_made_first() -> None:
    run = Approach([0.5, 0.15, 0.3, 0.05], [False, False, False, True])
    assert (run.is_right(0.2), run.is_right(0.1), run.is_right(0.01)) == (False, True, None)
    found = Reports.of([run, run, Approach([1.0], [True])], 0.1)
    assert (found.said, found.right, found.wrong) == (2, 2, 0)
    assert Reports.of([Approach([np.nan], [True])], 0.1).said == 0, "a broken model says nothing"


def test_the_distance_follows_the_tolerance_of_the_task() -> None:
    rng = np.random.default_rng(0)
    coarse, fine = (Arrival.of(draw_runs(200, rng, tolerance), OWN) for tolerance in (0.2, 0.05))
    assert coarse is not None and fine is not None and fine.distance < 0.05 < coarse.distance < 0.2
    assert fine.reports.said > 100 and fine.reports.bound < WRONG


def test_reports_are_right_as_often_as_was_shown() -> None:
    rng, held = np.random.default_rng(1), []
    fresh = draw_runs(2000, rng)
    for _ in range(60):
        found = Arrival.of(draw_runs(100, rng), OWN)
        assert found is not None
        reports = Reports.of(fresh, found.distance)
        held.append(reports.wrong <= WRONG * reports.said)
    assert np.mean(held) >= 0.9 - 0.08, "in 9 of 10 calibrations, but for chance"


def test_what_runs_cannot_show_is_not_said() -> None:
    assert Arrival.of([Approach([1.0, 0.01], [False, False])] * 300, OWN) is None, "always wrong"
    assert Arrival.of([Approach([1.0], [False])] * 300, OWN) is None, "never said"
    right = Approach([1.0, 0.01], [False, True])
    assert Arrival.of([right] * 44, OWN) is None, "too few"
    found = Arrival.of([right] * 45, OWN)
    assert found is not None and found.distance == 2 * OWN and found.reports == Reports(45, 45)


def test_distances_and_successes_belong_together() -> None:
    with pytest.raises(UserError, match="2 distances and 1 successes: expected one of each"):
        Approach([0.1, 0.2], [True])


@pytest.mark.parametrize(
    ("count", "n", "bound"), [(0, 45, 0.04988), (1, 77, 0.04958), (0, 1, 0.9), (3, 3, 1.0), (0, 0, 1.0)]
)
def test_the_bound_is_that_of_clopper_and_pearson(count: int, n: int, bound: float) -> None:
    assert largest_rate(count, n, 0.9) == pytest.approx(bound, abs=1e-4)

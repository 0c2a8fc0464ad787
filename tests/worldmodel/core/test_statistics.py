"""Intervals of rates, and the sign test."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worldmodel.core.statistics import sign_test_p, wilson_interval


@given(st.integers(1, 60), st.data())
def test_an_interval_has_the_rate_inside_and_shrinks_with_more_trials(n: int, data: st.DataObject) -> None:
    successes = data.draw(st.floats(0, n))
    low, high = wilson_interval(successes, n)
    assert 0 <= low <= successes / n + 1e-12 and successes / n - 1e-12 <= high <= 1
    further = wilson_interval(4 * successes, 4 * n)
    assert further[1] - further[0] < high - low


def test_rounding_next_to_an_end_leaves_no_interval_beyond_it() -> None:
    assert wilson_interval(57.99999999999999, 58)[1] <= 1


def test_published_values() -> None:
    # Newcombe 1998, table I, method 3.
    assert wilson_interval(81, 263) == pytest.approx((0.2553, 0.3662), abs=5e-5)
    assert wilson_interval(0, 20) == pytest.approx((0.0, 0.1611), abs=5e-5)
    # Ten coins of which one shows heads: 2 (1 + 10) / 2^10.
    assert sign_test_p(1, 9) == pytest.approx(22 / 1024)


def test_nothing_gives_no_information_and_impossible_counts_are_refused() -> None:
    assert wilson_interval(0, 0) == (0.0, 1.0)
    assert sign_test_p(0, 0) == 1.0
    for successes in (-1, 4):
        with pytest.raises(ValueError, match="out of 3"):
            wilson_interval(successes, 3)
    with pytest.raises(ValueError, match="negative"):
        sign_test_p(-1, 2)

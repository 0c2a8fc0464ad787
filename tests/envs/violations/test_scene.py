"""Twins of possible clips: what is exchanged, and where."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from envs.violations.scene import MARGIN, Clip, Crossing, first_difference


def make_clip(seed: int, rows: int, size: int = 4) -> Clip:
    rng = np.random.default_rng(seed)
    return Clip(rng.normal(size=(rows, size)), rng.normal(size=(rows, 2)).astype(np.float32))


@given(st.integers(2, 30), st.data())
def test_twins_share_everything_until_the_break_and_the_rest_is_the_others(rows: int, data: st.DataObject) -> None:
    at = data.draw(st.integers(0, rows))
    columns = sorted(data.draw(st.sets(st.integers(0, 3), min_size=1)))
    others = [column for column in range(4) if column not in columns]
    first, second = make_clip(0, rows), make_clip(1, rows)
    pairs = Crossing(first, second, columns, at, ("a", "b")).pairs
    assert [pair.violation for pair in pairs] == ["a", "b"]
    for pair, own, other in zip(pairs, (first, second), (second, first), strict=True):
        assert pair.possible is own and pair.break_row == at
        twin = pair.impossible
        np.testing.assert_array_equal(twin.actions, own.actions)
        np.testing.assert_array_equal(twin.states[:at], own.states[:at])
        np.testing.assert_array_equal(twin.states[:, others], own.states[:, others])
        np.testing.assert_array_equal(twin.states[at:][:, columns], other.states[at:][:, columns])


def test_where_clips_begin_to_differ() -> None:
    first = make_clip(0, 10)
    states = first.states.copy()
    states[6:, 1] += 0.5
    states[3:, 2] += 5.0
    second = Clip(states, first.actions)
    assert first_difference(first, second, [0, 1], 0.1) == 6
    assert first_difference(first, second, [1], 0.6) == 10
    assert first_difference(first, second, [1, 2], 0.1) == 3


def test_margins() -> None:
    clip = make_clip(0, 24)
    wide = [Crossing(clip, clip, [0], at, ("a", "b")).has_margins for at in range(25)]
    assert [row for row, fits in enumerate(wide) if fits] == list(range(MARGIN, 24 - MARGIN + 1))

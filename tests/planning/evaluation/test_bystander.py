from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from planning.evaluation.bystander import SHAPES, Bystander, find_place, painted

SIZE = 64
FLOOR = np.full((SIZE, SIZE, 3), 200.0)


def moving(row: int, column: int) -> np.ndarray:
    """The floor with something on it."""
    image = FLOOR.copy()
    image[row : row + 12, column : column + 12] = 50.0
    return image


@pytest.mark.parametrize(("shape", "area"), [("disc", np.pi / 4), ("square", 1.0), ("triangle", 0.5)])
def test_an_object_covers_its_area_around_its_place(shape: str, area: float) -> None:
    image = painted(FLOOR, Bystander((0.25, 0.5), 0.2, (0.0, 0.0, 0.0), shape))
    share = 1 - image[..., 0] / 200
    assert share.sum() == pytest.approx(area * (0.2 * SIZE) ** 2, rel=0.05)
    rows, columns = np.nonzero(share)
    assert (columns.min() + columns.max() + 1) / 2 == pytest.approx(0.25 * SIZE, abs=0.6)
    assert (rows.min() + rows.max() + 1) / 2 == pytest.approx(0.5 * SIZE, abs=0.6)
    assert columns.max() - columns.min() < 0.2 * SIZE + 2


def test_another_shape_is_refused() -> None:
    with pytest.raises(ValueError, match="shape 'star': expected one of disc, square, triangle"):
        Bystander((0.5, 0.5), 0.1, (0.0, 0.0, 0.0), "star")


@settings(deadline=None, max_examples=30)
@given(
    st.integers(0, 2**31), st.integers(0, 52), st.integers(0, 52), st.integers(0, 52), st.sampled_from([0.05, 0.1, 0.2])
)
def test_it_covers_nothing_that_moves_and_lies_inside_the_image(
    seed: int, row: int, column: int, other: int, width: float
) -> None:
    start, goal = moving(row, column), moving(other, other)
    place = find_place(np.random.default_rng(seed), start, goal, width)
    moved = (start != goal).any(-1)
    for shape in SHAPES:
        covered = (painted(FLOOR, Bystander(place, width, (0.0, 0.0, 0.0), shape)) != FLOOR).any(-1)
        assert covered.any() and not (covered & moved).any()
        assert not covered[[0, -1]].any() and not covered[:, [0, -1]].any()


def test_its_place_is_random_and_the_same_again() -> None:
    places = {find_place(np.random.default_rng(seed), moving(5, 5), moving(9, 30), 0.1) for seed in range(20)}
    assert len(places) > 15
    assert find_place(np.random.default_rng(3), FLOOR, FLOOR, 0.1) == find_place(
        np.random.default_rng(3), FLOOR, FLOOR, 0.1
    )


def test_without_room_it_stands_as_far_away_as_there_is() -> None:
    goal = np.zeros_like(FLOOR)
    goal[:, 40:] = FLOOR[:, 40:]  # all but the right moves, and an object of half the width does not fit there
    x, _ = find_place(np.random.default_rng(0), FLOOR, goal, 0.5)
    assert x == pytest.approx(1 - 0.5 / np.sqrt(2), abs=0.02)

"""Accuracies, their intervals and their tests."""

from __future__ import annotations

import numpy as np
import pytest

from worldmodel.core.statistics import wilson_interval
from worldmodel.surprise.clips import CONTROLS, COPY, MODEL, PIXELS
from worldmodel.surprise.judging import ALL, Surprises, judge
from worldmodel.surprise.labels import PairLabel


def make_surprises(scene: int, model: tuple[float, float], control: tuple[float, float], **changes: str) -> Surprises:
    """A pair with the same surprise in both summaries, and in all controls."""
    names = {"property": "vanish", "variant": "hidden", "violation": "vanishes", **changes}
    label = PairLabel(**names, scene=scene, possible=0, impossible=1, break_row=3)
    values = {name: {"mean": control, "max": control} for name in CONTROLS} | {MODEL: {"mean": model, "max": model}}
    return Surprises(label, values)


def test_windows_are_summarised_by_their_mean_and_their_largest() -> None:
    label = PairLabel("vanish", "hidden", "vanishes", 0, 0, 1, 3)
    found = Surprises.of(label, {MODEL: np.array([[1.0, 5.0], [4.0, 4.0]]), COPY: np.array([[1.0], [1.0 + 1e-9]])})
    assert found.values[MODEL] == {"mean": (3.0, 4.0), "max": (5.0, 4.0)}
    assert (found.correct(MODEL, "mean"), found.correct(MODEL, "max"), found.correct(COPY, "mean")) == (1.0, 0.0, 0.5)


def test_accuracy_by_property_and_variant() -> None:
    right, wrong, same = (1.0, 2.0), (2.0, 1.0), (1.0, 1.0)
    surprises = [
        *(make_surprises(scene, right, wrong) for scene in range(4) for _ in range(2)),
        *(make_surprises(scene, pair, pair, variant="visible") for scene in range(2) for pair in (right, wrong)),
        make_surprises(0, same, right, property="wall"),
    ]
    hidden, visible, wall, everything = judge(surprises, "variant")
    assert [(row.property, row.variant, row.pairs, row.scenes) for row in (hidden, visible, wall, everything)] == [
        ("vanish", "hidden", 8, 4), ("vanish", "visible", 4, 2), ("wall", "hidden", 1, 1), (ALL, "", 13, 7),
    ]  # fmt: skip
    found = hidden.accuracy["mean"]
    assert (found.rate, found.p_chance, found.controls[PIXELS]) == (1.0, 0.125, 0.0)
    assert (found.low, found.high) == pytest.approx(wilson_interval(4, 4)), "a scene is one trial"
    assert found.p_controls[PIXELS] == 0.125
    # One right and one wrong pair in each scene say nothing.
    assert (visible.accuracy["max"].rate, visible.accuracy["max"].p_chance) == (0.5, 1.0)
    assert wall.accuracy["mean"].rate == 0.5
    assert everything.accuracy["mean"].rate == pytest.approx((8 + 2 + 0.5) / 13)


def test_what_makes_an_ending_surprising_cancels_in_a_scene() -> None:
    """One ending surprises whatever came before it, and each of them a little more where it is impossible."""
    surprises = [make_surprises(0, (1.0, 5.1), (1.0, 5.0)), make_surprises(0, (5.0, 1.1), (5.0, 1.0))]
    row, _ = judge(surprises, "variant")
    assert row.accuracy["mean"].rate == 0.5
    assert (row.by_scene.rate, row.by_scene.controls[PIXELS]) == (1.0, 0.5)
    assert (row.by_scene.low, row.by_scene.high) == pytest.approx(wilson_interval(1, 1))


def test_rows_by_violation() -> None:
    surprises = [make_surprises(0, (1.0, 2.0), (1.0, 2.0), violation=name) for name in ("appears", "vanishes")]
    assert [row.variant for row in judge(surprises, "violation")] == ["appears", "vanishes", ""]

from __future__ import annotations

import dataclasses
import functools

import numpy as np
import pytest

from planning.evaluation.optics import WHOLE_QUALITY, Pixels, looked_at
from planning.evaluation.shifts import (
    ALL,
    FINER,
    SHIFTS,
    STRENGTHS,
    CameraChange,
    Draw,
    Shift,
    apply,
    chosen,
    draw,
)

SIZE = 64
NAMED = {shift.name: shift for shift in SHIFTS}
DRAWN = Draw.of(3, "moved", "camera")
each_shift = pytest.mark.parametrize("shift", SHIFTS, ids=lambda shift: shift.name)


def table(factor: int, block: float = 0.3) -> Pixels:
    """A table with a wall around it and a block on it, `block` from its left and top."""
    place = (np.arange(SIZE * factor) + 0.5) / (SIZE * factor)
    y, x = np.meshgrid(place, place, indexing="ij")
    image = np.full((*x.shape, 3), (200, 205, 195), np.uint8)
    image[(np.minimum(x, y) < 0.05) | (np.maximum(x, y) > 0.95)] = (80, 85, 100)
    image[(abs(x - block) < 0.1) & (abs(y - block) < 0.1)] = (210, 60, 50)
    return image


def difference(shift: Shift, strength: float, drawn: Draw = DRAWN) -> float:
    """Mean difference from the clean image, of 255."""
    return float(np.abs(apply(shift, strength, table, drawn).astype(int) - table(1)).mean())


@each_shift
def test_without_strength_nothing_is_shifted(shift: Shift) -> None:
    np.testing.assert_array_equal(apply(shift, 0.0, table, DRAWN), table(1))


@each_shift
def test_the_middle_strength_shows_and_leaves_the_scene_to_be_seen(shift: Shift) -> None:
    assert 0.05 < difference(shift, STRENGTHS["middle"]) < 40  # all around the block differs by more than 100


@each_shift
def test_more_strength_differs_more(shift: Shift) -> None:
    weak, middle, strong = (difference(shift, strength) for strength in STRENGTHS.values())
    assert 0 < weak < middle < strong


@each_shift
def test_the_same_draw_gives_the_same_image(shift: Shift) -> None:
    seen = [apply(shift, 1.0, table, Draw.of(5, shift.name, "camera"), frame) for frame in (0, 0, 1)]
    np.testing.assert_array_equal(seen[0], seen[1])
    # Only noise differs from image to image: the camera and the bystander stay where they are.
    assert (seen[0] == seen[2]).all() == (shift.name not in ("noise", ALL))


def test_strengths_are_what_is_promised() -> None:
    expected = {
        "brighter": CameraChange(gains=(1.1, 1.1, 1.1)),
        "darker": CameraChange(gains=(0.9, 0.9, 0.9)),
        "warmer": CameraChange(gains=(1.05, 1.0, 0.92)),
        "cooler": CameraChange(gains=(0.95, 1.0, 1.08)),
        "blur": CameraChange(blur_px=0.5),
        "jpeg": CameraChange(jpeg_quality=75),
        "noise": CameraChange(noise=5.0),
        "turned": CameraChange(turned_deg=3.0 * DRAWN.turn),
        "closer": CameraChange(zoom=1.03),
        "further": CameraChange(zoom=0.97),
        "bystander": CameraChange(bystander=0.1),
    }
    assert {name: NAMED[name].change(1.0, DRAWN) for name in expected} == expected
    assert set(NAMED) - set(expected) == {"moved", ALL}
    assert np.hypot(*NAMED["moved"].change(1.0, DRAWN).moved) == pytest.approx(0.03)
    assert [NAMED["jpeg"].change(strength, DRAWN).jpeg_quality for strength in STRENGTHS.values()] == [90, 75, 50]
    assert NAMED["warmer"].amount(1.0) == "1.05 / 0.92" and NAMED["jpeg"].amount(0.5) == "quality 90"


def test_gain_multiplies_what_is_not_saturated() -> None:
    bright = apply(NAMED["brighter"], 2.0, lambda factor: np.full((8, 8, 3), (100, 200, 250), np.uint8), DRAWN)
    np.testing.assert_array_equal(bright[0, 0], [120, 240, 255])


def test_the_camera_moves_by_whole_pixels_in_its_direction() -> None:
    down = dataclasses.replace(DRAWN, direction=np.pi / 2)
    strength = 2 / SIZE / 0.03  # two pixels
    moved = apply(NAMED["moved"], strength, table, down)
    clean = looked_at(table(FINER), FINER, (0.0, 0.0), 0.0, 1.0)
    np.testing.assert_allclose(moved[2:], clean[:-2], atol=0.51)
    assert np.abs(moved[2:].astype(int) - table(1)[2:]).max() > 100


def test_noise_has_its_standard_deviation() -> None:
    off = apply(NAMED["noise"], 1.0, lambda factor: np.full((100, 100, 3), 128, np.uint8), DRAWN).astype(float) - 128
    assert off.std() == pytest.approx(5, rel=0.03) and abs(off.mean()) < 0.1


def test_all_at_once_has_a_part_of_each_and_the_signs_that_were_drawn() -> None:
    drawn = dataclasses.replace(DRAWN, turn=-1, light=1, warmth=-1, zoom=-1)
    together = NAMED[ALL].change(1.0, drawn)
    parts = [NAMED[n].change(1.0, drawn) for n in ("brighter", "cooler", "further", "turned", "moved")]
    gains = np.multiply(parts[0].gains, parts[1].gains)
    assert together.gains == pytest.approx(gains) and together.zoom == 0.97 and together.turned_deg == -3
    assert together.moved == parts[4].moved
    assert (together.blur_px, together.noise, together.jpeg_quality, together.bystander) == (0.5, 5.0, 75, 0.1)


def test_chance_depends_on_pair_shift_and_camera() -> None:
    draws = [Draw.of(*key) for key in ((0, "moved", "a"), (1, "moved", "a"), (0, "turned", "a"), (0, "moved", "b"))]
    assert len({drawn.direction for drawn in draws}) == 4
    assert Draw.of(0, "moved", "a") == draws[0]
    many = [Draw.of(seed, ALL, "a") for seed in range(200)]
    for name in ("turn", "light", "warmth", "zoom"):
        assert 70 < sum(getattr(drawn, name) == 1 for drawn in many) < 130
    angles = np.array([drawn.direction for drawn in many])
    assert np.hypot(np.cos(angles).mean(), np.sin(angles).mean()) < 0.2
    assert min(max(drawn.colour) - min(drawn.colour) for drawn in many) > 45  # none is grey


def _far(strength: float, drawn: Draw) -> CameraChange:
    return CameraChange(moved=(0.3 * strength, 0.0), bystander=0.1)


@pytest.mark.parametrize(
    "shift", [NAMED["bystander"], NAMED[ALL], Shift("far", "far", str, _far)], ids=lambda s: s.name
)
@pytest.mark.parametrize("strength", STRENGTHS.values())
def test_the_bystander_keeps_away_from_what_moves_as_the_shifted_camera_sees_it(shift: Shift, strength: float) -> None:
    renders = [functools.partial(table, block=block) for block in (0.3, 0.5)]
    for seed in range(10):
        drawn = draw(shift, strength, seed, "camera", *renders)
        change = dataclasses.replace(shift.change(strength, drawn), blur_px=0.0, noise=0.0, jpeg_quality=WHOLE_QUALITY)
        clean = dataclasses.replace(change, bystander=0.0)
        ways = [Shift("", "", str, lambda s, d, changed=changed: changed) for changed in (change, clean)]
        with_it, without = ([apply(way, strength, render, drawn) for render in renders] for way in ways)
        covered = [(a != b).any(-1) for a, b in zip(with_it, without, strict=True)]
        moving = np.abs(without[0].astype(int) - without[1]).max(-1) > 16
        assert covered[0].any() and not (covered[0] & moving).any()
        np.testing.assert_array_equal(covered[0], covered[1])


def test_shifts_are_chosen_by_name_or_group() -> None:
    assert [shift.name for shift in chosen(["moved", "white_balance"])] == ["warmer", "cooler", "moved"]
    assert [shift.name for shift in chosen(["light"])] == ["brighter", "darker"]
    with pytest.raises(ValueError, match=r"unknown shift 'white': choose from .*did you mean white_balance\?"):
        chosen(["white"])

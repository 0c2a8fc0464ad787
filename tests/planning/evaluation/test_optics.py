from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from planning.evaluation.optics import Colours, Pixels, blurred, compressed, looked_at, quantised

FACTOR, HEIGHT, WIDTH = 4, 20, 28
STILL = {"moved": (0.0, 0.0), "turned_deg": 0.0, "zoom": 1.0}
NOISE = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)


def finer(image: Pixels) -> Pixels:
    return image.repeat(FACTOR, 0).repeat(FACTOR, 1)


def from_centre(height: int, width: int, size: float) -> tuple[Colours, Colours]:
    """Right and down of the middle of every pixel, in pixels of `size`."""
    rows, columns = np.mgrid[:height, :width]
    return (columns + 0.5 - width / 2) * size, (rows + 0.5 - height / 2) * size


def test_from_its_usual_place_a_camera_averages_what_a_pixel_covers() -> None:
    fine = np.random.default_rng(1).integers(0, 256, (HEIGHT * FACTOR, WIDTH * FACTOR, 3), np.uint8)
    averaged = fine.reshape(HEIGHT, FACTOR, WIDTH, FACTOR, 3).mean((1, 3))
    np.testing.assert_allclose(looked_at(fine, FACTOR, **STILL), averaged, atol=1e-9)


@pytest.mark.parametrize("right", [-3, 0, 2])
@pytest.mark.parametrize("down", [-1, 0, 4])
def test_moved_by_whole_pixels_the_image_moves_and_its_edge_is_repeated(right: int, down: int) -> None:
    seen = looked_at(finer(NOISE), FACTOR, (right / WIDTH, down / WIDTH), 0.0, 1.0)
    rows = np.clip(np.arange(HEIGHT) - down, 0, HEIGHT - 1)
    columns = np.clip(np.arange(WIDTH) - right, 0, WIDTH - 1)
    np.testing.assert_allclose(seen, NOISE[rows][:, columns], atol=1e-6)


def test_a_quarter_turn_is_clockwise() -> None:
    square = NOISE[:, :HEIGHT]
    np.testing.assert_allclose(looked_at(finer(square), FACTOR, (0.0, 0.0), 90.0, 1.0), np.rot90(square, -1), atol=1e-6)


@settings(deadline=None, max_examples=40)
@given(
    st.floats(-0.1, 0.1), st.floats(-0.1, 0.1), st.floats(-20, 20), st.floats(0.8, 1.3)
)  # fmt: skip
def test_a_slope_is_moved_turned_and_enlarged_as_the_equation_says(
    right: float, down: float, degrees: float, zoom: float
) -> None:
    def slope(x: Colours, y: Colours) -> Colours:
        return np.stack([127 + 6 * x, 127 + 6 * y, 127 + 3 * x - 4 * y], axis=-1)

    fine = quantised(slope(*from_centre(HEIGHT * FACTOR, WIDTH * FACTOR, 1 / FACTOR)))
    seen = looked_at(fine, FACTOR, (right, down), degrees, zoom)
    x, y = from_centre(HEIGHT, WIDTH, 1.0)
    x, y, angle = x - right * WIDTH, y - down * WIDTH, np.radians(degrees)
    came_from = (np.cos(angle) * x + np.sin(angle) * y) / zoom, (np.cos(angle) * y - np.sin(angle) * x) / zoom
    inside = (abs(came_from[0]) < WIDTH / 2 - 2) & (abs(came_from[1]) < HEIGHT / 2 - 2)
    assert inside.any()
    np.testing.assert_allclose(seen[inside], slope(*came_from)[inside], atol=0.6)  # `fine` is rounded


@pytest.mark.parametrize("std", [0.1, 0.25, 0.5, 1.0, 2.0])
def test_the_blur_has_the_variance_that_it_says(std: float) -> None:
    point = np.zeros((41, 41, 3))
    point[20, 20] = 1
    spread = blurred(point, std)[..., 0]
    assert spread.sum() == pytest.approx(1)
    assert spread.min() > -1e-5 * spread.max()
    x, y = from_centre(41, 41, 1.0)
    assert (spread * x**2).sum() == pytest.approx(std**2, rel=1e-3)
    assert (spread * y**2).sum() == pytest.approx(std**2, rel=1e-3)


def test_no_blur_is_none_and_a_plain_image_has_none_at_its_edge() -> None:
    image = NOISE.astype(np.float64)
    np.testing.assert_array_equal(blurred(image, 0.0), image)
    np.testing.assert_allclose(blurred(np.full((6, 9, 3), 200.0), 1.0), 200.0)


def test_too_bright_is_white_and_too_dark_black() -> None:
    np.testing.assert_array_equal(quantised(np.array([[[-3.0, 255.6, 99.5]]])), [[[0, 255, 100]]])


def test_less_quality_is_farther_from_the_original() -> None:
    smooth = quantised(blurred(NOISE.astype(np.float64), 2.0))
    errors = [np.abs(compressed(smooth, q).astype(int) - smooth).mean() for q in (100, 90, 75, 50)]
    assert errors[0] == 0 and errors == sorted(errors) and 0 < errors[1] < errors[-1] < 20

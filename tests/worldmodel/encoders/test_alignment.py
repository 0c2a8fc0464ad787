"""A camera's change is measured by the background, whatever stands in front of it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from worldmodel.encoders.alignment import Aligner, CameraChange, background, reduced, with_gradients

HEIGHT, WIDTH = 64, 80


def scene(seed: int = 0, height: int = HEIGHT, width: int = WIDTH) -> NDArray[np.float64]:
    """A smooth background with structure everywhere, `[H, W, 3]`."""
    coarse = torch.from_numpy(np.random.default_rng(seed).uniform(30, 220, (1, 3, height // 8, width // 8)))
    fine = F.interpolate(coarse, (height, width), mode="bicubic", align_corners=False).clamp(0, 255)
    return fine[0].permute(1, 2, 0).numpy()


def seen(image: NDArray[np.float64], pose: tuple[float, ...], gains: tuple[float, ...]) -> NDArray[np.uint8]:
    """What a camera shows of `image [H, W, 3]` for which `pose` and `gains` are the answer."""
    height, width = image.shape[:2]
    a, b, u, v = pose
    back = np.linalg.inv([[1 + a, -b, u], [b, 1 + a, v], [0, 0, 1]])
    rows, columns = np.mgrid[:height, :width] + 0.5
    places = np.stack([columns - width / 2, rows - height / 2, np.full_like(rows, width)], axis=-1) / width
    there = (places @ back.T)[..., :2] * [2, 2 * width / height]
    source = torch.from_numpy(image).permute(2, 0, 1)[None]
    warped = F.grid_sample(
        source, torch.from_numpy(there)[None], mode="bicubic", padding_mode="border", align_corners=False
    )
    return np.clip(np.rint(warped[0].permute(1, 2, 0).numpy() / gains), 0, 255).astype(np.uint8)


def with_object(image: NDArray[np.uint8], row: int, column: int) -> NDArray[np.uint8]:
    """The same with a bright square of a quarter of the height in front."""
    hidden = image.copy()
    hidden[row : row + 16, column : column + 16] = (250, 30, 30)
    return hidden


def aligner(image: NDArray[np.float64]) -> Aligner:
    return Aligner(image, np.ones(image.shape[:2]))


def corner_error_px(found: CameraChange, pose: tuple[float, ...], height: int = HEIGHT, width: int = WIDTH) -> float:
    """Largest distance between where a corner is and where it is found to be."""
    away = found.pose - np.array(pose)
    corners = np.array([[x, y * height / width] for x in (-0.5, 0.5) for y in (-0.5, 0.5)])
    moved = [(away[0] * x - away[1] * y + away[2], away[1] * x + away[0] * y + away[3]) for x, y in corners]
    return float(np.linalg.norm(moved, axis=1).max() * width)


small = st.floats(-0.05, 0.05)
gain = st.floats(0.85, 1.15)


@settings(max_examples=40, deadline=None)
@given(st.tuples(small, small, small, small), st.tuples(gain, gain, gain), st.integers(0, 48), st.integers(0, 64))
def test_pose_and_light_are_found_behind_an_object(
    pose: tuple[float, ...], gains: tuple[float, ...], row: int, column: int
) -> None:
    image = scene()
    found = aligner(image).estimate(with_object(seen(image, pose, gains), row, column))
    assert corner_error_px(found, pose) < 0.5
    np.testing.assert_allclose(found.gains, gains, atol=0.03)
    assert found.is_plausible


def test_what_stands_still_has_not_moved_at_all() -> None:
    image = scene()
    found = aligner(image).estimate(with_object(np.rint(image).astype(np.uint8), 20, 30))
    assert found.shift * WIDTH < 0.01
    np.testing.assert_allclose(found.gains, 1, atol=1e-3)
    assert found.inliers > 0.85


def test_images_of_any_size_are_compared_at_one_size() -> None:
    image = scene(1, 240, 320)
    pose = (0.02, -0.03, 0.02, 0.03)
    found = aligner(image).estimate(seen(image, pose, (1.0, 1.0, 1.0)))
    assert corner_error_px(found, pose, 240, 320) < 1.0  # of 320 pixels, where 64 are compared


def test_nothing_is_found_in_noise() -> None:
    rng = np.random.default_rng(0)
    with_scene = aligner(scene())
    noise = [with_scene.estimate(rng.integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)).inliers for _ in range(5)]
    assert max(noise) < 0.3


def test_a_background_without_structure_leaves_the_pose_alone() -> None:
    plain = np.full((HEIGHT, WIDTH, 3), 120.0)
    found = aligner(plain).estimate(with_object(np.full((HEIGHT, WIDTH, 3), 132, np.uint8), 10, 10))
    assert found.shift * WIDTH < 0.2
    np.testing.assert_allclose(found.gains, 120 / 132, atol=0.01)


def test_an_unobservable_zoom_stays_at_one() -> None:
    """A checkerboard of four fields looks the same at every zoom about its centre."""
    board = np.full((96, 96, 3), 60.0)
    board[:48, :48] = board[48:, 48:] = 120.0
    inner = slice(16, 80)
    # The camera sees more of the board when it moves. Poses count in widths, which differ.
    view = seen(board, (0.0, 0.04, 0.02, -0.02), (1.0, 1.0, 1.0))[inner, inner]
    pose = (0.0, 0.04, 0.03, -0.03)
    found = aligner(board[inner, inner]).estimate(view)
    assert abs(found.pose[0]) < 0.01
    np.testing.assert_allclose(found.pose[1:], pose[1:], atol=0.005)


def test_a_hint_gives_the_same_answer() -> None:
    image, pose = scene(2), (0.03, 0.05, -0.05, 0.04)
    changed, by_hint = seen(image, pose, (1.1, 1.0, 0.9)), aligner(image)
    first = by_hint.estimate(changed)
    again = by_hint.estimate(with_object(changed, 30, 40), hint=first)
    assert corner_error_px(again, pose) < 0.3
    # A hint that no longer fits is forgotten: the camera has been put back.
    back = by_hint.estimate(np.rint(image).astype(np.uint8), hint=first)
    assert back.shift * WIDTH < 0.05


@pytest.mark.parametrize("value", [0, 255])
def test_a_black_or_white_image_is_no_error(value: int) -> None:
    found = aligner(scene()).estimate(np.full((HEIGHT, WIDTH, 3), value, np.uint8))
    assert np.isfinite(found.pose).all() and np.isfinite(found.gains).all()


def test_gradients_are_per_width() -> None:
    ramp = np.zeros((8, 16, 3))
    ramp += np.arange(16)[None, :, None] * 2.0 + np.arange(8)[:, None, None] * 3.0
    inner = with_gradients(ramp)[1:-1, 1:-1]
    np.testing.assert_allclose(inner[..., 3:6], 2.0 * 16)
    np.testing.assert_allclose(inner[..., 6:], 3.0 * 16)


def test_reduced_images_are_averages() -> None:
    image = np.random.default_rng(0).uniform(0, 255, (130, 200, 3))
    small_image = reduced(image, 64)
    assert small_image.shape == (65, 100, 3)
    np.testing.assert_allclose(small_image[3, 4], image[6:8, 8:10].mean((0, 1)))


def test_the_background_is_what_most_frames_show() -> None:
    image = np.rint(scene()).astype(np.uint8)
    rng = np.random.default_rng(0)
    frames = [with_object(image, *map(int, rng.integers(0, 48, 2))) for _ in range(60)]
    reference, trust = background(frames)
    np.testing.assert_array_equal(reference, image)
    shown = np.mean([(frame == image).all(-1) for frame in frames], axis=0)
    assert float(np.abs(trust - shown).max()) < 0.2 and trust.shape == (HEIGHT, WIDTH)

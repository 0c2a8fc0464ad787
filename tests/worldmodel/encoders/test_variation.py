"""Variations of camera and light change what they say and nothing else."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from worldmodel.encoders.variation import VariationConfig, VariedFrames, vary

KEPT = {"every": 1, "jpeg_quality": 50}
SAME = VariationConfig(**{f.name: 0.0 for f in dataclasses.fields(VariationConfig) if f.name not in KEPT}, **KEPT)


def some_images(count: int = 6, height: int = 24, width: int = 40) -> np.ndarray:
    """Smooth images, so that warps by fractions of a pixel can be followed."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:height, :width]
    waves = [np.sin(x / rng.uniform(4, 9) + y / rng.uniform(4, 9) + rng.uniform(0, 6)) for _ in range(count * 3)]
    return (127 + 90 * np.stack(waves).reshape(count, 3, height, width)).transpose(0, 2, 3, 1).astype(np.uint8)


def varied(images: np.ndarray, seed: int = 1, **changes: float) -> np.ndarray:
    return vary(images, dataclasses.replace(SAME, **changes), np.random.default_rng(seed)).astype(int)


def test_no_variation_leaves_every_image_as_it_is() -> None:
    images = some_images()
    np.testing.assert_array_equal(varied(images), images)


@pytest.mark.parametrize(
    "name", ["move", "turn", "zoom", "light", "tint", "hue", "offset", "blur", "noise", "bystander", "jpeg"]
)
def test_each_variation_changes_the_images(name: str) -> None:
    images = np.random.default_rng(0).integers(60, 190, (6, 24, 40, 3), np.uint8)
    most = {"turn": 10.0, "blur": 1.0, "bystander": 1.0, "jpeg": 1.0}.get(name, 0.1)
    changed = varied(images, **{name: most}, **({"bystander_size": 0.2} if name == "bystander" else {}))
    assert changed.shape == images.shape
    assert all((after != before).any() for after, before in zip(changed, images, strict=True))


def test_a_moved_camera_moves_the_image_by_no_more_than_it_says() -> None:
    """Of a horizontal ramp, a movement is an offset."""
    ramp = np.broadcast_to(np.arange(40, 200, 4, np.uint8)[None, None, :, None], (200, 24, 40, 3))
    moved = (varied(ramp, move=0.1)[:, 12, 20] - ramp[:, 12, 20].astype(int))[:, 0] / 4  # pixels
    assert np.abs(moved).max() <= 0.1 * 40 + 0.5 and np.abs(moved).max() > 3
    assert moved.min() < -1 and moved.max() > 1


def test_light_is_a_gain_of_all_colours_and_tint_one_of_each() -> None:
    grey = np.full((100, 8, 8, 3), 100, np.uint8)
    light, tint = varied(grey, light=0.2), varied(grey, tint=0.2)
    assert (np.ptp(light, axis=(1, 2, 3)) == 0).all() and np.ptp(light[:, 0, 0, 0]) > 20
    assert light.min() >= 83 and light.max() <= 120
    assert (np.ptp(tint, axis=(1, 2)) == 0).all() and np.ptp(tint[:, 0, 0], axis=1).max() > 10


def test_hue_gives_the_images_other_colours_and_leaves_grey_alone() -> None:
    images = np.full((200, 4, 4, 3), 120, np.uint8)
    images[:, :2] = [200, 40, 40]
    turned = varied(images, hue=0.5)
    assert (turned[:, 2:] == 120).all()
    assert (turned[:, :2].max(-1) == 200).all() and (np.ptp(turned[:, :2], axis=(1, 2)) == 0).all()
    assert set(turned[:, 0, 0].argmax(-1)) == {0, 1, 2}, "every colour occurs"
    assert (varied(images, hue=0.05)[:, 0, 0].argmax(-1) == 0).all()


def test_a_bystander_has_one_colour_and_the_size_that_it_may_have() -> None:
    grey = np.full((300, 40, 40, 3), 100, np.uint8)
    touched = (varied(grey, bystander=0.5, bystander_size=0.1) != 100).any(-1).sum((1, 2))
    assert 0.35 < (touched > 0).mean() < 0.6  # some are outside, or as grey as the image
    assert touched.max() <= (2 * (0.1 * 40 + 1)) ** 2


def test_where_images_are_aligned_little_of_the_camera_and_the_light_is_left() -> None:
    config = VariationConfig(aligned=0.25)
    left = config.of_aligned()
    assert left == dataclasses.replace(
        config,
        **{name: 0.25 * getattr(config, name) for name in ("move", "turn", "light", "tint", "offset")},
    )
    assert dataclasses.replace(config, aligned=1.0).of_aligned() == dataclasses.replace(config, aligned=1.0)


def test_compression_leaves_the_image_recognisable() -> None:
    images = some_images()
    assert 0.1 < np.abs(varied(images, jpeg=1.0) - images).mean() < 12
    assert (varied(images, jpeg=0.5) == images).all((1, 2, 3)).any()


@pytest.mark.parametrize("values", [{"jpeg_quality": 0}, {"jpeg_quality": 96}, {"jpeg": 1.5}, {"aligned": -0.1}])
def test_values_out_of_range_are_refused(values: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(values))):
        VariationConfig(**values)


def test_a_turn_keeps_proportions_of_an_image_that_is_not_square() -> None:
    """A disc in the middle stays where it is, and round."""
    y, x = np.mgrid[:24, :40]
    disc = (np.hypot(y - 11.5, x - 19.5) < 6).astype(np.uint8)[None, :, :, None] * np.full(3, 200, np.uint8)
    turned = varied(np.broadcast_to(disc, (20, 24, 40, 3)), turn=180.0)
    assert np.abs(turned - disc).mean() < 6


def test_frames_are_varied_when_asked_for_and_the_same_each_time() -> None:
    images = some_images(8)
    frames = VariedFrames(images, np.array([1, 3, 5, 7]), VariationConfig(2), seed=3)
    assert len(frames) == 4
    once, again = frames[np.array([1, 2])], frames[np.array([1, 2])]
    np.testing.assert_array_equal(once, again)
    assert (VariedFrames(images, frames.rows, VariationConfig(2), seed=4)[np.array([1, 2])] != once).any()
    same = VariedFrames(images, frames.rows, SAME, seed=3)
    np.testing.assert_array_equal(same[np.array([1, 2])], images[[3, 5]])


@pytest.mark.parametrize(
    "change", [{"every": -1}, {"move": 0.6}, {"light": 1.0}, {"noise": -0.1}, {"hue": 0.6}, {"blur": 2.0}]
)
def test_what_no_image_can_be(change: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=f"{next(iter(change))} .*: expected a"):
        dataclasses.replace(SAME, **change)

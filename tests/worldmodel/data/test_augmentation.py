"""Crops and colours are those of torchvision.

`tests/golden/augmentation.json` holds what torchvision 0.28's transforms of version 2 make of a clip and of an image.
"""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.source_tree import ROOT
from worldmodel.data import augmentation
from worldmodel.data.augmentation import AugmentationConfig, Crop, draw_crop, jitter, middle_crop

GOLDEN: dict[str, Any] = json.loads((ROOT / "tests" / "golden" / "augmentation.json").read_text())
CLIP = np.array(GOLDEN["clip"], np.uint8)


@pytest.mark.parametrize("case", GOLDEN["cases"], ids=lambda c: f"{c['change']} {c['amount']}")
def test_colours_change_as_in_torchvision(case: dict[str, Any]) -> None:
    change = getattr(augmentation, f"adjust_{case['change']}")
    assert (change(CLIP, case["amount"]) == np.array(case["result"])).all()


def test_a_crop_is_resized_as_in_torchvision() -> None:
    picture, crop = np.array(GOLDEN["picture"], np.uint8), Crop(*GOLDEN["crop"])
    difference = np.abs(crop.resized(picture, 16, 12).astype(int) - np.array(GOLDEN["resized"]))
    assert difference.max() <= 1 and (difference > 0).mean() < 0.01  # Pillow rounds between its two passes


@given(st.integers(1, 300), st.integers(1, 300), st.integers(0, 2**32))
def test_a_crop_lies_within_the_image(height: int, width: int, seed: int) -> None:
    crop = draw_crop(height, width, AugmentationConfig(), np.random.default_rng(seed))
    assert 0 <= crop.top <= crop.top + crop.height <= height and crop.height >= 1
    assert 0 <= crop.left <= crop.left + crop.width <= width and crop.width >= 1


def test_areas_and_ratios_of_crops_are_those_asked_for() -> None:
    rng, config = np.random.default_rng(0), AugmentationConfig(crop_scale=(0.2, 0.5), crop_ratio=(0.5, 2.0))
    crops = [draw_crop(200, 200, config, rng) for _ in range(2000)]
    areas = np.array([c.height * c.width for c in crops]) / 200**2
    ratios = np.log([c.width / c.height for c in crops])
    assert areas.min() > 0.19 and areas.max() < 0.51 and abs(areas.mean() - 0.35) < 0.01
    assert np.abs(ratios).max() < np.log(2) + 0.03 and abs(ratios.mean()) < 0.03


def test_a_crop_that_never_fits_is_taken_from_the_middle() -> None:
    crop = draw_crop(10, 1000, AugmentationConfig(crop_scale=(1.0, 1.0)), np.random.default_rng(0))
    assert crop == middle_crop(10, 1000, 0.75, 1.35) == Crop(0, 493, 10, 14)


def test_without_jitter_colours_stay() -> None:
    assert jitter(CLIP, AugmentationConfig(), np.random.default_rng(0)) is CLIP


def test_all_frames_of_a_clip_change_alike() -> None:
    still = np.repeat(CLIP[:1], 3, axis=0)
    config = AugmentationConfig(brightness=0.4, contrast=0.4, saturation=0.4, hue=0.1)
    changed = jitter(still, config, np.random.default_rng(1))
    assert (changed == changed[:1]).all() and (changed != still).any()
    again = jitter(still, config, np.random.default_rng(1))
    assert (changed == again).all()


@pytest.mark.parametrize(
    "options", [{"crop_scale": (0.5, 0.2)}, {"crop_ratio": (1.0,)}, {"hue": 0.6}, {"contrast": -1}]
)
def test_impossible_options_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(options))):
        AugmentationConfig(**options)

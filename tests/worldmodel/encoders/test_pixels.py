"""Pixels in the place of an encoder."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch

from tests.worldmodel.toy import MODEL, SPEC
from worldmodel.core.checkpoint import weights_hash
from worldmodel.core.spec import CAMERA
from worldmodel.encoders.pixels import PixelConfig, PixelPatches
from worldmodel.models.keypoint.model import KeypointModel
from worldmodel.models.registry import load_model

CONFIG = PixelConfig(patch_size=8, shrink=2)


def test_a_token_holds_the_means_of_its_own_patch() -> None:
    picture = torch.zeros(1, 32, 32, 3, dtype=torch.uint8)
    dark = PixelPatches(CONFIG).encode_frames(picture)
    picture[0, 8:10, 16:18, 1] = 255  # green in the second row of patches, third from the left, upper left corner
    tokens = PixelPatches(CONFIG).encode_frames(picture)
    assert tokens.shape == (1, CONFIG.grid(32, 32).tokens, CONFIG.width) == (1, 16, 48)
    changed = (tokens != dark).nonzero()
    assert changed.tolist() == [[0, 4 + 2, 1]]
    assert tokens[0, 6, 1] == 2.0


def test_pictures_need_not_be_square() -> None:
    pictures = torch.randint(0, 256, (2, 16, 24, 3), dtype=torch.uint8)
    tokens = PixelPatches(CONFIG).encode_frames(pictures)
    assert tokens.shape == (2, 6, 48)
    corner = PixelPatches(CONFIG).encode_frames(pictures[:, 8:, 16:])
    assert torch.equal(tokens[:, 5:], corner), "the last token is the lower right corner"


@pytest.mark.parametrize("sizes", [(0, 1), (8, 3), (8, 0)])
def test_sizes_that_do_not_fit_are_refused(sizes: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match=r"at least 1|not a multiple"):
        PixelConfig(*sizes)


def test_a_world_model_on_pixels_comes_back_from_disk(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = KeypointModel(SPEC, dataclasses.replace(MODEL, encoder=CONFIG)).eval()
    pictures = torch.randint(0, 256, (8, 32, 32, 3), dtype=torch.uint8)
    model.view(CAMERA).compression.fit(model.encoder.encode_frames(pictures)[None])
    model.save(tmp_path, {})
    loaded = load_model(str(tmp_path), torch.device("cpu"))
    assert isinstance(loaded, KeypointModel)
    assert loaded.config == model.config
    assert weights_hash(loaded.encoder) == weights_hash(model.encoder)
    torch.testing.assert_close(loaded.tokens(CAMERA, pictures), model.tokens(CAMERA, pictures), atol=5e-2, rtol=1e-2)

"""Pixels in the place of an encoder."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch

from tests.worldmodel.toy import MODEL, SPEC
from worldmodel.core.checkpoint import weights_hash
from worldmodel.encoders.pixels import PixelConfig, PixelPatches
from worldmodel.models.keypoint.model import WorldModel

CONFIG = PixelConfig(image_size=32, patch_size=8, shrink=2)


def test_a_token_holds_the_means_of_its_own_patch() -> None:
    picture = torch.zeros(1, 32, 32, 3, dtype=torch.uint8)
    dark = PixelPatches(CONFIG).encode_frames(picture)
    picture[0, 8:10, 16:18, 1] = 255  # green in the second row of patches, third from the left, upper left corner
    tokens = PixelPatches(CONFIG).encode_frames(picture)
    assert tokens.shape == (1, CONFIG.tokens_per_frame, CONFIG.width) == (1, 16, 48)
    changed = (tokens != dark).nonzero()
    assert changed.tolist() == [[0, 4 + 2, 1]]
    assert tokens[0, 6, 1] == 2.0


@pytest.mark.parametrize("sizes", [(32, 5, 1), (32, 8, 3), (32, 8, 0)])
def test_sizes_that_do_not_fit_are_refused(sizes: tuple[int, int, int]) -> None:
    with pytest.raises(ValueError, match=r"at least 1|not a multiple"):
        PixelConfig(*sizes)


def test_a_world_model_on_pixels_comes_back_from_disk(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = WorldModel(SPEC, dataclasses.replace(MODEL, encoder=CONFIG)).eval()
    pictures = torch.randint(0, 256, (8, 32, 32, 3), dtype=torch.uint8)
    model.compression.fit(model.encoder.encode_frames(pictures)[None])
    model.save(tmp_path, {})
    loaded = WorldModel.load(str(tmp_path), torch.device("cpu"))
    assert loaded.config == model.config
    assert weights_hash(loaded.encoder) == weights_hash(model.encoder)
    torch.testing.assert_close(loaded.tokens(pictures), model.tokens(pictures), atol=5e-2, rtol=1e-2)

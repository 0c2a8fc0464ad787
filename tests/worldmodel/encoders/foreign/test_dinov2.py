"""Weights of DINOv2 give the features of the reference implementation."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from tests.worldmodel.encoders.foreign.official import randomise
from worldmodel.core.errors import UserError
from worldmodel.encoders.foreign.dinov2 import Dinov2

transformers = pytest.importorskip("transformers", reason="the reference implementation, in the extra dev")
SHAPE = {"hidden_size": 48, "num_attention_heads": 3, "num_hidden_layers": 2, "image_size": 70, "patch_size": 14}


def saved(folder: Path, registers: int = 0, **changes: Any) -> Any:
    """A small random model, saved as the official ones are."""
    if registers:
        config = transformers.Dinov2WithRegistersConfig(**SHAPE, num_register_tokens=registers, **changes)
        model = transformers.Dinov2WithRegistersModel(config).eval()
    else:
        model = transformers.Dinov2Model(transformers.Dinov2Config(**SHAPE, **changes)).eval()
    randomise(model, spread=0.05)
    model.save_pretrained(folder)
    return model


@pytest.mark.parametrize(
    ("registers", "changes"), [(0, {}), (0, {"use_swiglu_ffn": True}), (4, {})], ids=["plain", "gated", "registers"]
)
@pytest.mark.parametrize("size", [(70, 70), (42, 84)], ids=["as trained", "resized positions"])
def test_features_are_those_of_the_reference(
    registers: int, changes: dict[str, Any], size: tuple[int, int], tmp_path: Path
) -> None:
    model = saved(tmp_path, registers, **changes)
    encoder = Dinov2.read(str(tmp_path), min(size))
    images = torch.randint(0, 256, (2, *size, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    with torch.no_grad():
        wanted = model(pixel_values=((images / 255 - mean) / std).permute(0, 3, 1, 2)).last_hidden_state
    features = encoder.encode_frames(images)
    assert features.shape == (2, size[0] // 14 * (size[1] // 14), 48)
    torch.testing.assert_close(features, wanted[:, 1 + registers :], atol=1e-5, rtol=1e-5)


def test_what_it_was_trained_at_and_what_it_refuses(tmp_path: Path) -> None:
    saved(tmp_path)
    encoder = Dinov2.read(str(tmp_path), None)
    assert (encoder.config.resolution, encoder.config.position_side, encoder.config.registers) == (224, 5, 0)
    path = tmp_path / "config.json"
    path.write_text(path.read_text().replace('"hidden_act": "gelu"', '"hidden_act": "relu"'))
    with pytest.raises(UserError, match="hidden_act is 'relu', expected gelu"):
        Dinov2.read(str(tmp_path), None)

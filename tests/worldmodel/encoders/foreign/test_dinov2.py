"""Weights of DINOv2 give the features of the reference implementation."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tests.worldmodel.encoders.foreign.official import randomise
from worldmodel.core.errors import UserError
from worldmodel.encoders.foreign.dinov2 import Dinov2

transformers = pytest.importorskip("transformers", reason="the reference implementation, in the extra dev")
SHAPE = {"hidden_size": 48, "num_attention_heads": 3, "num_hidden_layers": 2, "image_size": 70, "patch_size": 14}


def saved(folder: Path, registers: int = 0, **changes: Any) -> Any:
    """A small random model, saved as the official ones are."""
    if registers:
        config = transformers.Dinov2WithRegistersConfig(**{**SHAPE, **changes}, num_register_tokens=registers)
        model = transformers.Dinov2WithRegistersModel(config).eval()
    else:
        model = transformers.Dinov2Model(transformers.Dinov2Config(**{**SHAPE, **changes})).eval()
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


def meta_names(tensors: dict[str, torch.Tensor], grouped: bool) -> dict[str, torch.Tensor]:
    """Hugging Face's tensors as Meta's files have them, blocks numbered or in groups."""
    theirs: dict[str, torch.Tensor] = {"mask_token": torch.zeros(1, 48)}
    for name, value in tensors.items():
        name = re.sub(r"encoder\.layer\.(\d+)\.", r"blocks.0.\1." if grouped else r"blocks.\1.", name)
        if found := re.fullmatch(r"(.+)\.attention\.attention\.query\.(weight|bias)", name):
            parts = [name.replace("query", part) for part in ("query", "key", "value")]
            whole = [re.sub(r"blocks\.(?:0\.)?(\d+)\.", r"encoder.layer.\1.", part) for part in parts]
            theirs[f"{found[1]}.attn.qkv.{found[2]}"] = torch.cat([tensors[part] for part in whole])
        elif ".attention.attention." not in name and name != "embeddings.mask_token":
            for part, other in (
                ("embeddings.patch_embeddings.projection", "patch_embed.proj"), ("attention.output.dense", "attn.proj"),
                ("embeddings.position_embeddings", "pos_embed"), ("embeddings.", ""), ("layernorm.", "norm."),
                ("layer_scale1.lambda1", "ls1.gamma"), ("layer_scale2.lambda1", "ls2.gamma"),
                ("mlp.weights_in", "mlp.w12"), ("mlp.weights_out", "mlp.w3"),
            ):  # fmt: skip
                name = name.replace(part, other)
            theirs[name] = value
    return theirs


@pytest.mark.parametrize("registers", [0, 4])
@pytest.mark.parametrize("gated", [False, True])
def test_meta_s_files_give_the_same_features(registers: int, gated: bool, tmp_path: Path) -> None:
    saved(tmp_path / "folder", registers, use_swiglu_ffn=gated, num_attention_heads=1, hidden_size=64)
    tensors = load_file(tmp_path / "folder" / "model.safetensors")
    plain, teacher = (meta_names(tensors, grouped) for grouped in (False, True))
    plain["mask_token"] = torch.zeros(1, 64)
    torch.save(plain, tmp_path / "plain.pth")
    heads = {"dino_head.mlp.0.weight": torch.zeros(3)}
    torch.save({"teacher": {f"backbone.{k}": v for k, v in teacher.items()} | heads}, tmp_path / "training.pth")
    images = torch.randint(0, 256, (2, 42, 56, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    wanted = Dinov2.read(str(tmp_path / "folder"), 42)
    for file in ("plain.pth", "training.pth"):
        encoder = Dinov2.read(str(tmp_path / file), 42)
        same = ("patch_size", "width", "depth", "heads", "hidden_width", "gated", "position_side", "registers")
        assert [getattr(encoder.config, name) for name in same] == [getattr(wanted.config, name) for name in same]
        torch.testing.assert_close(encoder.encode_frames(images), wanted.encode_frames(images), atol=0, rtol=0)


def test_other_files_are_refused(tmp_path: Path) -> None:
    torch.save({"blocks.0.norm1.weight": torch.ones(3)}, tmp_path / "other.pth")
    with pytest.raises(UserError, match=r"other.pth holds no DINOv2: it has no patches, positions or blocks"):
        Dinov2.read(str(tmp_path / "other.pth"), None)
    torch.save({"teacher": 3}, tmp_path / "number.pth")
    with pytest.raises(UserError, match="teacher holds something else than tensors by name"):
        Dinov2.read(str(tmp_path / "number.pth"), None)


def test_what_it_was_trained_at_and_what_it_refuses(tmp_path: Path) -> None:
    saved(tmp_path)
    encoder = Dinov2.read(str(tmp_path), None)
    assert (encoder.config.resolution, encoder.config.position_side, encoder.config.registers) == (224, 5, 0)
    path = tmp_path / "config.json"
    path.write_text(path.read_text().replace('"hidden_act": "gelu"', '"hidden_act": "relu"'))
    with pytest.raises(UserError, match="hidden_act is 'relu', expected gelu"):
        Dinov2.read(str(tmp_path), None)

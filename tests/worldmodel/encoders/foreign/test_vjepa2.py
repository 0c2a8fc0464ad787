"""Official weights of V-JEPA 2 and 2.1 give the features of the official code."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.worldmodel.encoders.foreign.official import randomise, write_pt
from worldmodel.core.checkpoint import weights_hash
from worldmodel.core.errors import UserError
from worldmodel.core.spec import CameraSpec
from worldmodel.encoders.base import Grid
from worldmodel.encoders.foreign.vjepa2 import Vjepa2, Vjepa2Config
from worldmodel.encoders.vit import VisionTransformer

TINY = Vjepa2Config(patch_size=16, resolution=64, width=192, depth=2, heads=3, hidden_width=384)
TINY_2_1 = Vjepa2Config(
    patch_size=16,
    resolution=64,
    width=192,
    depth=2,
    heads=3,
    hidden_width=384,
    positions="rotary_vjepa2_1",
    position_grid=16,
    still_tubelet=True,
)
CLOSE = {"atol": 1e-5, "rtol": 1e-5}


def random_network(config: Vjepa2Config) -> VisionTransformer:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = VisionTransformer(config.shape()).eval()
    randomise(network, spread=0.02)
    return network


def random_clips(batch: int = 2, frames: int = 4, height: int = 64, width: int = 64) -> Tensor:
    generator = torch.Generator().manual_seed(batch)
    return torch.randint(0, 256, (batch, frames, height, width, 3), dtype=torch.uint8, generator=generator)


def normalised(images: Tensor) -> Tensor:
    return (images / 255 - torch.tensor([0.485, 0.456, 0.406])) / torch.tensor([0.229, 0.224, 0.225])


# --- parity with the reference implementation --------------------------------------------------------------------


@pytest.fixture(scope="module")
def transformers() -> Any:
    return pytest.importorskip("transformers", reason="the reference implementation, in the extra dev")


def reference(transformers: Any, network: VisionTransformer, tubelet: str = "tubelet") -> Any:
    """`VJEPA2Model` with the weights of `network`."""
    config, frames = network.config, 2 if tubelet == "tubelet" else 1
    model = transformers.VJEPA2Model(
        transformers.VJEPA2Config(
            hidden_size=config.width,
            num_attention_heads=config.heads,
            num_hidden_layers=config.depth,
            mlp_ratio=2.0,
            crop_size=64,
            patch_size=16,
            frames_per_clip=4,
            tubelet_size=frames,
            pred_hidden_size=24,
            pred_num_attention_heads=2,
            pred_num_hidden_layers=1,
        )
    ).eval()
    names: dict[str, Tensor] = {}
    for name, value in network.state_dict().items():
        if name.startswith(tubelet):
            if name.endswith("weight"):
                value = value.reshape(-1, frames, 16, 16, 3).permute(0, 4, 1, 2, 3)
            names[name.replace(f"{tubelet}.", "embeddings.patch_embeddings.proj.")] = value
        elif name.startswith("norm."):
            names[name.replace("norm.", "layernorm.")] = value
        elif ".qkv." in name:
            for part, third in zip(("query", "key", "value"), value.chunk(3), strict=True):
                names[name.replace("blocks.", "layer.").replace("qkv", part)] = third
        elif name.startswith("blocks."):
            name = name.replace("blocks.", "layer.").replace("attention.out", "attention.proj")
            names[name.replace("mlp.0", "mlp.fc1").replace("mlp.2", "mlp.fc2")] = value
    model.encoder.load_state_dict(names)
    return model


def reference_features(model: Any, clips: Tensor) -> Tensor:
    """Tokens `[B, N, D]` of clips, uint8 `[B, T, H, W, 3]`."""
    with torch.no_grad():
        pixels = normalised(clips).permute(0, 1, 4, 2, 3)
        return model(pixel_values_videos=pixels, skip_predictor=True).last_hidden_state


def test_a_folder_of_hugging_face_gives_its_features(transformers: Any, tmp_path: Path) -> None:
    model = reference(transformers, random_network(TINY))
    model.save_pretrained(tmp_path)
    encoder, clips = Vjepa2.read(str(tmp_path), None), random_clips()
    assert (encoder.config.resolution, encoder.config.heads, encoder.config.positions) == (64, 3, "rotary_vjepa2")
    torch.testing.assert_close(encoder.encode_clips(clips), reference_features(model, clips), **CLOSE)
    still = clips[:, :1].expand(-1, 2, -1, -1, -1)
    torch.testing.assert_close(encoder.encode_frames(clips[:, 0]), reference_features(model, still), **CLOSE)


def test_several_files_are_one_model(transformers: Any, tmp_path: Path) -> None:
    model = reference(transformers, random_network(TINY))
    model.save_pretrained(tmp_path, max_shard_size="1MB")
    assert not (tmp_path / "model.safetensors").exists()
    encoder, clips = Vjepa2.read(str(tmp_path), None), random_clips(1)
    torch.testing.assert_close(encoder.encode_clips(clips), reference_features(model, clips), **CLOSE)
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(index.read_text().replace('"model-', '"../model-'))
    with pytest.raises(UserError, match="is not in the folder"):
        Vjepa2.read(str(tmp_path), None)


def test_a_pt_file_of_meta_gives_the_same_features(transformers: Any, tmp_path: Path) -> None:
    network = random_network(TINY)
    write_pt(tmp_path / "vitt.pt", network)
    encoder, clips = Vjepa2.read(str(tmp_path / "vitt.pt"), 64), random_clips()
    model = reference(transformers, network)
    torch.testing.assert_close(encoder.encode_clips(clips), reference_features(model, clips), **CLOSE)


def test_2_1_gives_the_features_of_its_own_layout(
    transformers: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The reference has V-JEPA 2 only. What 2.1 changes is put into it as its code has it."""
    from transformers.models.vjepa2 import modeling_vjepa2 as theirs

    def rotate(x: Tensor, pos: Tensor) -> Tensor:
        omega = 1.0 / 10000 ** (torch.arange(x.shape[-1] // 2) / (x.shape[-1] / 2))
        angle = (pos[..., None] * omega).repeat_interleave(2, dim=-1)
        turned = torch.stack([-x[..., 1::2], x[..., ::2]], dim=-1).flatten(-2)
        return x * angle.cos() + turned * angle.sin()

    of_2 = theirs.VJEPA2RopeAttention.get_position_ids

    def positions(self: Any, x: Tensor, masks: Tensor | None = None) -> tuple[Tensor, ...]:
        t, y, x = of_2(self, x, masks)
        return t * 1.0, y * (16 - 1) / (4 - 1), x * (16 - 1) / (4 - 1)

    monkeypatch.setattr(theirs, "rotate_queries_or_keys", rotate)
    monkeypatch.setattr(theirs.VJEPA2RopeAttention, "get_position_ids", positions)
    network = random_network(TINY_2_1)
    write_pt(tmp_path / "vitt.pt", network, "ema_encoder", target_encoder={})
    encoder, clips = Vjepa2.read(str(tmp_path / "vitt.pt"), 64), random_clips()
    assert Vjepa2.read(str(tmp_path / "vitt.pt"), None).config.resolution == 384
    video = reference_features(reference(transformers, network), clips)
    torch.testing.assert_close(encoder.encode_clips(clips), video, **CLOSE)
    image = reference_features(reference(transformers, network, "still"), clips[:, :1])
    torch.testing.assert_close(encoder.encode_frames(clips[:, 0]), image, **CLOSE)


# --- without it ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("config", [TINY, TINY_2_1], ids=["2", "2.1"])
def test_a_pt_file_comes_back_as_the_network_that_it_was_made_of(config: Vjepa2Config, tmp_path: Path) -> None:
    network = random_network(config)
    write_pt(tmp_path / "vitt.pt", network)
    encoder = Vjepa2.read(str(tmp_path / "vitt.pt"), 64)
    for name, value in encoder.network.state_dict().items():
        torch.testing.assert_close(value, network.state_dict()[name], msg=name)
    wanted = {**vars(config), "reference": str(tmp_path / "vitt.pt"), "sha256": weights_hash(encoder.network)}
    assert vars(encoder.config) == wanted
    assert not encoder.network.training
    assert list(encoder.parameters()) == [] == list(encoder.state_dict())


def test_images_are_resized_to_the_resolution_and_normalised(tmp_path: Path) -> None:
    write_pt(tmp_path / "vitt.pt", random_network(TINY))
    encoder = Vjepa2.read(str(tmp_path / "vitt.pt"), 64)
    images = random_clips(3, 1, 32, 32)[:, 0]
    larger = torch.nn.functional.interpolate(images.permute(0, 3, 1, 2) / 255, (64, 64), mode="bilinear")
    torch.testing.assert_close(encoder.prepare(images), normalised(255 * larger.permute(0, 2, 3, 1)), **CLOSE)
    assert encoder.prepare(random_clips(1, 1, 60, 90)[:, 0]).shape == (1, 64, 96, 3)
    assert encoder.config.grid_of(CameraSpec("wide", 60, 90)) == Grid(rows=4, columns=6)
    assert encoder.encode_frames(random_clips(17, 1, 60, 90)[:, 0]).shape == (17, 24, 192)


def test_resolution_is_part_of_the_identity(tmp_path: Path) -> None:
    write_pt(tmp_path / "vitt.pt", random_network(TINY))
    small, large = (Vjepa2.read(str(tmp_path / "vitt.pt"), resolution) for resolution in (64, 128))
    assert small.config.sha256 == large.config.sha256
    assert small.identity() != large.identity()


def without(tensors: dict[str, Tensor], name: str) -> dict[str, Tensor]:
    return {key: value for key, value in tensors.items() if not key.endswith(name)}


def test_other_networks_are_refused_by_their_first_difference(tmp_path: Path) -> None:
    path, network = tmp_path / "vitt.pt", random_network(TINY)
    write_pt(path, network)
    tensors = torch.load(path, weights_only=True)["target_encoder"]
    prefix = "module.backbone."
    cases = {
        "tensor 'blocks.1.attention.out.bias' is missing": without(tensors, "blocks.1.attn.proj.bias"),
        "tensor 'head.weight' is too many": {**tensors, prefix + "head.weight": torch.zeros(2)},
        "no tubelets, or no blocks": without(tensors, "patch_embed.proj.weight"),
        "norm.bias has shape": {**tensors, prefix + "norm.bias": torch.zeros(3)},
        "numbers that are not finite": {**tensors, prefix + "norm.bias": torch.full((192,), torch.nan)},
        "expected floating point": {**tensors, prefix + "norm.bias": torch.zeros(192, dtype=torch.int64)},
        "something else than tensors": {**tensors, prefix + "norm.bias": "x"},
    }
    for said, changed in cases.items():
        torch.save({"target_encoder": changed}, path)
        with pytest.raises(UserError, match=said):
            Vjepa2.read(str(path), 64)
    torch.save({"weights": tensors}, path)
    with pytest.raises(UserError, match="none of ema_encoder, target_encoder, encoder: it has weights"):
        Vjepa2.read(str(path), 64)
    write_pt(path, network)
    with pytest.raises(UserError, match="resolution 60 is no multiple of patch_size 16"):
        Vjepa2.read(str(path), 60)


class Harmful:
    """Unpickling it calls a function."""

    def __reduce__(self) -> tuple[Any, ...]:
        return (print, ("run",))


def test_a_pt_file_cannot_run_code(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save({"target_encoder": Harmful()}, tmp_path / "harmful.pt")
    with pytest.raises(UserError, match="holds more than tensors and plain values"):
        Vjepa2.read(str(tmp_path / "harmful.pt"), None)
    assert capsys.readouterr().out == ""
    (tmp_path / "text.pt").write_text("no weights")
    with pytest.raises(UserError, match=r"text\.pt cannot be read"):
        Vjepa2.read(str(tmp_path / "text.pt"), None)
    with pytest.raises(UserError, match=r"no encoder at .*nowhere\.pt: expected a \.pt file, or a folder"):
        Vjepa2.read(str(tmp_path / "nowhere.pt"), None)


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ('{"model_type": "dinov2"}', "model of type 'dinov2', expected vjepa2"),
        ('{"model_type": "vjepa2", "num_attention_heads": "3"}', "model.safetensors"),
        ("[]", "expected values by name"),
    ],
)
def test_other_folders_are_refused(config: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(config)
    with pytest.raises(UserError, match=said):
        Vjepa2.read(str(tmp_path), None)

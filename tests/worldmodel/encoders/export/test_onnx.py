"""Encoders in the ONNX format give the features of torch, for any number of images."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from tests.worldmodel.encoders.foreign.official import randomise, write_pt
from tests.worldmodel.toy import make_encoder
from worldmodel.core.errors import RunStopped, UserError
from worldmodel.core.onnx import require_onnx
from worldmodel.encoders.base import Encoder
from worldmodel.encoders.export import onnx
from worldmodel.encoders.export.onnx import export_onnx
from worldmodel.encoders.foreign.dinov2 import Dinov2, Dinov2Config, Dinov2Network
from worldmodel.encoders.foreign.vjepa2 import Vjepa2
from worldmodel.encoders.pixels import PixelConfig, PixelPatches
from worldmodel.encoders.vit import EncoderConfig, VisionTransformer

WITH_ONNX = pytest.mark.skipif(
    importlib.util.find_spec("onnxruntime") is None, reason="the extra onnx is not installed"
)


def vjepa2(folder: Path) -> Encoder:
    """Official weights of V-JEPA 2 in small, which see images of another size."""
    torch.manual_seed(0)
    shape = EncoderConfig(16, 2, 192, 1, 3, positions="rotary_vjepa2", norm_epsilon=1e-6)
    network = VisionTransformer(shape)
    randomise(network)
    write_pt(folder / "vitt.pt", network)
    return Vjepa2.read(str(folder / "vitt.pt"), 48)


def dinov2(folder: Path) -> Encoder:
    """DINOv2 with registers in small, whose positions are resized with antialiasing."""
    torch.manual_seed(0)
    config = Dinov2Config(patch_size=14, resolution=28, width=16, depth=1, heads=2, hidden_width=32, position_side=5,
                          registers=2)  # fmt: skip
    network = Dinov2Network(config)
    randomise(network)
    return Dinov2._made(config, network, folder)


def ours(**changes: Any) -> Encoder:
    encoder = make_encoder(**changes)
    randomise(encoder)
    return encoder.requires_grad_(False)


def runs(path: Path, images: np.ndarray) -> np.ndarray:
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    (named,) = session.get_inputs()
    (tokens,) = session.run(None, {named.name: images})
    return np.asarray(tokens)


def exported(folder: Path, encoder: Encoder, size: tuple[int, int] = (32, 32), clip_frames: int | None = None) -> Path:
    path = folder / "encoder.onnx"
    checked = export_onnx(encoder, path, size, clip_frames, 1e-4, 0, {"encoder_hash": encoder.identity()})
    assert checked.images == 6 and 0 <= checked.difference <= 1e-4
    assert [p.name for p in folder.iterdir() if p.suffix != ".pt"] == ["encoder.onnx"]
    return path


@WITH_ONNX
@pytest.mark.parametrize(
    "make",
    [
        pytest.param(lambda folder: ours(), marks=pytest.mark.slow),
        pytest.param(
            lambda folder: ours(positions="rotary", attention="factorised", temporal_depth=1), marks=pytest.mark.slow
        ),
        pytest.param(
            lambda folder: ours(positions="rotary_vjepa2_1", position_grid=4, still_tubelet=True, width=48),
            marks=pytest.mark.slow,
        ),
        pytest.param(lambda folder: PixelPatches(PixelConfig()), marks=pytest.mark.slow),
        vjepa2,
        pytest.param(dinov2, marks=pytest.mark.slow),
    ],
    ids=["sincos", "rotary, factorised", "rotary of V-JEPA 2.1", "pixels", "V-JEPA 2", "DINOv2"],
)
@torch.no_grad()
def test_the_features_of_images(tmp_path: Path, make: Any) -> None:
    encoder = make(tmp_path)
    images = np.random.default_rng(7).integers(0, 256, (5, 32, 40, 3), np.uint8)
    path = exported(tmp_path, encoder, (32, 40))
    wanted = encoder.encode_frames(torch.from_numpy(images)).numpy()
    np.testing.assert_allclose(runs(path, images), wanted, atol=1e-4 * wanted.std())
    import onnx as library

    held = {entry.key: entry.value for entry in library.load(path).metadata_props}
    assert held["encoder_hash"] == encoder.identity()


@WITH_ONNX
@pytest.mark.parametrize(
    "make",
    [lambda folder: ours(attention="factorised", temporal_depth=1), pytest.param(vjepa2, marks=pytest.mark.slow)],
)
@torch.no_grad()
def test_the_features_of_clips(tmp_path: Path, make: Any) -> None:
    encoder = make(tmp_path)
    clips = np.random.default_rng(7).integers(0, 256, (3, 4, 32, 32, 3), np.uint8)
    found = runs(exported(tmp_path, encoder, clip_frames=4), clips)
    wanted = encoder.encode_tubelets(torch.from_numpy(clips)).numpy()
    assert found.shape == wanted.shape == (3, 2, found.shape[2], encoder.config.width)
    np.testing.assert_allclose(found, wanted, atol=1e-4 * wanted.std())


@WITH_ONNX
def test_a_file_that_differs_is_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = ours()
    write = onnx._write

    def wrong(graph: Any, *arguments: Any) -> None:
        write(onnx._OfImages(ours(seed=1), (32, 32)).eval(), *arguments)

    monkeypatch.setattr(onnx, "_write", wrong)
    with pytest.raises(RunStopped, match=r"encoder.onnx was not written: its features differ from torch's by .*e\+00"):
        export_onnx(encoder, tmp_path / "encoder.onnx", (32, 32), None, 1e-4, 0, {})
    assert list(tmp_path.iterdir()) == []


@WITH_ONNX
def test_weights_that_are_too_large_for_one_file_have_their_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(onnx, "_MOST_INSIDE", 1000)
    encoder = ours()
    export_onnx(encoder, tmp_path / "e.onnx", (32, 32), None, 1e-4, 0, {})
    assert sorted(p.name for p in tmp_path.iterdir()) == ["e.onnx", "e.onnx.data"]
    images = np.zeros((2, 32, 32, 3), np.uint8)
    np.testing.assert_allclose(
        runs(tmp_path / "e.onnx", images), encoder.encode_frames(torch.from_numpy(images)).numpy(), atol=1e-4
    )


@pytest.mark.parametrize("method", ["bilinear", "bicubic"])
@pytest.mark.parametrize("wanted", [(24, 40), (80, 17)])
def test_resizing_is_torchs(method: str, wanted: tuple[int, int]) -> None:
    planes = torch.rand(2, 3, 32, 48)
    reference = F.interpolate(planes, wanted, mode=method, antialias=True, align_corners=False).clamp(0, 1)
    torch.testing.assert_close(onnx._Resize((32, 48), wanted, method)(planes), reference, atol=1e-5, rtol=0)


@WITH_ONNX
@pytest.mark.parametrize(
    ("make", "frames", "message"),
    [
        (lambda folder: PixelPatches(PixelConfig()), 4, "clip_frames 4: expected null, since it encodes single images"),
        (lambda folder: ours(), 3, "clip_frames 3: expected whole tubelets"),
    ],
)
def test_clips_that_cannot_be_encoded(tmp_path: Path, make: Any, frames: int, message: str) -> None:
    with pytest.raises(UserError, match=message):
        export_onnx(make(tmp_path), tmp_path / "e.onnx", (32, 32), frames, 1e-4, 0, {})


def test_a_missing_library_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "onnxruntime" else name)
    with pytest.raises(UserError, match=r"ONNX files need onnxruntime, which is not installed: pip install .*\[onnx\]"):
        require_onnx()

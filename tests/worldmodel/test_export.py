"""`python -m worldmodel.export`: an encoder as a file in the ONNX format."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from tests.commands import assert_refused, type_in
from tests.worldmodel.toy import make_encoder
from worldmodel.core.spec import one_camera
from worldmodel.encoders.registry import save_encoder

EXPORT = "worldmodel.export"
SHAPE = ("encoder.width=32", "encoder.depth=1", "encoder.heads=2", "env=robot", "env.name=toy", "out=e.onnx")
WITH_ONNX = pytest.mark.skipif(
    importlib.util.find_spec("onnxruntime") is None, reason="the extra onnx is not installed"
)


@WITH_ONNX
def test_a_pretrained_encoder_is_exported(tmp_path: Path) -> None:
    save_encoder(make_encoder(), tmp_path / "encoder", one_camera(32), {})
    ended = type_in(tmp_path, EXPORT, *SHAPE, "encoder_from=encoder")
    assert (ended.code, ended.err) == (0, ""), ended
    assert "images uint8 [batch, 32, 32, 3] -> tokens float32 [batch, 16, 32]" in ended.out
    assert "6 random images: onnxruntime differs from torch by at most " in ended.out
    assert sorted(path.name for path in tmp_path.iterdir()) == ["e.onnx", "encoder"]


@WITH_ONNX
def test_a_tolerance_that_is_not_kept(tmp_path: Path) -> None:
    ended = type_in(tmp_path, EXPORT, *SHAPE, "encoder_from=random", "size=32", "tolerance=1e-12", "clip_frames=2")
    assert ended.code == 1 and "stopped: e.onnx was not written: its features differ" in ended.out
    assert list(tmp_path.iterdir()) == []


@WITH_ONNX
@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("encoder_from=nowhere",), "no encoder at nowhere"),
        (("encoder_from=random", "out=e.pt"), "out e.pt: expected a file that ends in .onnx"),
        (("encoder_from=random", "size=30"), "are not cut whole by patch_size 8"),
        (("encoder_from=random", "size=[1,2,3]"), "expected one or two whole numbers"),
        (("encoder_from=random", "tolerance=0"), "tolerance 0 and seed 0: expected above 0"),
        (("encoder_from=pixels", "clip_frames=0"), "clip_frames 0: expected 1 to 1024, or null"),
        (("encoder_from=push", "size=32"), "push was made for pictures of 64 x 64, not of 32 x 32"),
    ],
)
def test_what_cannot_be_exported(tmp_path: Path, options: tuple[str, ...], message: str) -> None:
    assert_refused(type_in(tmp_path, EXPORT, *SHAPE, *options), message)
    assert list(tmp_path.iterdir()) == []


def test_the_extra_is_named_before_anything_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert_refused(type_in(tmp_path, EXPORT, *SHAPE, "encoder_from=nowhere"), "ONNX files need onnx, which is not ")

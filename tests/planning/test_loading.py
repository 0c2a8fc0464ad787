"""Which checkpoint is taken, and what is said where there is none."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

from planning import loading
from planning.loading import Checkpoint, choose_checkpoint, read_model
from tests.worldmodel.toy import make_model
from worldmodel.core.errors import UserError
from worldmodel.models.contract import WorldModel


@pytest.fixture(autouse=True)
def _shipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(loading, "shipped_names", lambda: ["push"])


def test_the_users_wish_comes_first() -> None:
    assert choose_checkpoint("somewhere", "push").source == "somewhere"


def test_ones_own_model_comes_before_the_shipped_one() -> None:
    assert choose_checkpoint(None, "push") == Checkpoint("push", "the shipped checkpoint 'push'")
    own = Path("runs/push/model")
    own.mkdir(parents=True)
    unfinished = choose_checkpoint(None, "push")
    assert unfinished.source == "push"
    assert "your own model runs/push/model is not finished" in unfinished.title
    (own / "config.json").write_text("{}")
    assert choose_checkpoint(None, "push").source == str(own)


def test_where_there_is_none_it_says_how_to_make_one() -> None:
    with pytest.raises(UserError, match=r"no world model of cartpole_swingup: none at runs/cartpole_swingup/model"):
        choose_checkpoint(None, "cartpole_swingup")
    Path("runs/cartpole_swingup/model").mkdir(parents=True)
    with pytest.raises(UserError, match=r"runs/cartpole_swingup/model is not finished, and none is shipped"):
        choose_checkpoint(None, "cartpole_swingup")


def test_a_copy_has_the_same_hash_and_other_weights_have_another(tmp_path: Path) -> None:
    first = tmp_path / "first"
    first.mkdir()
    (first / "config.json").write_text("{}")
    (first / "model.safetensors").write_bytes(b"weights")
    shutil.copytree(first, tmp_path / "copy")
    (first / "run.json").write_text("{}")  # what training leaves beside it does not count
    assert Checkpoint("first", "").sha256 == Checkpoint("copy", "").sha256
    (first / "model.safetensors").write_bytes(b"others!")
    assert Checkpoint("first", "").sha256 != Checkpoint("copy", "").sha256


def test_exported_futures_are_computed_in_fp32(tmp_path: Path) -> None:
    make_model().save(tmp_path / "model", {})
    checkpoint, cpu = Checkpoint(str(tmp_path / "model"), "model"), torch.device("cpu")
    with pytest.raises(
        UserError, match="compile=onnx computes in fp32, and precision is bf16: expected precision=fp32"
    ):
        read_model(checkpoint, cpu, "bf16", "onnx")
    pytest.importorskip("onnxruntime")
    assert isinstance(read_model(checkpoint, cpu, "fp32", "onnx"), WorldModel)

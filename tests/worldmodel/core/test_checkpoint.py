"""Checkpoint folders: what is refused, and how it is said."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.worldmodel.toy import SPEC, make_encoder, make_model
from worldmodel.core import checkpoint
from worldmodel.core.errors import UserError
from worldmodel.encoders.registry import load_encoder, save_encoder
from worldmodel.models.keypoint.model import WorldModel


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    make_model().save(tmp_path / "model", {})
    return tmp_path / "model"


def edit_config(folder: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    config = json.loads((folder / "config.json").read_text())
    change(config)
    (folder / "config.json").write_text(json.dumps(config))


def edit_tensors(folder: Path, change: Callable[[dict[str, torch.Tensor]], Any]) -> None:
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors")


def truncate(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1000])


DAMAGES: dict[str, tuple[Callable[[Path], Any], str]] = {
    "newer format": (lambda f: edit_config(f, lambda c: c.update(format_version=99)), r"format 99.*reads 1"),
    "no format": (lambda f: edit_config(f, lambda c: c.pop("format_version")), "format None"),
    "wrong kind": (lambda f: edit_config(f, lambda c: c.update(kind="policy")), "'policy', expected 'world_model'"),
    "corrupt json": (lambda f: (f / "config.json").write_text('{"kind": '), "config.json cannot be read"),
    "binary json": (lambda f: (f / "config.json").write_bytes(b"\xff\xfe\x00"), "config.json cannot be read"),
    "a list": (lambda f: (f / "config.json").write_text("[]"), "format None"),
    "unknown option": (
        lambda f: edit_config(f, lambda c: c["model"]["encoder"].update(patch=4)),
        "does not describe a world model.*patch",
    ),
    "class path": (
        lambda f: edit_config(f, lambda c: c["model"]["predictor"].update(_target_="os.system")),
        "does not describe a world model.*_target_",
    ),
    "option missing": (lambda f: edit_config(f, lambda c: c["model"].pop("predictor")), "does not describe.*predictor"),
    "impossible option": (lambda f: edit_config(f, lambda c: c["model"]["encoder"].update(width=33)), "width 33"),
    "unknown environment key": (lambda f: edit_config(f, lambda c: c["environment"].update(gravity=1)), "gravity"),
    "tensor missing": (lambda f: edit_tensors(f, lambda t: t.pop("encoder.norm.bias")), "'encoder.norm.bias' is miss"),
    "tensor too many": (lambda f: edit_tensors(f, lambda t: t.update(extra=torch.zeros(1))), "'extra'"),
    "wrong shape": (
        lambda f: edit_tensors(f, lambda t: t.update({"encoder.norm.bias": torch.zeros(3)})),
        r"'encoder.norm.bias' has shape \(3,\), expected \(32,\)",
    ),
    "other shape in config": (lambda f: edit_config(f, lambda c: c["model"]["predictor"].update(width=64)), "expected"),
    "truncated": (truncate, "model.safetensors cannot be read"),
    "not safetensors": (lambda f: (f / "model.safetensors").write_bytes(b"zip?" * 10), "cannot be read"),
    "empty": (lambda f: (f / "model.safetensors").write_bytes(b""), "cannot be read"),
    "no weights": (lambda f: (f / "model.safetensors").unlink(), "cannot be read"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_what_cannot_be_used_is_refused_in_one_line(folder: Path, damage: str) -> None:
    inflict, expected = DAMAGES[damage]
    inflict(folder)
    with pytest.raises(UserError, match=expected) as caught:
        WorldModel.load(str(folder), torch.device("cpu"))
    message = str(caught.value)
    assert "\n" not in message
    assert str(folder) in message


def test_the_undamaged_one_loads(folder: Path) -> None:
    assert WorldModel.load(str(folder), torch.device("cpu")).spec == SPEC


def test_an_encoder_is_no_world_model_nor_the_other_way_round(folder: Path, tmp_path: Path) -> None:
    save_encoder(make_encoder(), tmp_path / "encoder", SPEC, {})
    with pytest.raises(UserError, match="kind 'encoder', expected 'world_model'"):
        WorldModel.load(str(tmp_path / "encoder"), torch.device("cpu"))
    with pytest.raises(UserError, match="kind 'world_model', expected 'encoder'"):
        load_encoder(folder, 32)


def test_a_name_that_is_nothing_names_what_there_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoint, "shipped_names", lambda: ["push", "reacher"])
    with pytest.raises(
        UserError, match=r"unknown checkpoint 'puhs': choose from push, reacher \(did you mean push\?\)"
    ):
        checkpoint.resolve("puhs")
    with pytest.raises(UserError, match=r"no config\.json"):
        checkpoint.resolve(str(tmp_path))
    monkeypatch.setattr(checkpoint, "shipped_names", list)
    with pytest.raises(UserError, match=r"unknown checkpoint 'push': give the folder of .* \(none is shipped\)"):
        checkpoint.resolve("push")


def test_config_is_written_last_and_makes_the_checkpoint_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A kill between the two files must leave a folder that says it is not finished, also over an older checkpoint."""
    encoder = make_encoder()
    checkpoint.save(tmp_path, "encoder", {}, encoder, half=False)

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(checkpoint, "write_json", killed)
    with pytest.raises(KeyboardInterrupt):
        checkpoint.save(tmp_path, "encoder", {}, encoder, half=False)
    assert (tmp_path / "model.safetensors").is_file()
    with pytest.raises(UserError, match="is the training finished"):
        checkpoint.resolve(str(tmp_path))


def test_half_precision_spares_vectors_and_means(tmp_path: Path) -> None:
    checkpoint.save(tmp_path, "world_model", {}, make_model(), half=True)
    tensors = load_file(tmp_path / "model.safetensors")
    assert tensors["encoder.tubelet.weight"].dtype == torch.float16
    assert tensors["encoder.tubelet.bias"].dtype == torch.float32
    assert tensors["compression.mean"].dtype == torch.float32


def test_the_hash_is_of_names_and_values() -> None:
    first, same, other = make_encoder(0), make_encoder(0), make_encoder(1)
    assert checkpoint.weights_hash(first) == checkpoint.weights_hash(same)
    assert checkpoint.weights_hash(first) != checkpoint.weights_hash(other)
    with torch.no_grad():
        same.norm.bias[0] += 1e-7
    assert checkpoint.weights_hash(first) != checkpoint.weights_hash(same)


@pytest.mark.parametrize("name", ["push", "reacher"])
def test_a_shipped_checkpoint_is_small_and_imagines(name: str) -> None:
    folder = checkpoint.resolve(name)
    assert sum(path.stat().st_size for path in folder.iterdir()) < 8e6
    model = WorldModel.load(name, torch.device("cpu"))
    assert model.spec.env == name
    size, low = model.spec.only_camera.height, torch.tensor(model.spec.action.low)
    pixels = torch.zeros(1, 1, size, size, 3, dtype=torch.uint8)
    latent = model.encode(pixels, torch.zeros(1, 1, model.spec.proprio_size), torch.zeros(1, 0, len(low)))
    ahead = model.rollout(latent, low.expand(1, 2, 12, -1))
    assert model.distance(ahead, model.encode_goal(pixels[:, 0])).isfinite().all()

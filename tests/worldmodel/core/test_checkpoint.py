"""Checkpoint folders: what is refused, and how it is said."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from tests.source_tree import ROOT
from tests.worldmodel.checkpoints import edit_config, edit_tensors
from tests.worldmodel.toy import SPEC, make_encoder, make_model
from worldmodel.core import checkpoint
from worldmodel.core.errors import UserError
from worldmodel.core.goal import ImageGoal
from worldmodel.core.observation import Observation
from worldmodel.core.spec import CAMERA
from worldmodel.encoders.registry import load_encoder, save_encoder
from worldmodel.models.keypoint.format_1 import renamed
from worldmodel.models.registry import load_model

CPU = torch.device("cpu")
FORMAT_1 = ROOT / "tests" / "golden" / "format_1"
VIEW = f"views.camera_{CAMERA}"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    make_model().save(tmp_path / "model", {})
    return tmp_path / "model"


def truncate(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1000])


def no_file(make: Callable[[Path], Any], name: str) -> Callable[[Path], Any]:
    """Something else in the place of a file."""

    def damage(folder: Path) -> None:
        (folder / name).unlink()
        make(folder / name)

    return damage


def change(part: str, **values: Any) -> Callable[[Path], Any]:
    return lambda folder: edit_config(folder, lambda config: config["model"][part].update(values))


def fill(name: str, value: float) -> Callable[[Path], Any]:
    return lambda folder: edit_tensors(folder, lambda tensors: tensors[name].view(-1)[:1].fill_(value))


def retype(name: str, kind: torch.dtype) -> Callable[[Path], Any]:
    return lambda folder: edit_tensors(folder, lambda tensors: tensors.update({name: tensors[name].to(kind)}))


NOT_READ, NOT_DESCRIBED = "cannot be read", "does not describe a world model"
WEIGHT, STD = "predictor.inward.weight", "normaliser.action_std"
# What is written into a sound checkpoint, its digest made anew: as somebody would who knows how.
DAMAGES: dict[str, tuple[Callable[[Path], Any], str]] = {
    "newer format": (lambda f: edit_config(f, lambda c: c.update(format_version=99)), r"format 99.*reads 2"),
    "no format": (lambda f: edit_config(f, lambda c: c.pop("format_version")), "format None"),
    "true as format": (lambda f: edit_config(f, lambda c: c.update(format_version=True)), "format True"),
    "wrong kind": (lambda f: edit_config(f, lambda c: c.update(kind="policy")), "'policy', expected 'world_model'"),
    "corrupt json": (lambda f: (f / "config.json").write_text('{"kind": '), NOT_READ),
    "binary json": (lambda f: (f / "config.json").write_bytes(b"\xff\xfe\x00"), NOT_READ),
    "a list": (lambda f: (f / "config.json").write_text("[]"), "format None"),
    "deep json": (lambda f: (f / "config.json").write_text("[" * 10**5), "nested too deep"),
    "deeper than anybody needs": (lambda f: edit_config(f, lambda c: c.update(x=nested(100))), "nested too deep"),
    "a number of 5,000 digits": (lambda f: (f / "config.json").write_text("9" * 5000), NOT_READ),
    "infinity": (lambda f: (f / "config.json").write_text('{"a": Infinity}'), "Infinity is no finite number"),
    "not a number": (lambda f: (f / "config.json").write_text('{"a": NaN}'), "NaN is no finite number"),
    "too large a number": (lambda f: (f / "config.json").write_text('{"a": 1e999}'), "a number is too large"),
    "long json": (lambda f: (f / "config.json").write_text(" " * 2**21), "2097152 bytes: expected at most"),
    "unknown family": (
        lambda f: edit_config(f, lambda c: c.update(family="rssm")),
        "family 'rssm': choose from keypoint",
    ),
    "a list of families": (lambda f: edit_config(f, lambda c: c.update(family=["keypoint"])), "of family \\['keyp"),
    "unknown option": (change("encoder", patch=4), f"{NOT_DESCRIBED}.*patch"),
    "class path": (change("predictor", _target_="os.system"), f"{NOT_DESCRIBED}.*_target_"),
    "unknown part": (lambda f: edit_config(f, lambda c: c["model"].update(head={})), "'head' is no part"),
    "option missing": (lambda f: edit_config(f, lambda c: c["model"].pop("predictor")), f"{NOT_DESCRIBED}.*predictor"),
    "impossible option": (change("encoder", width=33), "width 33"),
    "text for a number": (change("state", keypoints="3"), "keypoints is '3': expected a whole number"),
    "a part that is none": (lambda f: edit_config(f, lambda c: c["model"].update(state=7)), NOT_DESCRIBED),
    "no environment": (lambda f: edit_config(f, lambda c: c.update(environment=None)), NOT_DESCRIBED),
    "unknown environment key": (lambda f: edit_config(f, lambda c: c["environment"].update(gravity=1)), "gravity"),
    "endless depth": (change("predictor", depth=10**9), f"{NOT_DESCRIBED}.*parts are more than"),
    "endless depth of the encoder": (change("encoder", depth=10**12), f"{NOT_DESCRIBED}.*parts are more than"),
    "endless width": (change("predictor", width=10**9), f"{NOT_DESCRIBED}.*parts are larger than"),
    "a width beyond any machine": (change("predictor", hidden_width=10**18), NOT_DESCRIBED),
    "a width beyond all numbers": (change("state", hidden=10**30), NOT_DESCRIBED),
    "many keypoints": (change("state", keypoints=10**9), f"{NOT_DESCRIBED}.*parts are larger than"),
    "small patches": (change("encoder", patch_size=1), "has shape"),
    "patches that do not fit": (change("encoder", patch_size=7), "not cut whole by patch_size 7"),
    "a negative weight": (change("distance", appearance_weight=-1.0), "must be finite and not negative"),
    "other pictures": (
        lambda f: edit_config(f, lambda c: c["environment"]["cameras"][0].update(height=64)),
        r"shape \(16, 32\), expected \(32, 32\)",
    ),
    "another camera": (
        lambda f: edit_config(f, lambda c: c["environment"]["cameras"][0].update(name="half")),
        "does not fit its config.json: tensor",
    ),
    "tensor missing": (lambda f: edit_tensors(f, lambda t: t.pop("encoder.norm.bias")), "'encoder.norm.bias' is miss"),
    "tensor too many": (lambda f: edit_tensors(f, lambda t: t.update(extra=torch.zeros(1))), "'extra'"),
    "wrong shape": (
        lambda f: edit_tensors(f, lambda t: t.update({"encoder.norm.bias": torch.zeros(3)})),
        r"'encoder.norm.bias' has shape \(3,\), expected \(32,\)",
    ),
    "other shape in config": (change("predictor", width=64), "expected"),
    "whole numbers": (retype(WEIGHT, torch.int8), f"'{WEIGHT}' is of type 'I8': choose from F32, F16, BF16"),
    "truth values": (retype(WEIGHT, torch.bool), "is of type 'BOOL'"),
    "complex numbers": (retype(WEIGHT, torch.complex64), "is of type 'C64'"),
    "double precision": (retype(WEIGHT, torch.float64), "is of type 'F64'"),
    "a weight that is no number": (fill(WEIGHT, float("nan")), f"'{WEIGHT}' has numbers that are not finite"),
    "an infinite weight": (
        fill("encoder.norm.bias", float("-inf")),
        "'encoder.norm.bias' has numbers that are not fin",
    ),
    "a spread of 0": (fill(STD, 0.0), f"'{STD}' is a spread, and has numbers that are not above 0"),
    "a spread of -1": (fill(f"{VIEW}.state_std", -1.0), "is a spread"),
    "a compression without spread": (fill(f"{VIEW}.compression.std", 0.0), "is a spread"),
    "more than all is readable": (fill(f"{VIEW}.robot_readable", 1.5), "robot_readable of camera camera"),
    "truncated": (truncate, NOT_READ),
    "not safetensors": (lambda f: (f / "model.safetensors").write_bytes(b"zip?" * 10), NOT_READ),
    "empty": (lambda f: (f / "model.safetensors").write_bytes(b""), NOT_READ),
    "a header that is longer than the file": (
        lambda f: (f / "model.safetensors").write_bytes((2**62).to_bytes(8, "little") + b"{}"),
        NOT_READ,
    ),
    "a header that is a list": (lambda f: (f / "model.safetensors").write_bytes(header(b"[]")), "no list of tensors"),
    "a deep header": (lambda f: (f / "model.safetensors").write_bytes(header(b"[" * 10**5)), "nested too deep"),
    "a file of holes": (lambda f: os.truncate(f / "model.safetensors", 2**40), "expected at most"),
    "a smaller file of holes": (lambda f: os.truncate(f / "model.safetensors", 2**31), "bytes of tensors, its header"),
    "no weights": (lambda f: (f / "model.safetensors").unlink(), NOT_READ),
    "a pipe for weights": (no_file(os.mkfifo, "model.safetensors"), "is a pipe, a device or a folder"),
    "a pipe for config": (no_file(os.mkfifo, "config.json"), "is a pipe, a device or a folder"),
    "a folder for config": (no_file(os.mkdir, "config.json"), "is a pipe, a device or a folder"),
    "a device for weights": (no_file(lambda p: p.symlink_to("/dev/zero"), "model.safetensors"), "is a pipe, a device"),
    "a circle of links": (no_file(lambda p: p.symlink_to(p), "model.safetensors"), NOT_READ),
}


def nested(levels: int) -> list[Any]:
    values: list[Any] = []
    for _ in range(levels):
        values = [values]
    return values


def header(content: bytes) -> bytes:
    return len(content).to_bytes(8, "little") + content


@pytest.mark.parametrize("damage", DAMAGES)
def test_what_cannot_be_used_is_refused_in_one_line(folder: Path, damage: str) -> None:
    inflict, expected = DAMAGES[damage]
    inflict(folder)
    with pytest.raises(UserError, match=expected) as caught:
        load_model(str(folder), CPU)
    message = str(caught.value)
    assert "\n" not in message
    assert str(folder) in message


def test_the_undamaged_one_loads(folder: Path) -> None:
    assert load_model(str(folder), CPU).spec == SPEC


def test_an_encoder_is_no_world_model_nor_the_other_way_round(folder: Path, tmp_path: Path) -> None:
    save_encoder(make_encoder(), tmp_path / "encoder", SPEC, {})
    with pytest.raises(UserError, match="kind 'encoder', expected 'world_model'"):
        load_model(str(tmp_path / "encoder"), CPU)
    with pytest.raises(UserError, match="kind 'world_model', expected 'encoder'"):
        load_encoder(folder, SPEC.cameras)


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


@pytest.mark.parametrize("name", ["a" * 5000, "a/" * 3000, "a\0b"])
def test_a_name_that_no_folder_can_have_is_refused(name: str) -> None:
    with pytest.raises(UserError, match=r"no checkpoint can be at|unknown checkpoint"):
        checkpoint.resolve(name)
    with pytest.raises(UserError, match=r"no checkpoint can be at|no encoder at"):
        load_encoder(Path(name), SPEC.cameras)


def test_config_is_written_last_and_makes_the_checkpoint_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A kill between the two files must leave a folder that says it is not finished, also over an older checkpoint."""
    encoder = make_encoder()
    checkpoint.save(tmp_path, "encoder", {}, encoder, half=False)

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(checkpoint, "_text", killed)
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
    assert tensors[f"{VIEW}.compression.mean"].dtype == torch.float32


def test_the_hash_is_of_names_and_values() -> None:
    first, same, other = make_encoder(0), make_encoder(0), make_encoder(1)
    assert checkpoint.weights_hash(first) == checkpoint.weights_hash(same)
    assert checkpoint.weights_hash(first) != checkpoint.weights_hash(other)
    with torch.no_grad():
        same.norm.bias[0] += 1e-7
    assert checkpoint.weights_hash(first) != checkpoint.weights_hash(same)


def test_what_half_precision_cannot_hold_is_stored_in_full(tmp_path: Path) -> None:
    model = make_model()
    with torch.no_grad():
        model.predictor.inward.weight[0, 0] = 1e6
    model.save(tmp_path, {"trainer": {"clip_norm": float("inf")}, "data": "caf\udce9"})
    loaded = load_model(str(tmp_path), CPU)
    assert torch.equal(loaded.state_dict()[WEIGHT], model.state_dict()[WEIGHT])
    provenance = json.loads((tmp_path / "config.json").read_text())["provenance"]
    assert provenance == {"trainer": {"clip_norm": "inf"}, "data": "caf\\udce9"}


def test_loading_leaves_the_global_generator_alone(folder: Path) -> None:
    torch.manual_seed(7)
    expected = torch.rand(1)
    torch.manual_seed(7)
    load_model(str(folder), CPU)
    assert torch.equal(torch.rand(1), expected)


# --- those of format 1 --------------------------------------------------------------------------


def names_of_format_1(now: list[str]) -> dict[str, str]:
    """The old name of every tensor, by its new one."""
    scene = ("convolutions", "logits", "heads", "robot_convolution", "robot_head")
    candidates = {
        f"{VIEW}.compression.std": "compression.scale",
        f"{VIEW}.keypoints.values": "scene.encoder.looks",
        **{f"{VIEW}.keypoints.{part}": f"scene.encoder.{part}" for part in scene},
        f"{VIEW}.state_": "scene.code_",
        f"{VIEW}.compression": "compression",
        f"{VIEW}.appearance": "scene.look",
        f"{VIEW}.robot_readable": "scene.robot_readable",
    }
    before = {}
    for name in now:
        begin = next((c for c in candidates if name.startswith(c)), "")
        before[name] = candidates.get(begin, "") + name.removeprefix(begin)
        assert renamed(before[name]) == name
    return before


def test_every_tensor_of_format_1_has_one_new_name() -> None:
    old = names_of_format_1(list(load_model(str(FORMAT_1), CPU).state_dict()))
    assert len(set(old.values())) == len(old)
    assert set(load_file(FORMAT_1 / "model.safetensors")) == set(old.values())


def test_a_checkpoint_of_format_1_is_read_as_it_was_meant() -> None:
    """The golden one was written by the program of then, from the same seed as the toy model."""
    loaded, made = load_model(str(FORMAT_1), CPU), make_model()
    assert loaded.spec == SPEC
    assert loaded.describe() == made.describe()
    for name, value in made.state_dict().items():
        torch.testing.assert_close(loaded.state_dict()[name], value, atol=2e-3, rtol=1e-3)  # stored as float16


@pytest.mark.parametrize(
    ("edit", "expected"),
    [
        (lambda c: c["model"]["encoder"].update(image_size=64), "its encoder has image_size 64, its environment pict"),
        (lambda c: c["model"].update(head={}), "'head' is no part"),
        (lambda c: c["model"].pop("scene"), "'scene' is missing"),
        (lambda c: c["model"]["goal"].update(look_weight=-1), "must be finite and not negative"),
    ],
)
def test_what_makes_no_sense_in_format_1_is_refused(
    edit: Callable[[dict[str, Any]], Any], expected: str, tmp_path: Path
) -> None:
    config = json.loads((FORMAT_1 / "config.json").read_text())
    edit(config)
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "model.safetensors").write_bytes((FORMAT_1 / "model.safetensors").read_bytes())
    with pytest.raises(UserError, match=expected):
        load_model(str(tmp_path), CPU)


@pytest.mark.parametrize("name", ["push", "reacher"])
def test_a_shipped_checkpoint_is_small_and_imagines(name: str) -> None:
    folder = checkpoint.resolve(name)
    assert sum(path.stat().st_size for path in folder.iterdir()) < 8e6
    model = load_model(name, CPU)
    assert model.spec.env == name
    (camera,), (low, _) = model.spec.cameras, model.spec.action.bounds
    image = np.zeros(camera.shape, np.uint8)
    proprio = np.zeros((1, model.spec.proprio_size), np.float32)
    latent = model.observe(None, Observation({camera.name: image[None]}, proprio), None)
    ahead = model.imagine(latent, torch.from_numpy(low).expand(1, 2, 12, -1))
    assert model.distance(ahead, model.goal(ImageGoal({camera.name: image}))).isfinite().all()

"""World models refer to an encoder of others by path and hash, and have no copy of it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open

from tests.commands import assert_refused, type_in
from tests.worldmodel.commands import TOY
from tests.worldmodel.encoders.foreign.official import write_pt
from tests.worldmodel.encoders.foreign.test_vjepa2 import TINY, random_network
from worldmodel.core.errors import UserError
from worldmodel.data import TrajectoryStore
from worldmodel.encoders.foreign.vjepa2 import Vjepa2
from worldmodel.models.keypoint.model import KeypointModel
from worldmodel.models.registry import load_model

CPU = torch.device("cpu")


def test_a_model_finds_its_encoder_again_and_takes_no_other(
    toy_store: TrajectoryStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = tmp_path / "vitt.pt"
    write_pt(weights, random_network(TINY))
    few = ("trainer.steps=2", "state_trainer.steps=2", "appearance_trainer.steps=2")
    shape = ("encoder=vjepa2", "encoder.resolution=64", f"encoder_from=vjepa2:{weights}")
    toy = [option for option in TOY["worldmodel.train"] if not option.startswith("encoder.")]
    ended = type_in(tmp_path, "worldmodel.train", "device=cpu", f"data={toy_store.path}", *shape, *toy, *few)
    assert ended.code == 0, ended
    folder = tmp_path / "runs" / "toy" / "model"
    with safe_open(folder / "model.safetensors", "pt") as file:
        assert [name for name in file.keys() if name.startswith("encoder.")] == []  # noqa: SIM118
    described = json.loads((folder / "config.json").read_text())["model"]["encoder"]
    encoder = Vjepa2.read(str(weights), 64)
    assert (described["reference"], described["sha256"]) == (str(weights), encoder.config.sha256)

    model = load_model(str(folder), CPU)
    assert isinstance(model, KeypointModel)
    images = torch.from_numpy(np.asarray(toy_store.episode(0).images["camera"][:2]))
    torch.testing.assert_close(model.encoder.encode_frames(images), encoder.encode_frames(images))
    assert model.double().encoder.network.norm.weight.dtype == torch.float64, "what moves the model moves the network"

    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    shutil.move(weights, elsewhere)
    with pytest.raises(UserError, match=r"no encoder at .*vitt\.pt.*WORLDMODEL_ENCODERS"):
        load_model(str(folder), CPU)
    monkeypatch.setenv("WORLDMODEL_ENCODERS", f"/nowhere:{elsewhere}")
    assert load_model(str(folder), CPU).encoder.identity() == encoder.identity()
    write_pt(elsewhere / "vitt.pt", random_network(TINY).requires_grad_(False).apply(_shift))
    with pytest.raises(UserError, match="another encoder than the model was trained with: its weights have the hash"):
        load_model(str(folder), CPU)


def _shift(module: torch.nn.Module) -> None:
    if isinstance(module, torch.nn.LayerNorm):
        module.bias.add_(0.1)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("encoder=vjepa2", "encoder_from=random"), "encoder_from=random: expected encoder_from=vjepa2:PATH"),
        (("encoder_from=vjepa2:nowhere.pt",), "no encoder at nowhere.pt"),
        (("encoder_from=vjepa2",), "encoder_from=vjepa2:PATH"),
        (("encoder=vjepa2", "encoder.resolution=0", "encoder_from=vjepa2:nowhere.pt"), "resolution 0: expected"),
    ],
)  # fmt: skip
def test_mistakes_are_refused(options: tuple[str, ...], said: str, toy_store: TrajectoryStore, tmp_path: Path) -> None:
    toy = [option for option in TOY["worldmodel.train"] if not option.startswith("encoder.")]
    ended = type_in(tmp_path, "worldmodel.train", "device=cpu", f"data={toy_store.path}", *options, *toy)
    assert_refused(ended, said)

"""`python -m planning.evaluate` with other planners: the one of the checkpoint, one with a gradient, and proposals."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from planning.loading import with_proposals
from planning.registry import make_strategy
from planning.settings import read_settings
from tests.commands import Ended, assert_refused
from tests.planning.point_mass import PointModel
from tests.worldmodel.toy import make_model
from worldmodel.core.checkpoint import weights_hash
from worldmodel.models.contract import WorldModel
from worldmodel.models.decoder.decoder import code_size
from worldmodel.models.inverse.inverse import save_inverse
from worldmodel.models.inverse.network import InverseConfig, InverseNetwork
from worldmodel.models.registry import load_model

Command = Callable[..., Ended]
EVALUATE = "planning.evaluate"
FEW = ("manifest.seed=1", "manifest.n=2", "budget=2", "batch=2", "reality=2", "videos=0", "device=cpu", "oracle=false")


@pytest.fixture
def own(checkpoint: Path, tmp_path: Path) -> Path:
    return shutil.copytree(checkpoint, tmp_path / "own")


def test_the_planner_that_was_judged_is_the_one_that_auto_takes(call: Command, own: Path) -> None:
    small = ("planner.options.samples=8", "planner.options.iterations=1", "planner.horizon=3", "baselines=false")
    judged = call(EVALUATE, "env=push", f"checkpoint={own}", "planner=mppi", "write_planner=true", *FEW, *small)
    assert judged.code == 0, judged
    assert "planner=auto now takes planner=mppi" in judged.out
    written = json.loads((own / "planner.json").read_text())
    assert written["planner"]["options"]["samples"] == 8 and written["judged"]["n"] == 2
    auto = call(EVALUATE, "env=push", f"checkpoint={own}", "planner=auto", "baselines=false", "out=auto", *FEW)
    assert auto.code == 0, auto
    assert json.loads(Path("auto/results.json").read_text())["planner"]["name"] == "mppi"


def test_a_head_is_a_baseline_and_proposes(call: Command, own: Path) -> None:
    model = load_model(str(own), torch.device("cpu"))
    for folder, told in (("head", True), ("clone", False)):
        save_head(Path(folder), model, told)
    small = ("planner.options.samples=8", "planner.options.elites=2", "planner.horizon=4", "baselines=false")
    proposals = ("inverse=head", "cloning=clone", "planner.proposals.inverse=head", "out=with")
    ended = call(EVALUATE, "env=push", f"checkpoint={own}", *FEW, *small, *proposals)
    assert ended.code == 0, ended
    results = json.loads(Path("with/results.json").read_text())
    assert set(results["floors"]) == {"inverse", "cloning"} and results["floors"]["inverse"]["n"] == 2
    assert results["proposed"].startswith("0.25 ")
    counted = results["against"]["cloning"]["success_final"]
    assert counted["a"]["value"] == results["success_final"] and 0 < counted["p"] <= 1
    assert "cloning: at the end" in ended.out
    swapped = call(EVALUATE, "env=push", f"checkpoint={own}", *FEW, "cloning=head")
    assert_refused(swapped, "cloning=head was trained with head.told_steps=true: use it as inverse=head")
    refused = call(EVALUATE, "env=push", f"checkpoint={own}", *FEW, "planner.proposals.memory=nowhere")
    assert_refused(refused, "no memory at nowhere")


def save_head(folder: Path, model: WorldModel, told_steps: bool = True) -> None:
    shape = InverseConfig(chunk=3, width=8, depth=1, told_steps=told_steps)
    save_inverse(InverseNetwork(shape, code_size(model), model.spec.action.size), folder, weights_hash(model), {})


def test_the_head_of_a_checkpoint_is_found(
    own: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    model = load_model(str(own), torch.device("cpu"))
    strategy = make_strategy(read_settings({"planner": "guided"}), 0)

    def identity() -> str | None:
        caplog.clear()
        found = with_proposals(strategy, model)
        found.warn()
        assert (found.proposer is None) == (found.proposed == {}) == ("no proposals: " in caplog.text)
        return None if found.proposer is None else found.proposer.identity

    assert identity() is None and "the model has no head" in caplog.text
    save_head(own / "inverse", model)
    within = identity()
    assert within is not None
    weights = own / "inverse" / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(b"damaged")
    assert identity() is None and str(weights.parent) in caplog.text
    weights.write_bytes(whole)
    mine = Path("runs/push/inverse")
    save_head(mine, model, told_steps=False)
    assert identity() == within, "cloning is no source"
    weight = next(model.parameters())
    before = weight.detach().clone()
    with torch.no_grad():
        weight.add_(1.0)
        save_head(mine, model)
        weight.copy_(before)
    assert identity() == within, "a head of another model"
    save_head(mine, model)
    assert identity() not in (None, within), "the user's own comes first"
    monkeypatch.setattr(model, "folder", None)
    save_head(mine, model, told_steps=False)
    assert identity() is None and "head.told_steps=false" in caplog.text


def test_a_model_that_is_no_world_model_has_no_head(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    toy = PointModel(spec=dataclasses.replace(PointModel().spec, env="push"))
    save_head(Path("runs/push/inverse"), make_model())
    assert with_proposals(make_strategy(read_settings({"planner": "guided"}), 0), toy).proposer is None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("planner=adam", "oracle=true"), "planner=adam follows a gradient, which the simulator does not have"),
        (("write_planner=true", "checkpoint=push"), "write_planner=true writes to the checkpoint's folder"),
        (("inverse=nowhere",), "no inverse-dynamics head at nowhere"),
        (("planner=auto", "planner.horizon=3"), "planner.horizon"),
    ],
)
def test_what_is_refused(call: Command, own: Path, options: tuple[str, ...], message: str) -> None:
    assert_refused(call(EVALUATE, "env=push", f"checkpoint={own}", *FEW, *options), message)

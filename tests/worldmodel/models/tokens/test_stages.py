"""From a recording to a checkpoint by `worldmodel.train family=tokens`; what its stages work out, and refuse."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.worldmodel.commands import TOY_ENCODER, TOY_ENV, TOY_TRAINER, finish, run, start
from tests.worldmodel.models.conformance import draw_actions, observe_rows
from worldmodel.core.errors import UserError
from worldmodel.core.weights import open_weights
from worldmodel.data import TrajectoryStore
from worldmodel.data.clips import ClipSampler
from worldmodel.models.registry import FAMILIES, load_model
from worldmodel.models.tokens.model import TokenModel
from worldmodel.models.tokens.stages import change_by_token
from worldmodel.models.tokens.training import Recording

CPU = torch.device("cpu")
TRAIN = "worldmodel.train"
TOY = (
    "family=tokens",
    "encoder_from=random",
    "held_out_sequences=16",
    "compression.channels=8",
    "compression.fit_frames=200",
    "transformer.width=16",
    "transformer.depth=1",
    "transformer.heads=2",
    "transformer.prediction_steps=2",
    "prediction.rollout_steps=4",
    *TOY_ENV,
    *TOY_ENCODER,
    *TOY_TRAINER,
)


def overrides(store: TrajectoryStore, *more: str) -> tuple[str, ...]:
    return (*TOY, f"data={store.path}", "cache=frames.npy", "out=model", *more)


def weights_of(folder: Path) -> dict[str, torch.Tensor]:
    path = folder / "model" / "model.safetensors"
    with open_weights(path) as file:
        return file.read()[0]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, toy_store: TrajectoryStore) -> Path:
    folder = tmp_path_factory.mktemp("tokens")
    result = run(TRAIN, overrides(toy_store, "tokens.weight=changing"), folder)
    assert result.exit_code == 0, result.stderr
    return folder


def test_training_leaves_a_world_model_that_imagines(trained: Path, toy_store: TrajectoryStore) -> None:
    model = load_model(str(trained / "model"), CPU)
    assert isinstance(model, TokenModel) and model.family == "tokens"
    assert model.spec == toy_store.spec
    latent = model.observe(None, observe_rows(model.spec, 2, 0), None)
    assert model.imagine(latent, draw_actions(model.spec, 2, 3, 5)).tokens.shape[:3] == (2, 3, 5)
    assert float(model.normaliser.action_std.min()) > 1  # pixels: the statistics are the recording's
    torch.testing.assert_close(model.token_weight.mean(), torch.tensor(1.0), rtol=1e-3, atol=1e-3)
    assert float(model.token_weight.std()) > 0
    still = model.distance(latent, latent)
    assert float(still.max()) < model.reached_distance < float(model.distance(latent, latent.rows([1, 0])).min())


def test_its_log_has_the_loss_and_the_report(trained: Path) -> None:
    lines = [json.loads(line) for line in (trained / "model" / "log.jsonl").read_text().splitlines()]
    assert {"loss", "forced", "rollout", "proprio"} <= set(lines[0])
    assert {"held_out_error", "error_over_copy_01", "error_over_copy_04", "action_ranking"} <= set(lines[-1])


def test_what_is_trained_is_all_that_its_state_holds(trained: Path) -> None:
    state = torch.load(trained / "model" / "training.pt", weights_only=True)
    assert not [name for name in state["module"] if name.startswith(("encoder", "compression", "normaliser"))]


def test_a_training_that_was_killed_ends_with_the_same_bits(
    trained: Path, toy_store: TrajectoryStore, tmp_path: Path
) -> None:
    given = overrides(toy_store, "tokens.weight=changing", "trainer.checkpoint_every_s=0")
    process, state = start(TRAIN, given, tmp_path), tmp_path / "model" / "training.pt"
    while process.is_alive() and not state.exists():
        process.join(timeout=0.01)
    finish(process, tmp_path)  # kills it
    run_json = json.loads((tmp_path / "model" / "run.json").read_text())
    assert run_json["trainer"]["checkpoint_every_s"] == 0
    result = run(TRAIN, given, tmp_path)
    assert result.exit_code == 0, result.stderr
    unbroken, resumed = weights_of(trained), weights_of(tmp_path)
    assert unbroken.keys() == resumed.keys()
    assert all(torch.equal(unbroken[name], resumed[name]) for name in unbroken)


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("prediction.rollout_steps=5", r"rollout_steps 5 must be a multiple of transformer.prediction_steps 2"),
        ("prediction.rollout_steps=2", r"at least twice"),
        ("prediction.rollout_steps=40", r"no episode is long enough for clips of 43 frames"),
        ("transformer.positions=polar", r"positions 'polar' is unknown: choose from learned, rotary, sincos"),
        ("tokens.weight=some", r"weight 'some' is unknown: choose from changing, uniform"),
        ("tokens.pool=3", r"tokens.pool is 3: it does not divide the 4 x 4 patches of camera"),
    ],
)
def test_mistakes_get_one_line_and_exit_code_2(
    toy_store: TrajectoryStore, tmp_path: Path, option: str, message: str
) -> None:
    result = run(TRAIN, overrides(toy_store, option), tmp_path)
    assert result.exit_code == 2
    lines = result.stderr.strip().splitlines()
    assert len(lines) == 1
    with pytest.raises(UserError, match=message):
        raise UserError(lines[0])


def test_a_token_weighs_what_it_changes() -> None:
    rows, patches = 40, (2, 4)
    still = np.zeros((rows, 8, 1), np.float16)
    still[:, 2:4] = still[:, 6:8] = np.arange(rows)[:, None, None]  # the right half changes by 1 in every step
    nothing = torch.zeros(rows, 0)
    recording = Recording([still], [torch.ones(1)], [patches], 2, nothing, nothing)
    weight = change_by_token(recording, ClipSampler(np.array([rows]), 5))
    assert weight.tolist() == [0.0, 2.0]


def test_a_stranger_gets_told_what_does_not_belong_there(trained: Path) -> None:
    values = load_model(str(trained / "model"), CPU).describe()
    family, spec = FAMILIES.get("tokens"), load_model(str(trained / "model"), CPU).spec
    with pytest.raises(UserError, match="'colour' is no part of a tokens model"):
        family.build(spec, {**values, "colour": {}})
    with pytest.raises(UserError, match="width"):
        family.build(spec, {**values, "transformer": {**values["transformer"], "width": "wide"}})
    with pytest.raises(KeyError, match="tokens"):
        family.build(spec, {name: part for name, part in values.items() if name != "tokens"})

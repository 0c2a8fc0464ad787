"""`python -m worldmodel.train init_from=...`: what is learned on, what stays, and what is refused."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
import torch

from tests.worldmodel.commands import TOY, run
from tests.worldmodel.toy import SPEC, make_episode
from worldmodel.core.goal import ImageGoal
from worldmodel.data import EpisodeWriter, TrajectoryStore
from worldmodel.models.registry import load_model

TRAIN = "worldmodel.train"
FEW = (
    "device=cpu", "trainer.steps=4", "state_trainer.steps=2", "appearance_trainer.steps=2", "encoder_from=random",
)  # fmt: skip


@pytest.fixture(scope="module")
def first(toy_store: TrajectoryStore, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a finished model in `runs/toy/model`."""
    folder = tmp_path_factory.mktemp("first")
    result = run(TRAIN, (f"data={toy_store.path}", *TOY[TRAIN], *FEW), folder)
    assert result.exit_code == 0, result
    return folder


@pytest.fixture(scope="module")
def lived(first: Path) -> Path:
    """A recording of the same robot later on, without a simulator's state."""
    spec = dataclasses.replace(SPEC, state_size=0)
    with EpisodeWriter(first / "lived.zarr", spec, {}) as writer:
        for seed in range(100, 130):
            episode = make_episode(seed)
            writer.append(dataclasses.replace(episode, state=episode.state[:, :0]))
    return first / "lived.zarr"


def further(first: Path, lived: Path, *options: str) -> tuple[str, ...]:
    given = (f"data={lived}", "cache=lived.npy", "init_from=runs/toy/model", "out=runs/toy/further")
    return (*given, *TOY[TRAIN], *FEW, *options)


def test_only_the_predictor_learns_on(first: Path, lived: Path) -> None:
    result = run(TRAIN, further(first, lived), first)
    assert result.exit_code == 0, result
    assert "keypoints of" not in result.stdout and "errors within the 90 % bound" in result.stdout
    before, after = (load_model(str(first / "runs/toy" / name), torch.device("cpu")) for name in ("model", "further"))
    assert after.spec == dataclasses.replace(SPEC, state_size=0)
    learned = set()
    for name, value in before.state_dict().items():
        if not torch.equal(value, after.state_dict()[name]):
            learned.add(name.split(".")[0])
    assert learned == {"predictor", "calibration"}
    # A distance means the same before and after.
    goals = [ImageGoal({"camera": make_episode(seed).images["camera"][0]}) for seed in (1, 2)]
    one, other = (float(model.distance(model.goal(goals[0]), model.goal(goals[1]))) for model in (before, after))
    assert one == other > 0
    described = json.loads((first / "runs/toy/further/run.json").read_text())
    assert described["init_from"] == "runs/toy/model" and len(described["init_hash"]) == 64


def test_the_same_command_begins_from_the_given_weights(first: Path, lived: Path) -> None:
    """With a learning rate of almost nothing, the predictor stays as it was."""
    still = ("trainer.learning_rate=1e-12", "trainer.final_learning_rate=0", "out=still")
    assert run(TRAIN, further(first, lived, *still), first).exit_code == 0
    before, after = (load_model(str(first / name), torch.device("cpu")) for name in ("runs/toy/model", "still"))
    for name, value in before.predictor.named_parameters():
        torch.testing.assert_close(after.predictor.get_parameter(name), value, atol=1e-5, rtol=1e-3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            ("family=tokens", "prediction.rollout_steps=8"),
            "init_from=runs/toy/model with family=tokens: expected family=keypoint, or no init_from",
        ),
        (("predictor.width=16",), "has predictor.width=32, this command asks for 16: give predictor.width=32"),
        (("init_from=nowhere",), "unknown checkpoint 'nowhere'"),
        (("init_from=push",), "init_from=push was made for env push, not for env toy"),
        (("init_from=3",), "init_from"),
    ],
)
def test_what_does_not_fit_is_refused(first: Path, lived: Path, options: tuple[str, ...], message: str) -> None:
    given = further(first, lived)
    if options[0] == "family=tokens":
        others = ("state", "robot_trainer", "state_trainer", "predictor", "appearance_training", "appearance_trainer")
        given = tuple(each for each in given if each.split(".")[0] not in others)
    result = run(TRAIN, (*given, *options, "out=refused"), first)
    assert result.exit_code == 2 and message in result.stderr and result.stderr.count("\n") == 1, result
    assert not (first / "refused").exists()

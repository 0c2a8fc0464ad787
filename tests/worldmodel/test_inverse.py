"""`python -m worldmodel.inverse`: what it leaves, and how it refuses."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.commands import Ended, assert_refused, type_in
from tests.worldmodel.toy import make_model
from worldmodel.core.errors import UserError
from worldmodel.data import TrajectoryStore
from worldmodel.inverse import some_episodes
from worldmodel.models.inverse.inverse import load_inverse
from worldmodel.models.registry import load_model

INVERSE = "worldmodel.inverse"
SMALL = (
    "device=cpu",
    "env=robot",
    "env.name=toy",
    "cache=frames.npy",
    "held_out_fraction=0.2",
    "episodes.frames=100",
    "episodes.held_out_frames=30",
    "head.width=16",
    "head.depth=1",
    "head.chunk=3",
    "trainer.steps=20",
    "trainer.batch_size=16",
    "trainer.precision=fp32",
    "trainer.log_every=5",
)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    make_model().save(folder, {})
    return folder


def train(folder: Path, store: TrajectoryStore, model: Path, *options: str) -> Ended:
    return type_in(folder, INVERSE, f"data={store.path}", f"checkpoint={model}", *SMALL, *options)


def test_it_leaves_a_head_of_that_model_and_says_how_good_it_is(
    toy_store: TrajectoryStore, model: Path, tmp_path: Path
) -> None:
    ended = train(tmp_path, toy_store, model)
    assert (ended.code, ended.err) == (0, ""), ended
    folder = tmp_path / "runs" / "toy" / "inverse"
    head = load_inverse(folder, load_model(str(model), torch.device("cpu")))
    assert head.chunk == 3
    config = json.loads((folder / "config.json").read_text())
    assert config["kind"] == "inverse" and set(config["provenance"]["held_out"]) == {"explained_near", "explained_far"}
    assert "of their variance explained for goals 3 control steps away" in ended.out
    assert "head: runs/toy/inverse" in ended.out
    again = train(tmp_path, toy_store, model)
    assert again.code == 0 and "already finished: runs/toy/inverse" in again.out


def test_heads_of_one_model_share_the_codes_of_the_recording(
    toy_store: TrajectoryStore, model: Path, tmp_path: Path
) -> None:
    assert train(tmp_path, toy_store, model).code == 0
    made = {path: path.stat().st_mtime_ns for path in tmp_path.glob("codes.*")}
    assert sorted(path.suffix for path in made) == [".json", ".json", ".npy", ".npy"]
    assert train(tmp_path, toy_store, model, "head.told_steps=false", "head.chunk=1", "out=cloning").code == 0
    assert {path: path.stat().st_mtime_ns for path in tmp_path.glob("codes.*")} == made
    assert train(tmp_path, toy_store, model, "episodes.frames=60", "out=of_fewer").code == 0
    assert len(list(tmp_path.glob("codes.*.npy"))) == 3, "the held-out frames are the same"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("checkpoint=nowhere",), "unknown checkpoint 'nowhere'"),
        (("held_out_fraction=0.0",), "held_out_fraction leaves no held-out episode"),
        (("episodes.frames=0",), "frames, held_out_frames and farthest must be at least 1"),
        (("head.chunk=0",), "every size must be at least 1"),
        (("head.width=100000000",), "takes about"),
        (("trainer.batch_size=1000000000",), "trainer.batch_size=1000000000 takes"),
    ],
)
def test_what_cannot_be_trained(
    toy_store: TrajectoryStore, model: Path, tmp_path: Path, options: tuple[str, ...], message: str
) -> None:
    assert_refused(train(tmp_path, toy_store, model, *options), message)
    assert not (tmp_path / "runs").exists()


def test_whole_episodes_are_chosen() -> None:
    ends, episodes = np.array([5, 12, 15]), np.array([2, 0, 1])
    assert some_episodes(ends, episodes, 8).tolist() == [2, 0]
    assert some_episodes(ends, episodes, 1).tolist() == [2]
    with pytest.raises(UserError, match="held_out_fraction leaves no held-out episode"):
        some_episodes(ends, episodes[:0], 8)

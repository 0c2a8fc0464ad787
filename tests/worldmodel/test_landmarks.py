"""`python -m worldmodel.landmarks`: what it leaves, and how it refuses."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from tests.commands import Ended, assert_refused, type_in
from tests.worldmodel.toy import SIZE, make_model
from worldmodel.core.device import pick_device
from worldmodel.data import TrajectoryStore
from worldmodel.models.landmarks.landmarks import PICTURES, load_landmarks
from worldmodel.models.registry import load_model

LANDMARKS = "worldmodel.landmarks"
SMALL = (
    "device=cpu",
    "env=robot",
    "env.name=toy",
    "landmarks.count=12",
    "landmarks.every=3",
    "landmarks.within=6",
    "landmarks.neighbours=3",
)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    make_model().save(folder, {})
    return folder


def find(folder: Path, store: TrajectoryStore, model: Path, *options: str) -> Ended:
    return type_in(folder, LANDMARKS, f"data={store.path}", "cache=frames.npy", f"checkpoint={model}", *SMALL, *options)


def test_it_leaves_landmarks_of_that_model_with_their_pictures(
    toy_store: TrajectoryStore, model: Path, tmp_path: Path
) -> None:
    ended = find(tmp_path, toy_store, model)
    assert (ended.code, ended.err) == (0, ""), ended
    assert "12 landmarks" in ended.out and "hierarchy=" not in ended.out
    folder = tmp_path / "runs" / "toy" / "landmarks"
    pictures = np.load(folder / PICTURES, allow_pickle=False)
    assert pictures.shape == (12, SIZE, SIZE, 3) and pictures.dtype == np.uint8
    assert len({picture.tobytes() for picture in pictures}) == 12  # no two alike
    loaded = load_landmarks(folder, load_model(str(model), pick_device("cpu")))
    assert loaded.config.count == 12 and len(loaded.edges.steps) >= 12
    stored = json.loads((folder / "config.json").read_text())
    assert stored["provenance"]["store"] == toy_store.identity
    again = find(tmp_path, toy_store, model)
    assert again.code == 0 and "already finished" in again.out


def test_what_cannot_be_used_is_refused_before_anything_is_written(
    toy_store: TrajectoryStore, model: Path, tmp_path: Path
) -> None:
    for option, message in (
        ("landmarks.count=5000", "landmarks.count=5000"),
        ("landmarks.within=99", "landmarks.within=99"),
        ("landmarks.every=0", "at least 1"),
        ("checkpoint=nowhere", "nowhere"),
        ("seed=-1", "seed=-1"),
    ):
        assert_refused(find(tmp_path, toy_store, model, option), message)
    assert not (tmp_path / "runs").exists()


def test_a_run_with_other_options_is_refused(toy_store: TrajectoryStore, model: Path, tmp_path: Path) -> None:
    assert find(tmp_path, toy_store, model).code == 0
    refused = find(tmp_path, toy_store, model, "landmarks.count=10")
    assert_refused(refused, "holds a run with landmarks.count=12, this command asks for 10")

"""`python -m envs.physics_clips`: recordings of pairs and of possible clips."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from tests.commands import assert_refused, type_in
from worldmodel.data import TrajectoryStore
from worldmodel.surprise.labels import read_labels

SMALL = ("world=push", "properties=[command]", "scenes=2", "image_size=16")


def test_pairs_and_their_labels(tmp_path: Path) -> None:
    ended = type_in(tmp_path, "envs.physics_clips", *SMALL, "out=clips")
    assert (ended.code, ended.err) == (0, "")
    assert "8 clips of 24 frames" in ended.out and "next: python -m worldmodel.physics data=clips" in ended.out
    store = TrajectoryStore.open(tmp_path / "clips" / "pairs.zarr")
    labels = read_labels(tmp_path / "clips" / "pairs.json", store)
    assert [(label.possible, label.impossible) for label in labels] == [(0, 1), (2, 3), (4, 5), (6, 7)]
    assert {label.property for label in labels} == {"command"} and {label.scene for label in labels} == {0, 1}
    for label in labels:
        possible, impossible = store.episode(label.possible), store.episode(label.impossible)
        at = label.break_row
        np.testing.assert_array_equal(possible.images["camera"][:at], impossible.images["camera"][:at])
        np.testing.assert_array_equal(possible.action, impossible.action)
        assert not np.array_equal(possible.images["camera"][at:], impossible.images["camera"][at:])


def test_the_same_command_adds_nothing_and_another_one_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "clips"
    type_in(tmp_path, "envs.physics_clips", *SMALL, "out=clips")
    before = TrajectoryStore.open(folder / "pairs.zarr").identity, (folder / "pairs.json").read_bytes()
    assert type_in(tmp_path, "envs.physics_clips", *SMALL, "out=clips").code == 0
    assert (TrajectoryStore.open(folder / "pairs.zarr").identity, (folder / "pairs.json").read_bytes()) == before
    other = type_in(tmp_path, "envs.physics_clips", *SMALL, "out=clips", "seed=1")
    assert_refused(other, "was recorded with seed 0, this run has 1")


def test_a_training_set_is_a_recording_without_labels(tmp_path: Path) -> None:
    given = ("set=training", "clips=17", "image_size=16", "out=clips")
    ended = type_in(tmp_path, "envs.physics_clips", *given)
    assert (ended.code, ended.err) == (0, "")
    store = TrajectoryStore.open(tmp_path / "clips" / "training.zarr")
    assert (store.num_episodes, store.spec.env) == (17, "stage")
    assert [file.name for file in (tmp_path / "clips").iterdir() if file.suffix == ".json"] == []
    assert json.loads(json.dumps(store.recording))["clips"] == 17


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("world=puhs",), "unknown world 'puhs': choose from push, stage (did you mean push?)"),
        (("set=pair",), "unknown set 'pair': choose from pairs, training (did you mean pairs?)"),
        (("properties=[wal]",), "unknown property 'wal'"),
        (("world=push", "properties=[wall]"), "unknown property 'wall': choose from command, contact"),
        (("scenes=0",), "scenes 0: expected a whole number of at least 1"),
        (("frames=21",), "frames 21: expected a whole number of at least 22"),
        (("image_size=4",), "image_size 4 is too small"),
        (("out=''",), "out is empty"),
    ],
)
def test_what_cannot_be_made(tmp_path: Path, options: tuple[str, ...], message: str) -> None:
    assert_refused(type_in(tmp_path, "envs.physics_clips", *options), message)
    assert list(tmp_path.iterdir()) == []

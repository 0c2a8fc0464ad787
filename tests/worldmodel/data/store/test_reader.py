"""What is written is read back, and damage is never mistaken for data."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import zarr

from worldmodel.core.errors import UserError
from worldmodel.data import EpisodeWriter, StoreError, TrajectoryStore
from worldmodel.data.store import integrity

COLUMNS = ("images/camera", "action", "proprio", "state")


def test_episodes_come_back_bit_for_bit(store, make_episode):
    lengths = [20, 7, 33, 1, 40]
    assert (store.num_episodes, store.num_rows, store.num_steps) == (5, 106, 101)
    assert store.episode_ends.tolist() == np.cumsum(np.array(lengths) + 1).tolist()
    for index, num_steps in enumerate(lengths):
        written, read = make_episode(index, num_steps), store.episode(index)
        for name in COLUMNS:
            assert read.columns[name].dtype == written.columns[name].dtype
            np.testing.assert_array_equal(read.columns[name], written.columns[name])
        assert read.seed == written.seed
        assert read.num_steps == num_steps
        assert not read.action[-1].any()


def test_plain_zarr_reads_the_documented_layout(store):
    group = zarr.open_group(store.path, mode="r")
    assert group["meta/episode_ends"][:].tolist() == store.episode_ends.tolist()
    assert group["data/images/camera"].shape == (106, 8, 8, 3)
    assert group["data/images/camera"].chunks == (16, 8, 8, 3)
    assert group["data/action"].dtype == np.float32
    assert group["data/state"].dtype == np.float64


def test_spec_and_recording_survive(store, spec):
    assert store.spec == spec
    assert store.recording == {"seed": 0}


def test_identity_changes_with_content(tmp_path, store, write_store):
    same = write_store(tmp_path / "same.zarr")
    assert same.identity == store.identity
    assert write_store(tmp_path / "same.zarr", (5,), first=5).identity != store.identity


def test_a_robot_without_simulator_state(tmp_path, spec, make_episode):
    real = dataclasses.replace(spec, state_size=0, simulator="none")
    with EpisodeWriter(tmp_path / "real.zarr", real) as writer:
        writer.append(make_episode(1, 20, real))
    assert TrajectoryStore.open(tmp_path / "real.zarr").episode(0).state.shape == (21, 0)


def test_reads_outside_are_refused(store):
    with pytest.raises(IndexError):
        store.read("images/camera", 100, 107)
    with pytest.raises(IndexError):
        store.episode(5)
    with pytest.raises(
        UserError,
        match=r"unknown column 'actoin': choose from action, images/camera, proprio, state .did you mean action",
    ):
        store.read("actoin", 0, 1)


# --- damage --------------------------------------------------------------------------------------------------------


def _chunk(store: TrajectoryStore, name: str, index: int) -> Path:
    (path,) = (store.path / "data" / name).glob(f"c.{index}.*")
    return path


def test_a_missing_chunk_is_an_error_and_not_zeros(store):
    _chunk(store, "images/camera", 3).unlink()  # rows 48 to 63, in episodes 2 (29 to 62) and 3
    with pytest.raises(StoreError, match=r"chunk 3 of data/images/camera is missing .*in episode 2"):
        store.episode(2)
    with pytest.raises(StoreError, match=r"chunk 3 of data/images/camera is missing .*in episode 3"):
        store.episode(3)
    store.episode(0)
    store.episode(1)


def test_a_chunk_of_zeros_is_stored(store):
    assert not store.read("images/camera", 0, 16).any()
    _chunk(store, "images/camera", 0).unlink()
    with pytest.raises(StoreError, match="chunk 0 of data/images/camera is missing"):
        store.read("images/camera", 0, 16)


@pytest.mark.parametrize("name", COLUMNS)
@pytest.mark.parametrize("keep", [0, 3, 0.5, -1])
def test_a_truncated_chunk_is_an_error(store, name, keep):
    path = _chunk(store, name, 0)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * keep) if isinstance(keep, float) else keep])
    with pytest.raises(StoreError, match=f"chunk 0 of data/{name} cannot be decoded .*in episode 0"):
        store.episode(0)


def test_a_flipped_bit_is_an_error(store):
    path = _chunk(store, "images/camera", 2)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(StoreError, match="chunk 2 of data/images/camera cannot be decoded"):
        store.read("images/camera", 16, 64)


@pytest.mark.parametrize("name", ["episode_ends", "episode_seed"])
def test_a_missing_index_is_an_error(store, name):
    (store.path / "meta" / name / "c.0").unlink()
    with pytest.raises(StoreError, match=f"meta/{name} is missing"):
        TrajectoryStore.open(store.path)


def test_truncated_arrays_are_noticed_on_opening(store):
    zarr.open_group(store.path, mode="r+")["data/state"].resize((50, 5))
    with pytest.raises(StoreError, match="truncated: data/state has 50 rows, meta/episode_ends promises 106"):
        TrajectoryStore.open(store.path)


@pytest.mark.parametrize("name", ["data/action", "meta/episode_ends"])
def test_lost_or_broken_metadata_is_noticed_on_opening(store, name):
    metadata = store.path / name / "zarr.json"
    metadata.write_text(metadata.read_text()[:40])
    with pytest.raises(StoreError, match="damaged"):
        TrajectoryStore.open(store.path)
    metadata.unlink()
    with pytest.raises(StoreError, match="damaged"):
        TrajectoryStore.open(store.path)


def _edit_attributes(store: TrajectoryStore, **changes: object) -> None:
    path = store.path / "zarr.json"
    content = json.loads(path.read_text())
    content["attributes"].update(changes)
    content["attributes"]["checksum"] = integrity.description_checksum(content["attributes"])
    path.write_text(json.dumps(content))


def test_a_newer_schema_is_refused(store):
    _edit_attributes(store, schema_version=4)
    with pytest.raises(StoreError, match="schema version 4, this program reads up to 3"):
        TrajectoryStore.open(store.path)


def test_a_changed_description_is_noticed(store):
    path = store.path / "zarr.json"
    path.write_text(path.read_text().replace('"control_step_s": 0.1', '"control_step_s": 0.2'))
    with pytest.raises(StoreError, match=r"description in zarr\.json is not what was written"):
        TrajectoryStore.open(store.path)


def test_an_index_that_was_changed_consistently_with_zarr_is_noticed(store):
    seeds = zarr.open_group(store.path, mode="r+")["meta/episode_seed"]
    seeds[3] = 7
    with pytest.raises(StoreError, match=r"contradict each other: `python -m worldmodel\.data recover"):
        TrajectoryStore.open(store.path)


def test_an_index_cut_short_is_noticed(store):
    zarr.open_group(store.path, mode="r+")["meta/episode_ends"].resize((4,))
    with pytest.raises(StoreError, match="contradict each other"):
        TrajectoryStore.open(store.path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"schema_version": "one"}, "schema version 'one'"),
        ({"environment": None}, "does not say its environment"),
        ({"environment": {"env": "toy"}}, "environment description has keys"),
        ({"format": "something"}, "not a trajectory store"),
    ],
)
def test_strange_attributes_are_refused(store, change, message):
    _edit_attributes(store, **change)
    with pytest.raises(UserError, match=message):
        TrajectoryStore.open(store.path)


def test_no_store_says_how_to_make_one(tmp_path):
    with pytest.raises(StoreError, match=r"no recording at .*python -m envs\.collect"):
        TrajectoryStore.open(tmp_path / "absent.zarr")
    (tmp_path / "notes.txt").write_text("not a store")
    for path in (tmp_path, tmp_path / "notes.txt"):
        with pytest.raises(StoreError, match=r"not a trajectory store.*python -m envs\.collect"):
            TrajectoryStore.open(path)

"""What is whole is kept, what is not is set aside, and nothing is done twice."""

from __future__ import annotations

import json
import shutil
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import zarr

from benchmarks.store.faults import Call, Interception
from worldmodel.core.errors import UserError
from worldmodel.data import EpisodeWriter, StoreError, TrajectoryStore
from worldmodel.data.store.integrity import description_checksum
from worldmodel.data.store.recovery import Recovery, recover
from worldmodel.data.store.verification import verify

COLUMNS = ("images/camera", "action", "proprio", "state")


def quiet(done: int, total: int) -> None:
    assert 0 < done <= total


def snapshot(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def damage(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def assert_holds(path: Path, original: TrajectoryStore, episodes: list[int]) -> None:
    store = TrajectoryStore.open(path)
    assert verify(store, quiet) == []
    assert store.episode_seeds.tolist() == original.episode_seeds[episodes].tolist()
    for position, episode in enumerate(episodes):
        for name in COLUMNS:
            wanted, found = (s.episode(e).columns[name] for s, e in ((original, episode), (store, position)))
            np.testing.assert_array_equal(found, wanted)


@pytest.fixture
def original(tmp_path: Path, store: TrajectoryStore) -> TrajectoryStore:
    """The same five episodes (rows 0, 21, 29, 63, 65 and up to 106), elsewhere and left alone."""
    return TrajectoryStore.open(shutil.copytree(store.path, tmp_path / "original.zarr"))


def test_a_whole_store_stays_as_it_is(store: TrajectoryStore) -> None:
    before = snapshot(store.path)
    assert recover(store.path, quiet) == Recovery(5, (), None)
    assert snapshot(store.path) == before


def test_verify_names_episode_and_column(store: TrajectoryStore) -> None:
    (chunk,) = (store.path / "data/images/camera").glob("c.3.*")  # rows 48 to 63: episodes 2 and 3
    damage(chunk)
    found = verify(TrajectoryStore.open(store.path), quiet)
    assert [(d.episode, d.column) for d in found] == [(2, "images/camera"), (3, "images/camera")]
    assert "chunk 3 of data/images/camera cannot be decoded" in found[0].what


def test_chunks_that_were_swapped_decode_and_are_found_all_the_same(store: TrajectoryStore) -> None:
    (one,), (other,) = ((store.path / "data/images/camera").glob(f"c.{i}.*") for i in (2, 3))
    content = one.read_bytes()
    one.write_bytes(other.read_bytes())
    other.write_bytes(content)
    found = verify(TrajectoryStore.open(store.path), quiet)
    assert {(d.episode, d.what) for d in found} == {
        (2, "is not what was recorded: its checksum differs"),
        (3, "is not what was recorded: its checksum differs"),
    }


def test_damaged_episodes_are_set_aside_with_the_store_they_were_in(store, original) -> None:
    (chunk,) = (store.path / "data/images/camera").glob("c.3.*")
    damage(chunk)
    before = snapshot(store.path)
    done = recover(store.path, quiet)
    assert done == Recovery(3, (2, 3), store.path.with_name("data.zarr.damaged"))
    assert_holds(store.path, original, [0, 1, 4])
    assert snapshot(done.set_aside) == before
    after = snapshot(store.path)
    assert recover(store.path, quiet) == Recovery(3, (), None)
    assert snapshot(store.path) == after
    assert sorted(p.name for p in store.path.parent.iterdir()) == ["data.zarr", "data.zarr.damaged", "original.zarr"]


@pytest.mark.parametrize(
    "name",
    ["zarr.json", "meta/zarr.json", "meta/episode_ends/c.0", "meta/episode_seed/c.0", "meta/episode_record/c.0.0"]
    + [
        f"{array}/zarr.json"
        for array in ("meta/episode_ends", "meta/episode_record", "data/images/camera", "data/state")
    ],
)
@pytest.mark.parametrize(
    "how", ["lost", pytest.param("cut", marks=pytest.mark.slow), pytest.param("flipped", marks=pytest.mark.slow)]
)
def test_no_episode_is_lost_with_any_one_file_of_the_index(store, original, name, how) -> None:
    file = store.path / name
    if how == "lost":
        file.unlink()
    elif how == "cut":
        file.write_bytes(file.read_bytes()[:40])
    else:
        damage(file)
    done = recover(store.path, quiet)
    assert (done.kept, done.lost) == (5, ())
    assert_holds(store.path, original, [0, 1, 2, 3, 4])


def test_an_index_that_claims_too_few_or_too_many_episodes_is_not_believed(store, original) -> None:
    file = store.path / "meta/episode_ends/zarr.json"
    for claimed in (3, 900, -4, True):
        content = json.loads(file.read_text())
        content["shape"] = [claimed]
        file.write_text(json.dumps(content))
        assert recover(store.path, quiet).kept == 5
        assert_holds(store.path, original, [0, 1, 2, 3, 4])


def test_a_stray_file_with_a_huge_number_promises_nothing(store, original) -> None:
    (chunk,) = (store.path / "data/images/camera").glob("c.3.*")
    damage(chunk)
    for name in (
        "meta/episode_seed/c.999999999",
        "meta/episode_record/c.999999999.0",
        "data/images/camera/c.999999999.0.0.0",
    ):
        (store.path / name).write_bytes(b"left by some other program")
    tracemalloc.start()
    assert recover(store.path, quiet).kept == 3
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 50_000_000
    assert_holds(store.path, original, [0, 1, 4])


def test_a_folder_in_place_of_a_chunk_is_a_lost_chunk(store, original) -> None:
    chunk = store.path / "data/images/camera/c.3.0.0.0"  # rows 48 to 63
    chunk.unlink()
    chunk.mkdir()
    assert recover(store.path, quiet).lost == (2, 3)
    assert_holds(store.path, original, [0, 1, 4])


def test_what_was_never_committed_is_cut_off(store, original) -> None:
    pixels = zarr.open_group(store.path, mode="r+")["data/images/camera"]
    pixels.resize((500, 8, 8, 3))
    pixels[106:500] = 7
    (store.path / "data/action/c.1.0.partial").write_bytes(b"torn")
    assert recover(store.path, quiet) == Recovery(5, (), None)
    assert snapshot(store.path).keys() == snapshot(original.path).keys()
    assert_holds(store.path, original, [0, 1, 2, 3, 4])
    assert zarr.open_group(store.path, mode="r")["data/images/camera"].shape == (106, 8, 8, 3)


def test_the_store_is_replaced_in_an_order_that_a_power_cut_keeps(store, original) -> None:
    (chunk,) = (store.path / "data/images/camera").glob("c.3.*")
    damage(chunk)
    calls: list[tuple[str, str]] = []

    def note(call: Call) -> None:
        if Path(call.path).parent == store.path.parent or call.path == str(store.path.parent):
            calls.append((call.kind, Path(call.target or call.path).name))

    with Interception(store.path.parent, note):
        recover(store.path, quiet)
    synced = ("fsync", store.path.parent.name)
    renamed = [calls.index(("rename", f"data.zarr{end}")) for end in (".recovered", ".damaged", "")]
    assert renamed == sorted(renamed)
    assert [calls[i + 1] for i in renamed] == [synced] * 3


@pytest.mark.parametrize("moment", ["before the old one is moved", "after"])
def test_a_recovery_that_was_killed_while_it_replaced_the_store_is_finished(store, original, moment) -> None:
    ready = store.path.with_name("data.zarr.recovered")
    shutil.copytree(store.path, ready)
    if moment == "after":
        store.path.rename(store.path.with_name("data.zarr.damaged"))
        with pytest.raises(StoreError, match=r"worldmodel\.data recover"):
            TrajectoryStore.open(store.path)
    assert recover(store.path, quiet).kept == 5
    assert_holds(store.path, original, [0, 1, 2, 3, 4])
    assert not ready.exists()
    assert store.path.with_name("data.zarr.damaged").exists()


def test_leftovers_of_a_killed_recovery_do_not_matter(store, original) -> None:
    (chunk,) = (store.path / "data/action").glob("c.0.*")
    chunk.unlink()
    for stage in ("recovering", "linked"):
        (store.path.with_name(f"data.zarr.{stage}") / "data").mkdir(parents=True)
    assert recover(store.path, quiet).lost == (0, 1, 2, 3, 4)
    assert sorted(p.name for p in store.path.parent.iterdir()) == ["data.zarr", "data.zarr.damaged", "original.zarr"]


def test_without_any_description_nothing_is_touched(store) -> None:
    for name in ("zarr.json", "meta/zarr.json"):
        (store.path / name).write_bytes(b"{}")
    before = snapshot(store.path)
    with pytest.raises(StoreError, match="no copy of its description is intact"):
        recover(store.path, quiet)
    assert snapshot(store.path) == before


def test_a_live_writer_is_not_disturbed(store, spec, make_episode: Callable[..., object]) -> None:
    with (
        EpisodeWriter(store.path, spec, {"seed": 0}),
        pytest.raises(UserError, match="being written by process"),
    ):
        recover(store.path, quiet)


@pytest.mark.parametrize(
    "change",
    [
        {"environment": [{"env": "toy"}]},
        {"environment": None},
        {"environment": {"env": "toy"}},
        {"recording": 0},
        {"recording": None},
    ],
)
def test_a_description_that_makes_no_sense_is_damaged_even_if_it_is_signed(store, change: dict) -> None:
    file = store.path / "zarr.json"
    content = json.loads(file.read_text())
    attributes = {key: value for key, value in {**content["attributes"], **change}.items() if value is not None}
    attributes["checksum"] = description_checksum(attributes)
    file.write_text(json.dumps({**content, "attributes": attributes}))
    assert recover(store.path, quiet).kept == 5  # by the second copy
    assert TrajectoryStore.open(store.path).spec == store.spec


def test_a_description_that_lost_its_checksum_is_damaged(store) -> None:
    file = store.path / "zarr.json"
    file.write_text(file.read_text().replace('"checksum": "', '"checksun": "'))
    assert recover(store.path, quiet).kept == 5
    assert TrajectoryStore.open(store.path).spec == store.spec

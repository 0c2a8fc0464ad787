"""Committed episodes survive whatever happens to the writer."""

from __future__ import annotations

import dataclasses
import errno
import os
import shutil
import time
from pathlib import Path

import numpy as np
import pytest
import zarr
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from worldmodel.core.errors import UserError
from worldmodel.core.spec import one_camera
from worldmodel.data import EpisodeWriter, StoreError, TrajectoryStore, WritingStopped
from worldmodel.data.store import writer as writer_module
from worldmodel.data.store.metadata import MetadataError
from worldmodel.data.store.recovery import recover
from worldmodel.data.store.verification import verify

COLUMNS = ("images/camera", "action", "proprio", "state")


class Stopped(BaseException):
    """Stands for SIGKILL: nothing after it may run, so what the disk holds is what counts."""


def assert_same(a: TrajectoryStore, b: TrajectoryStore) -> None:
    np.testing.assert_array_equal(a.episode_ends, b.episode_ends)
    np.testing.assert_array_equal(a.episode_seeds, b.episode_seeds)
    for name in COLUMNS:
        np.testing.assert_array_equal(a.read(name, 0, a.num_rows), b.read(name, 0, b.num_rows))


def stop_at_write(monkeypatch: pytest.MonkeyPatch, countdown: int, torn: bool) -> None:
    """From the `countdown`-th file written on, every write fails; a torn one leaves half of its temporary file."""
    whole, left = writer_module.DurableLocalStore._write, [countdown]

    def write(self, key, value):
        left[0] -= 1
        if left[0] >= 0:
            return whole(self, key, value)
        if torn:
            path = self.root / key
            path.with_name(path.name + ".partial").write_bytes(bytes(value.as_buffer_like())[:10])
        raise Stopped

    monkeypatch.setattr(writer_module.DurableLocalStore, "_write", write)


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory, write_store) -> TrajectoryStore:
    return write_store(tmp_path_factory.mktemp("unbroken") / "data.zarr", (20, 7, 33, 15, 40))


@pytest.mark.parametrize("countdown", range(0, 32, 2))
def test_a_commit_that_stops_anywhere_is_all_or_nothing(
    tmp_path, monkeypatch, spec, make_episode, write_store, unbroken, countdown
):
    path = tmp_path / "data.zarr"
    write_store(path, (20, 7))
    with (
        monkeypatch.context() as patch,
        EpisodeWriter(path, spec, {"seed": 0}, episodes_per_commit=9) as writer,
    ):
        stop_at_write(patch, countdown, torn=countdown % 4 == 0)
        writer.append(make_episode(2, 33))
        writer.append(make_episode(3, 15))
        stopped = False
        try:
            writer.commit()
        except Stopped:
            stopped = True
        writer._pending.clear()  # a killed process does nothing more
    survivors = TrajectoryStore.open(path)
    assert survivors.num_episodes == (2 if stopped else 4)
    rows = survivors.num_rows
    np.testing.assert_array_equal(survivors.read("images/camera", 0, rows), unbroken.read("images/camera", 0, rows))

    missing = (33, 15, 40) if stopped else (40,)
    assert_same(write_store(path, missing, first=survivors.num_episodes), unbroken)
    assert not list(path.rglob("*.partial"))
    assert {p.relative_to(path) for p in path.rglob("*")} == {
        p.relative_to(unbroken.path) for p in unbroken.path.rglob("*")
    }


def test_the_commit_points_above_cover_a_whole_commit(tmp_path, monkeypatch, spec, make_episode, write_store):
    """Guards the test above: its countdowns reach from the first write of a commit past the last one."""
    write_store(tmp_path / "data.zarr", (20, 7))
    written = []
    whole = writer_module.DurableLocalStore._write
    monkeypatch.setattr(
        writer_module.DurableLocalStore, "_write", lambda s, k, v: (written.append(k), whole(s, k, v))[1]
    )
    with EpisodeWriter(tmp_path / "data.zarr", spec, {"seed": 0}) as writer:
        written.clear()
        writer.append(make_episode(2, 33))
        writer.append(make_episode(3, 15))
        writer.commit()
    assert 8 < len(written) <= 30
    assert written[-2:] == ["meta/episode_ends/c.0", "meta/episode_ends/zarr.json"]


def test_files_and_their_names_are_synced_before_the_commit(tmp_path, monkeypatch, spec, make_episode):
    events: list[str] = []
    whole_sync = writer_module.DurableLocalStore.sync_directories
    whole_fsync, whole_replace = os.fsync, Path.replace

    def fsync(descriptor):
        events.append("fsync")
        whole_fsync(descriptor)

    def replace(self, target):
        events.append(f"rename {Path(target).parent.name}/{Path(target).name}")
        return whole_replace(self, target)

    def sync_directories(self):
        whole_sync(self)
        events.append("names synced")

    with EpisodeWriter(tmp_path / "data.zarr", spec) as writer:
        writer.append(make_episode(0))
        monkeypatch.setattr(os, "fsync", fsync)
        monkeypatch.setattr(Path, "replace", replace)
        monkeypatch.setattr(writer_module.DurableLocalStore, "sync_directories", sync_directories)
        writer.commit()
    renames = [e for e in events if e.startswith("rename")]
    committed = events.index("rename episode_ends/zarr.json")
    assert renames[-1] == events[committed]
    assert "names synced" in events[events.index("rename episode_ends/c.0") : committed]
    assert events[-1] == "names synced"
    assert events[:committed].count("fsync") > len(renames)  # each file, and the directories


@settings(max_examples=6, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    lengths=st.lists(st.integers(1, 40), min_size=1, max_size=6),
    per_commit=st.integers(1, 5),
    stop=st.integers(0, 6),
)
def test_any_grouping_into_commits_gives_the_same_store(
    tmp_path_factory, spec, make_episode, lengths, per_commit, stop
):
    folder = tmp_path_factory.mktemp("grouping")
    episodes = [make_episode(i, n) for i, n in enumerate(lengths)]
    with EpisodeWriter(folder / "one.zarr", spec) as writer:
        for episode in episodes:
            writer.append(episode)
    for part in (episodes[:stop], episodes[stop:]):
        with EpisodeWriter(folder / "two.zarr", spec, episodes_per_commit=per_commit) as writer:
            for episode in part:
                writer.append(episode)
    assert_same(TrajectoryStore.open(folder / "one.zarr"), TrajectoryStore.open(folder / "two.zarr"))
    shutil.rmtree(folder)


def test_a_reader_keeps_what_it_saw_and_a_later_one_sees_more(tmp_path, spec, make_episode):
    path = tmp_path / "data.zarr"
    with EpisodeWriter(path, spec, episodes_per_commit=9) as writer:
        writer.append(make_episode(0))
        assert TrajectoryStore.open(path).num_episodes == 0
        writer.commit()
        early = TrajectoryStore.open(path)
        writer.append(make_episode(1))
        assert TrajectoryStore.open(path).num_episodes == 1
        writer.commit()
        assert (early.num_episodes, TrajectoryStore.open(path).num_episodes) == (1, 2)
        np.testing.assert_array_equal(early.episode(0).images["camera"], make_episode(0).images["camera"])


def test_an_error_drops_what_is_pending_and_ctrl_c_keeps_it(tmp_path, spec, make_episode):
    path = tmp_path / "data.zarr"
    for error, expected in ((RuntimeError, 0), (KeyboardInterrupt, 1)):
        with pytest.raises(error), EpisodeWriter(path, spec) as writer:
            writer.append(make_episode(0))
            raise error
        assert TrajectoryStore.open(path).num_episodes == expected


def test_when_an_error_arrives_nothing_is_written_any_more(tmp_path, monkeypatch, spec, make_episode):
    """zarr writes several chunks at once; one that is slow must not come after the lock was released."""
    late: list[str] = []

    def write(self, key, value):
        if key == "data/images/camera/c.0.0.0.0":
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        time.sleep(0.1)
        late.append(key)

    with EpisodeWriter(tmp_path / "data.zarr", spec) as writer:
        writer.append(make_episode(1, 60))
        monkeypatch.setattr(writer_module.DurableLocalStore, "_write", write)
        with pytest.raises(WritingStopped, match="Input/output error"):
            writer.commit()
        written = len(late)
        writer.discard_pending()
    assert written > 0
    time.sleep(0.3)
    assert len(late) == written


def test_plain_zarr_leftovers_are_cut_off(tmp_path, store, write_store):
    pixels = zarr.open_group(store.path, mode="r+")["data/images/camera"]
    pixels.resize((500, 8, 8, 3))
    pixels[106:500] = 7
    (store.path / "data/images/camera/c.90.0.0.0").write_bytes(b"stray")
    (store.path / "data/images/camera/c.1~").write_bytes(b"what some other program leaves there")
    longer = write_store(store.path, (12,), first=5)
    assert zarr.open_group(store.path, mode="r")["data/images/camera"].shape == (119, 8, 8, 3)
    assert_same(longer, write_store(tmp_path / "unbroken.zarr", (20, 7, 33, 1, 40, 12)))
    assert not (store.path / "data/images/camera/c.90.0.0.0").exists()


def test_a_writer_does_not_build_on_a_missing_chunk(store, write_store):
    (store.path / "data/images/camera/c.6.0.0.0").unlink()  # the last, partly filled one
    with pytest.raises(StoreError, match="chunk 6 of data/images/camera is missing"):
        write_store(store.path, (12,), first=5)


@pytest.mark.parametrize(
    ("changes", "recording", "message"),
    [
        ({"cameras": one_camera(16)}, {"seed": 0}, "recorded with cameras .*8.*, this run has .*16"),
        ({"options": {"distractors": True}}, {"seed": 0}, "recorded with options"),
        ({"simulator": "none 2.0"}, {"seed": 0}, "recorded with simulator none 1.0, this run has none 2.0"),
        ({}, {"seed": 1}, "recorded with seed 0, this run has 1"),
    ],
)
def test_a_different_recording_is_refused(store, spec, changes, recording, message):
    with pytest.raises(UserError, match=message):
        EpisodeWriter(store.path, dataclasses.replace(spec, **changes), recording).__enter__()


def test_a_folder_of_something_else_is_refused(tmp_path, spec):
    (tmp_path / "photo.png").write_bytes(b"")
    with pytest.raises(StoreError, match="not a trajectory store"):
        EpisodeWriter(tmp_path, spec).__enter__()
    assert (tmp_path / "photo.png").exists()


def test_half_created_stores_are_made_again(tmp_path, spec, make_episode):
    (tmp_path / "data.zarr.partial/data").mkdir(parents=True)
    with EpisodeWriter(tmp_path / "data.zarr", spec) as writer:
        writer.append(make_episode(0))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["data.zarr"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"action": np.zeros((21, 3), np.float32)}, r"action float32 \[21, 3\], expected float32 \[21, 2\]"),
        ({"proprio": np.zeros((21, 3))}, "proprio float64"),
        ({"state": np.full((21, 5), np.nan)}, "state with a number that is not finite"),
        ({"action": np.ones((21, 2), np.float32)}, "last action other than zero"),
    ],
)
def test_an_episode_that_does_not_fit_is_refused(tmp_path, spec, make_episode, change, message):
    with EpisodeWriter(tmp_path / "data.zarr", spec) as writer, pytest.raises(UserError, match=message):
        writer.append(dataclasses.replace(make_episode(0), **change))


@pytest.mark.parametrize("name", ["data/images/camera", "meta/episode_seed", "meta/episode_ends"])
def test_what_a_reader_passes_over_in_metadata_stops_no_writer(store, write_store, name):
    """One flipped bit makes `storagg_transformers` of `storage_transformers`, at which zarr itself gives up."""
    file = store.path / name / "zarr.json"
    content = file.read_text()
    assert '"storage_transformers"' in content
    file.write_text(content.replace('"storage_transformers"', '"storagg_transformers"'))
    before = store.records
    assert recover(store.path, lambda *_: None).set_aside is None
    longer = write_store(store.path, (7,), first=5)
    assert verify(longer, lambda *_: None) == []
    assert (longer.records[:5] == before).all()
    assert longer.num_episodes == 6


@pytest.mark.parametrize(
    ("cause", "error", "message"),
    [
        (OSError(errno.EIO, os.strerror(errno.EIO)), WritingStopped, "cannot be written to .Input/output error"),
        (None, StoreError, "is damaged: data/images/camera: zarr.json cannot be read"),
    ],
)
def test_metadata_that_a_disk_gave_once_and_not_again(store, write_store, monkeypatch, cause, error, message):
    def fail(*_):
        raise MetadataError("zarr.json cannot be read") from cause

    monkeypatch.setattr(writer_module, "open_array", fail)
    with pytest.raises(error, match=message):
        write_store(store.path, (7,), first=5)
    monkeypatch.undo()
    assert write_store(store.path, (7,), first=5).num_episodes == 6

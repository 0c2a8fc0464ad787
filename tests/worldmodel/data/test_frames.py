"""The frame cache holds this store's frames, or is made again."""

from __future__ import annotations

import dataclasses
import errno
import os
import shutil

import numpy as np
import pytest

from tests.commands import refuse_to_write
from worldmodel.core.errors import UserError
from worldmodel.data import EpisodeWriter, StoreError, TrajectoryStore, frames, load_frames
from worldmodel.data.store.lock import WriterLock


def test_frames_are_those_of_the_store_and_are_decoded_once(tmp_path, store, monkeypatch):
    reports = []
    cache = tmp_path / "run" / "frames.npy"
    decoded = load_frames(store, cache, progress=lambda done, total: reports.append((done, total)))
    np.testing.assert_array_equal(decoded, store.read("images/camera", 0, store.num_rows))
    assert reports[-1] == (106, 106)
    np.testing.assert_array_equal(np.load(cache), decoded)  # a plain .npy file to anybody else
    assert not decoded.flags.writeable

    monkeypatch.setattr(TrajectoryStore, "read", lambda *_: pytest.fail("decoded again"))
    np.testing.assert_array_equal(load_frames(store, cache), decoded)
    assert [p.name for p in cache.parent.iterdir()] == ["frames.npy"]


def test_a_store_that_grew_is_decoded_again(tmp_path, store, write_store):
    cache = tmp_path / "frames.npy"
    assert len(load_frames(store, cache)) == 106
    longer = write_store(store.path, (9,), first=5)
    assert len(load_frames(longer, cache)) == 116


def test_another_store_of_the_same_shape_is_decoded_again(tmp_path, store, write_store):
    cache = tmp_path / "frames.npy"
    load_frames(store, cache)
    other = write_store(tmp_path / "other.zarr", (20, 7, 33, 1, 40), first=50)
    np.testing.assert_array_equal(load_frames(other, cache), other.read("images/camera", 0, 106))


@pytest.mark.parametrize("keep", [0, 5, 1000, -1, -70])
def test_a_truncated_cache_is_made_again(tmp_path, store, keep):
    cache = tmp_path / "frames.npy"
    load_frames(store, cache)
    cache.write_bytes(cache.read_bytes()[:keep])
    np.testing.assert_array_equal(load_frames(store, cache), store.read("images/camera", 0, 106))


def test_a_damaged_store_leaves_no_cache(tmp_path, store):
    (store.path / "data/images/camera/c.4.0.0.0").unlink()
    with pytest.raises(StoreError, match="chunk 4"):
        load_frames(store, tmp_path / "frames.npy")
    assert not (tmp_path / "frames.npy").exists()


def test_no_room_no_episodes_and_a_second_maker_are_refused(tmp_path, store, write_store, monkeypatch):
    with pytest.raises(UserError, match="holds no episode"):
        load_frames(write_store(tmp_path / "empty.zarr", ()), tmp_path / "frames.npy")
    with WriterLock(tmp_path / "frames.npy"), pytest.raises(UserError, match=r"frames\.npy is being written by"):
        load_frames(store, tmp_path / "frames.npy")
    monkeypatch.setattr(frames.shutil, "disk_usage", lambda _: frames.shutil._ntuple_diskusage(10, 10, 0))
    with pytest.raises(UserError, match=r"needs 0\.0 GB for 106 decoded frames"):
        load_frames(store, tmp_path / "frames.npy")


def test_a_disk_that_fails_leaves_no_cache(tmp_path, store, monkeypatch):
    with monkeypatch.context() as patch:
        refuse_to_write(patch, "frames.npy", errno.EIO)
        with pytest.raises(OSError, match="Input/output error") as error:
            load_frames(store, tmp_path / "run" / "frames.npy")
    assert error.value.filename == str(tmp_path / "run" / "frames.npy")
    assert list((tmp_path / "run").iterdir()) == []
    assert len(load_frames(store, tmp_path / "run" / "frames.npy")) == 106


def decodings(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What is decoded from now on."""
    decoded: list[str] = []
    whole = TrajectoryStore.blocks
    monkeypatch.setattr(TrajectoryStore, "blocks", lambda self, name: (decoded.append(name), whole(self, name))[1])
    return decoded


@pytest.mark.parametrize("place", [128, 5_000, -1, -40])
def test_a_flipped_bit_in_the_cache_is_noticed(tmp_path, store, monkeypatch, place):
    """In a picture, in a checksum and in the identity."""
    cache = tmp_path / "frames.npy"
    load_frames(store, cache)
    content = bytearray(cache.read_bytes())
    content[place] ^= 4
    cache.write_bytes(content)
    decoded = decodings(monkeypatch)
    np.testing.assert_array_equal(load_frames(store, cache), store.read("images/camera", 0, 106))
    assert decoded == ["images/camera"]
    load_frames(store, cache)
    assert decoded == ["images/camera"]


def test_blocks_of_the_cache_that_were_exchanged_are_noticed(tmp_path, store, monkeypatch):
    monkeypatch.setattr(frames, "_BLOCK_BYTES", 1000)
    cache = tmp_path / "frames.npy"
    load_frames(store, cache)
    content = bytearray(cache.read_bytes())
    content[4128:5128], content[9128:10128] = content[9128:10128], content[4128:5128]
    cache.write_bytes(content)
    decoded = decodings(monkeypatch)
    np.testing.assert_array_equal(load_frames(store, cache), store.read("images/camera", 0, 106))
    assert decoded == ["images/camera"]


def test_chunks_of_the_store_that_were_exchanged_leave_no_cache(tmp_path, store):
    """Each can be decoded, and neither is what was recorded."""
    one, other = (store.path / f"data/images/camera/c.{number}.0.0.0" for number in (0, 1))
    content = one.read_bytes()
    one.write_bytes(other.read_bytes())
    other.write_bytes(content)
    with pytest.raises(StoreError, match="images/camera of episode 0 is not what was recorded"):
        load_frames(TrajectoryStore.open(store.path), tmp_path / "frames.npy")
    assert not (tmp_path / "frames.npy").exists()


def test_another_live_recording_in_its_place_is_decoded_again(tmp_path, spec, make_episode):
    """A robot is not reset with a seed: recordings of equal lengths differ in nothing but what was seen."""
    cache, identities = tmp_path / "frames.npy", set()
    for first in (1, 7):
        path = tmp_path / "data.zarr"
        shutil.rmtree(path, ignore_errors=True)
        with EpisodeWriter(path, spec) as writer:
            for index, steps in enumerate((9, 12), start=first):
                writer.append(dataclasses.replace(make_episode(index, steps), seed=-1))
        live = TrajectoryStore.open(path)
        identities.add(live.identity)
        np.testing.assert_array_equal(load_frames(live, cache), live.column("images/camera"))
    assert len(identities) == 2


def test_a_pipe_in_place_of_the_cache_is_replaced(tmp_path, store):
    os.mkfifo(tmp_path / "frames.npy")
    assert len(load_frames(store, tmp_path / "frames.npy")) == 106

"""The frame cache holds this store's frames, or is made again."""

from __future__ import annotations

import errno

import numpy as np
import pytest

from tests.commands import refuse_to_write
from worldmodel.core.errors import UserError
from worldmodel.data import StoreError, TrajectoryStore, frames, load_frames
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

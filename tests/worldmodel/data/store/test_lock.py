"""One writer at a time, and a dead one is in nobody's way."""

from __future__ import annotations

import fcntl
import json
import os
import socket
import subprocess
import sys
import threading

import pytest

from worldmodel.core.errors import UserError
from worldmodel.data import EpisodeWriter
from worldmodel.data.store.lock import WriterLock


def test_a_second_writer_is_told_who_the_first_is(tmp_path, spec):
    message = f"being written by process {os.getpid()} on {socket.gethostname()} since"
    with EpisodeWriter(tmp_path / "data.zarr", spec), pytest.raises(UserError, match=message):
        EpisodeWriter(tmp_path / "data.zarr", spec).__enter__()
    EpisodeWriter(tmp_path / "data.zarr", spec).__enter__().__exit__(None, None, None)
    assert not (tmp_path / "data.zarr.lock").exists()


_HOLD = (
    "import pathlib,sys,time; from worldmodel.data.store.lock import WriterLock; "
    "WriterLock(pathlib.Path(sys.argv[1])).acquire(); print('held', flush=True); time.sleep(60)"
)


def test_the_lock_of_a_killed_process_is_taken_over(tmp_path):
    target = tmp_path / "data.zarr"
    with subprocess.Popen([sys.executable, "-c", _HOLD, str(target)], stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None and holder.stdout.readline() == "held\n"
        with pytest.raises(UserError, match=f"process {holder.pid} "):
            WriterLock(target).acquire()
        holder.kill()
    assert json.loads((tmp_path / "data.zarr.lock").read_text())["pid"] == holder.pid
    with WriterLock(target):
        assert json.loads((tmp_path / "data.zarr.lock").read_text())["pid"] == os.getpid()


def test_an_owner_on_another_host_is_believed(tmp_path):
    lock = tmp_path / "data.zarr.lock"
    lock.write_text(json.dumps({"pid": 1, "host": "elsewhere", "started": "2026-01-01T00:00:00+00:00"}))
    with pytest.raises(UserError, match=f"process 1 on elsewhere .*remove {lock}"):
        WriterLock(tmp_path / "data.zarr").acquire()
    lock.unlink()
    with WriterLock(tmp_path / "data.zarr"):
        pass


def test_a_lock_file_without_sense_is_taken_over(tmp_path):
    (tmp_path / "data.zarr.lock").write_text("{")
    with WriterLock(tmp_path / "data.zarr"):
        pass


def test_an_owner_that_has_not_yet_said_who_it_is_is_waited_for(tmp_path):
    lock = tmp_path / "data.zarr.lock"
    for before in ("", json.dumps({"pid": 2**22 + 1, "host": socket.gethostname(), "started": "yesterday"})):
        lock.write_text(before)  # the second: what a process that is gone has left there
        with lock.open() as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            owner = {"pid": os.getpid(), "host": socket.gethostname(), "started": "now"}
            timer = threading.Timer(0.1, lock.write_text, [json.dumps(owner)])
            timer.start()
            with pytest.raises(UserError, match=f"process {os.getpid()} on {socket.gethostname()} since now"):
                WriterLock(tmp_path / "data.zarr").acquire()
            timer.join()


def test_the_lock_of_another_is_not_removed(tmp_path):
    target, lock = tmp_path / "data.zarr", tmp_path / "data.zarr.lock"
    first, second = WriterLock(target), WriterLock(target)
    first.acquire()
    lock.unlink()  # as somebody who took the first for dead may do
    second.acquire()
    first.release()
    assert lock.exists()
    with pytest.raises(UserError, match="being written by"):
        WriterLock(target).acquire()
    second.release()
    assert not lock.exists()

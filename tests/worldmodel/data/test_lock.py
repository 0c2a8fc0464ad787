"""One writer at a time, and a dead one is in nobody's way."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys

import pytest

from configs.command import UserError
from worldmodel.data import EpisodeWriter
from worldmodel.data.lock import WriterLock


def test_a_second_writer_is_told_who_the_first_is(tmp_path, spec):
    message = f"being written by process {os.getpid()} on {socket.gethostname()} since"
    with EpisodeWriter(tmp_path / "data.zarr", spec), pytest.raises(UserError, match=message):
        EpisodeWriter(tmp_path / "data.zarr", spec).__enter__()
    EpisodeWriter(tmp_path / "data.zarr", spec).__enter__().__exit__(None, None, None)
    assert not (tmp_path / "data.zarr.lock").exists()


_HOLD = (
    "import pathlib,sys,time; from worldmodel.data.lock import WriterLock; "
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

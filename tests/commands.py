"""Types a command in this process, without waiting for a new interpreter to import everything.

`tests/test_command.py` has a test that the shell sees the same exit codes.
"""

from __future__ import annotations

import contextlib
import errno
import importlib
import io
import os
import sys
from pathlib import Path
from typing import NamedTuple
from unittest import mock

import pytest


class Ended(NamedTuple):
    """How a command ended: its exit code and what it printed."""

    code: int
    out: str
    err: str


def type_in(folder: Path, module: str, *arguments: object) -> Ended:
    """`python -m <module> <arguments>` with `folder` as working directory."""
    out, err = io.StringIO(), io.StringIO()
    main = importlib.import_module(module).main
    code: object = 0
    with (
        contextlib.chdir(folder),
        mock.patch.object(sys, "argv", [module, *map(str, arguments)]),
        mock.patch.dict(os.environ),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        try:
            main()
        except SystemExit as end:
            code = end.code or 0
    assert isinstance(code, int)
    return Ended(code, out.getvalue(), err.getvalue())


def refuse_to_write(monkeypatch: pytest.MonkeyPatch, name: str, number: int = errno.ENOSPC) -> None:
    """From now on the operating system refuses, with error `number`, to put files on disk whose name has `name` in it.

    As Linux does it: without saying which file it is about.
    """
    whole = os.fsync

    def fsync(descriptor: int) -> None:
        if name in Path(os.readlink(f"/proc/self/fd/{descriptor}")).name:
            raise OSError(number, os.strerror(number))
        whole(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)


def assert_stopped(ended: Ended, message: str) -> None:
    """The command failed, and the last line that it printed, which it did on its own, says why."""
    assert ended.code == 1, ended
    assert ended.err == ""
    assert ended.out.splitlines()[-1] == f"stopped: {message}", ended.out


def assert_refused(ended: Ended, message: str) -> None:
    """The command did nothing but say, in one line, what was wrong."""
    assert ended.code == 2, ended
    assert ended.err.startswith("error: ") and ended.err.endswith("\n") and ended.err.count("\n") == 1, ended.err
    assert message in ended.err
    assert ended.out == ""

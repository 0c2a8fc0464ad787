"""One writer at a time."""

from __future__ import annotations

import contextlib
import datetime
import fcntl
import json
import os
import socket
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from worldmodel.core.errors import UserError

_PATIENCE_S = 1.0  # for an owner that has the lock to say who it is


class WriterLock:
    """Exclusive right to write `target`, held through the file `<target>.lock` beside it.

    The kernel's `flock` decides, so the lock of a process that died is free at once and no process id can be mistaken
    for another. The file's text (process id, host, start time) tells a second writer who is in the way, and keeps a
    second host out where the file system does not carry locks between hosts.
    """

    def __init__(self, target: Path) -> None:
        self._target = target
        self._path = target.with_name(target.name + ".lock")
        self._descriptor: int | None = None

    def acquire(self) -> None:
        """Take the lock or fail at once.

        Raises:
            UserError: naming the owner, when another writer holds it.
        """
        assert self._descriptor is None, "already acquired"
        while True:
            descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o644)
            try:
                self._claim(descriptor)
                current = self._is_current(descriptor)
                if current:
                    _sign(descriptor)
            except BaseException:
                os.close(descriptor)
                raise
            if current:
                break
            os.close(descriptor)  # its owner removed the file between our open and our lock: try the new one
        self._descriptor = descriptor

    def release(self) -> None:
        """Give the lock back; without one, do nothing."""
        if self._descriptor is None:
            return
        with contextlib.suppress(OSError):  # a file that stays is in nobody's way
            if self._is_current(self._descriptor):  # not another writer's, after somebody removed ours
                self._path.unlink()
        os.close(self._descriptor)
        self._descriptor = None

    def _claim(self, descriptor: int) -> None:
        deadline = time.monotonic() + _PATIENCE_S
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                # Its owner may have come a moment ago: the file is still empty, or names the one before.
                owner = _owner(descriptor)
                if _may_be_alive(owner) or time.monotonic() > deadline:
                    raise UserError(f"{self._target} is being written by {_describe(owner)}") from None
                time.sleep(0.005)
        owner = _owner(descriptor)
        if owner.get("host", socket.gethostname()) != socket.gethostname():
            raise UserError(
                f"{self._target} is being written by {_describe(owner)}, which this host cannot look at: "
                f"if it is gone, remove {self._path}"
            )

    def _is_current(self, descriptor: int) -> bool:
        try:
            return os.path.samestat(os.fstat(descriptor), os.stat(self._path))
        except FileNotFoundError:
            return False

    def __enter__(self) -> Self:
        self.acquire()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


def _owner(descriptor: int) -> dict[str, Any]:
    try:
        owner = json.loads(os.pread(descriptor, 4096, 0))
    except ValueError:  # a process that has just created the file and not yet written to it, or died there
        return {}
    return owner if isinstance(owner, dict) else {}


def _sign(descriptor: int) -> None:
    owner = {"pid": os.getpid(), "host": socket.gethostname(), "started": _now()}
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, json.dumps(owner).encode(), 0)


def _may_be_alive(owner: dict[str, Any]) -> bool:
    """Whether there is an owner, and not one of this host that is gone."""
    if owner.get("host") != socket.gethostname() or not isinstance(owner.get("pid"), int):
        return bool(owner)
    try:
        os.kill(owner["pid"], 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        pass
    return True


def _describe(owner: dict[str, Any]) -> str:
    if not owner:
        return "another process"
    return f"process {owner.get('pid')} on {owner.get('host')} since {owner.get('started')}"

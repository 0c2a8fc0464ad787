"""The lock that admits one writer at a time."""

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

_PATIENCE_S = 1.0  # time in which a process that has taken the lock writes its identity into the file


class WriterLock:
    """Exclusive right to write `target`, held through the file `<target>.lock` beside it.

    The lock is the kernel's `flock`. It is free as soon as its process dies, and a reused process id does no harm. The
    file's text (process id, host, start time) tells a second writer who holds the lock. It also keeps out a second
    host on file systems that do not carry locks between hosts.
    """

    def __init__(self, target: Path) -> None:
        self._target = target
        self._path = target.with_name(target.name + ".lock")
        self._descriptor: int | None = None

    def acquire(self) -> None:
        """Take the lock or fail at once.

        Raises:
            UserError: when another writer holds it. The message names the owner.
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
            os.close(descriptor)  # its owner removed the file between our open and our lock, so try the new one
        self._descriptor = descriptor

    def release(self) -> None:
        """Release the lock, if it is held."""
        if self._descriptor is None:
            return
        with contextlib.suppress(OSError):  # a leftover file blocks no writer
            if self._is_current(self._descriptor):  # if our file was removed, the present one may be another writer's
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
                # An owner that has just taken the lock may not have signed the file yet, which is then empty or old.
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
    except ValueError:  # the process that created the file has not written to it yet, or died before it could
        return {}
    return owner if isinstance(owner, dict) else {}


def _sign(descriptor: int) -> None:
    owner = {"pid": os.getpid(), "host": socket.gethostname(), "started": _now()}
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, json.dumps(owner).encode(), 0)


def _may_be_alive(owner: dict[str, Any]) -> bool:
    """Whether there is an owner that is not known to have ended. Only owners on this host can be checked."""
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

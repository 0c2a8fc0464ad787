"""Durable writes. A file is complete and on disk before anything refers to it."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from zarr.core.buffer import Buffer
from zarr.core.sync import sync
from zarr.storage import LocalStore

from worldmodel.core.errors import RunStopped
from worldmodel.core.files import replacing


class WritingStopped(RunStopped):
    """Nothing more could be written, for example because the disk is full. Committed episodes are safe."""


class DurableLocalStore(LocalStore):
    """A `LocalStore` whose files get their names once their content is complete and on disk.

    The names themselves are on disk only after `sync_directories`.
    """

    def __init__(self, root: Path | str, *, read_only: bool = False) -> None:
        super().__init__(root, read_only=read_only)
        self._unsynced: set[Path] = set()

    async def set(self, key: str, value: Buffer) -> None:
        self._check_writable()
        await asyncio.to_thread(self._write, key, value)

    def set_sync(self, key: str, value: Buffer) -> None:
        self._check_writable()
        self._write(key, value)

    async def set_if_not_exists(self, key: str, value: Buffer) -> None:
        if not await self.exists(key):
            await self.set(key, value)

    def sync_directories(self) -> None:
        """Force the names of all files written so far to disk."""
        for directory in sorted(self._unsynced):
            sync_directory(directory)
        self._unsynced.clear()

    def _write(self, key: str, value: Buffer) -> None:
        path = self.root / key
        directory = path.parent
        while not directory.exists():
            self._unsynced.add(directory.parent)
            directory = directory.parent
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path, one_writer=True) as file:
            file.write(value.as_buffer_like())
        self._unsynced.add(path.parent)


def sync_directory(directory: Path) -> None:
    """Force the names in `directory` to disk."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def make_folder(folder: Path) -> None:
    """Like `mkdir -p`. The folder is on disk when this returns."""
    if folder.is_dir():
        return
    make_folder(folder.parent)
    folder.mkdir(exist_ok=True)
    sync_directory(folder.parent)


def finish_other_tasks() -> None:
    """Wait for zarr's other reads and writes after one of its concurrent tasks has failed.

    Otherwise a write could continue after its writer has given up and released the lock. Python would also complain
    about each unfinished task at the end of the program, below the one line that explains the error.
    """
    sync(_finish_other_tasks())


async def _finish_other_tasks() -> None:
    others = asyncio.all_tasks() - {asyncio.current_task()}
    await asyncio.gather(*others, return_exceptions=True)


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """A context for one indivisible write to the store at `path`. Ctrl-C takes effect after it.

    Raises:
        WritingStopped: when the operating system refuses an operation.
    """
    with uninterrupted(), naming_what_is_refused(path):
        yield


@contextmanager
def naming_what_is_refused(path: Path) -> Iterator[None]:
    """A context for writes to the store at `path`.

    Raises:
        WritingStopped: when the operating system refuses an operation.
    """
    try:
        yield
    except BaseException as error:
        finish_other_tasks()
        if not isinstance(error, OSError):
            raise
        file = f" at {error.filename}" if error.filename else ""
        raise WritingStopped(
            f"{path} cannot be written to ({error.strerror or error}{file}): the episodes recorded before are safe"
        ) from error


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Ctrl-C takes effect after this block. zarr writes in other threads, which an exception here would not stop."""
    handler = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or not callable(handler):
        yield  # only the main thread is ever interrupted
        return
    waiting: list[FrameType | None] = []
    signal.signal(signal.SIGINT, lambda number, frame: waiting.append(frame))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, handler)
        if waiting:
            handler(signal.SIGINT, waiting[0])

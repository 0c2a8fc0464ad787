"""Atomic writing of files. A file has either its old or its new content, whatever happens."""

from __future__ import annotations

import contextlib
import json
import os
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, Final

from worldmodel.core.errors import UserError

PARTIAL: Final = ".partial"  # how the names of unfinished files end


@contextmanager
def appearing(path: Path, *, one_writer: bool = False) -> Iterator[Path]:
    """A name beside `path`, for a file that becomes `path` once it is written and is removed after an error.

    Args:
        path: in a folder that exists.
        one_writer: no other process can be writing `path`. Then what a kill leaves behind is overwritten by the next
            attempt; otherwise every process has a name of its own, and what a kill leaves behind stays.
    """
    with _becoming(path, one_writer) as partial:
        yield partial
        with partial.open("rb") as file:
            os.fsync(file.fileno())


@contextmanager
def replacing(path: Path, *, one_writer: bool = False) -> Iterator[BinaryIO]:
    """Write to the file that this gives; it gets the name `path` once it is on disk, and never after an error.

    Arguments as of `appearing`.
    """
    with _becoming(path, one_writer) as partial, partial.open("wb") as file:
        yield file
        file.flush()
        os.fsync(file.fileno())


def write_json(content: Any, path: Path, indent: int = 2) -> None:
    """Write `content` so that people can read it. Raises TypeError for what JSON does not know."""
    with replacing(path) as file:
        file.write((json.dumps(content, indent=indent) + "\n").encode())


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Around what writes to the file `path`: where a write fails, the operating system does not say to which file."""
    try:
        yield
    except OSError as error:
        if error.errno is not None and error.filename is None:
            error.filename = str(path)
        raise


def output_folder(path: str | Path, option: str = "out") -> Path:
    """Make the folder that a command is going to write to, before it begins to work.

    Raises:
        UserError: where it cannot be made, or nothing can be written there.
    """
    folder = Path(path)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        reason = error.strerror or str(error)
        raise UserError(f"{option} '{folder}' cannot be written to ({reason}): expected a folder") from error
    return folder


def output_file(path: str | Path, option: str = "out") -> Path:
    """Make the folder of a file that a command is going to write.

    Raises:
        UserError: where nothing can be written there, or there is a folder of that name.
    """
    output_folder(Path(path).parent, option)
    if Path(path).is_dir():
        raise UserError(f"{option} '{path}' is a folder: expected a file")
    return Path(path)


@contextmanager
def _becoming(path: Path, one_writer: bool) -> Iterator[Path]:
    partial = path.with_name(f"{path.name}{PARTIAL}" if one_writer else f"{path.name}.{os.getpid()}{PARTIAL}")
    try:
        with naming(path):
            yield partial
            partial.replace(path)
    except BaseException as error:
        with contextlib.suppress(OSError):  # a disk that fails here has failed before
            partial.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.filename == str(partial):
            error.filename = str(path)
        raise


@contextmanager
def regular_file(path: Path, most: int) -> Iterator[BinaryIO]:
    """Open a stranger's file for reading. Nothing else of that name is waited for, as a pipe would have it.

    Raises:
        UserError: for a pipe, a device or a folder, and for a file of more than `most` bytes.
        OSError: where there is none, or it cannot be read.
    """
    # Opening a pipe would wait for somebody to write into it.
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode):
        os.close(descriptor)
        raise UserError(f"{path} is a pipe, a device or a folder: expected a file")
    with os.fdopen(descriptor, "rb") as file:
        if status.st_size > most:
            raise UserError(f"{path} has {status.st_size} bytes: expected at most {most}")
        yield file

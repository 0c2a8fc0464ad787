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

PARTIAL: Final = ".partial"  # suffix of unfinished files


@contextmanager
def appearing(path: Path, *, one_writer: bool = False) -> Iterator[Path]:
    """A temporary path beside `path`. Its file is renamed to `path` once it is written, and removed after an error.

    Args:
        path: path of the finished file, in a folder that exists.
        one_writer: whether no other process can be writing `path`. If so, the next attempt overwrites the leftovers of
            a kill. Otherwise every process has its own temporary path, and leftovers stay.
    """
    with _becoming(path, one_writer) as partial:
        yield partial
        with partial.open("rb") as file:
            os.fsync(file.fileno())


@contextmanager
def replacing(path: Path, *, one_writer: bool = False) -> Iterator[BinaryIO]:
    """A file to write to. It gets the name `path` once it is on disk, and never after an error.

    The arguments are those of `appearing`.
    """
    with _becoming(path, one_writer) as partial, partial.open("wb") as file:
        yield file
        file.flush()
        os.fsync(file.fileno())


def write_json(content: Any, path: Path, indent: int = 2) -> None:
    """Write `content` in a readable form. Raises TypeError for values that JSON cannot express."""
    with replacing(path) as file:
        file.write((json.dumps(content, indent=indent) + "\n").encode())


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """A context for writes to `path`. It adds the path to errors, since the operating system does not name the file."""
    try:
        yield
    except OSError as error:
        if error.errno is not None and error.filename is None:
            error.filename = str(path)
        raise


def output_folder(path: str | Path, option: str = "out") -> Path:
    """Make the folder that a command will write to, before its work begins.

    Raises:
        UserError: when it cannot be made, or nothing can be written there.
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
    """Make the folder of a file that a command will write.

    Raises:
        UserError: when nothing can be written there, or a folder has that name.
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
        with contextlib.suppress(OSError):  # the error of a failing disk was raised already
            partial.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.filename == str(partial):
            error.filename = str(path)
        raise


@contextmanager
def regular_file(path: Path, most: int) -> Iterator[BinaryIO]:
    """Open an untrusted file for reading. A pipe in its place is refused, since its reader could wait for ever.

    Raises:
        UserError: for a pipe, a device or a folder, and for a file of more than `most` bytes.
        OSError: when there is no file, or it cannot be read.
    """
    # Without O_NONBLOCK, opening a pipe would wait for a process that writes to it.
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode):
        os.close(descriptor)
        raise UserError(f"{path} is a pipe, a device or a folder: expected a file")
    with os.fdopen(descriptor, "rb") as file:
        if status.st_size > most:
            raise UserError(f"{path} has {status.st_size} bytes: expected at most {most}")
        yield file

"""Files that appear whole: whatever happens, there is the old content or the new."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, Final

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

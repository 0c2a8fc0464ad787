"""Rows that take long to compute, and the file that keeps them."""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from worldmodel.core.files import naming, write_json

_BLOCK = 512  # rows that are computed at a time
_RECORDED_EVERY = 16  # blocks between two moments at which the finished ones are put on disk


def cached_rows(
    path: Path,
    key: Mapping[str, Any],
    shape: tuple[int, ...],
    dtype: DTypeLike,
    compute: Callable[[int, int], NDArray[Any]],
    progress: Callable[[int, int], None],
) -> NDArray[Any]:
    """Rows of `shape [R, ...]` as a read-only memory map of the file `path`, computed where the file lacks them.

    After a killed run, the computation resumes after the last recorded block, and after Ctrl-C after the last block. A
    file for another `key` is replaced. A block that is not as it was written is computed again, with all later blocks.

    Args:
        path: the file, which ends in `.npy`. Checksums of its blocks are in a `.json` beside it.
        key: everything that the rows depend on, as plain values.
        shape: shape of all rows.
        dtype: type in which they are kept.
        compute: function from the first row and the row after the last to the rows between.
        progress: function that is called with (rows done, rows in all).

    Raises:
        OSError: if writing fails.
    """
    note, rows = path.with_suffix(".json"), shape[0]
    checksums = _intact_blocks(note, path, key, shape, np.dtype(dtype))
    done = min(len(checksums) * _BLOCK, rows)
    if done == 0:
        path.parent.mkdir(parents=True, exist_ok=True)
        note.unlink(missing_ok=True)  # its checksums belong to the file that is overwritten now
        with naming(path):
            np.lib.format.open_memmap(path, mode="w+", dtype=np.dtype(dtype), shape=shape).flush()
    if done < rows:
        begin = np.lib.format.open_memmap(path, mode="r").offset
        # Not through a memory map, since writing to a map kills the process if the disk is full.
        with naming(path), path.open("r+b") as file:

            def record() -> None:
                file.flush()
                os.fsync(file.fileno())
                write_json({"key": dict(key), "block": _BLOCK, "checksums": checksums}, note)

            try:
                for start in range(done, rows, _BLOCK):
                    stop = min(start + _BLOCK, rows)
                    block = np.ascontiguousarray(compute(start, stop), dtype)
                    assert block.shape == (stop - start, *shape[1:])
                    file.seek(begin + start * block[0].nbytes)
                    file.write(block.tobytes())
                    checksums.append(zlib.crc32(block.tobytes()))
                    if len(checksums) % _RECORDED_EVERY == 0 or stop == rows:
                        record()
                    progress(stop, rows)
            except KeyboardInterrupt:
                record()
                raise
    return np.load(path, mmap_mode="r")


def _intact_blocks(
    note: Path, path: Path, key: Mapping[str, Any], shape: tuple[int, ...], dtype: np.dtype[Any]
) -> list[int]:
    """Checksums of the intact blocks that were written for `key`, up to the first damaged one."""
    try:
        content = json.loads(note.read_text())
        kept = np.load(path, mmap_mode="r")
        fits = content["key"] == dict(key) and content["block"] == _BLOCK
        if not fits or kept.shape != shape or kept.dtype != dtype:
            return []
        intact: list[int] = []
        for number, checksum in enumerate(content["checksums"]):
            block = kept[number * _BLOCK : (number + 1) * _BLOCK]
            if not len(block) or zlib.crc32(block.tobytes()) != checksum:
                break
            intact.append(checksum)
        return intact
    except (OSError, EOFError, ValueError, KeyError, TypeError):
        return []

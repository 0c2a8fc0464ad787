"""Reading rows of a zarr array, with an error wherever zarr would make something up."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray

from worldmodel.data.durable import finish_other_tasks
from worldmodel.data.files import StoreFiles

_CHUNK_FILE = re.compile(r"c(\.\d{1,9})+")
# What zarr and its codecs raise for a file that is not what it should be.
_UNREADABLE = (RuntimeError, ValueError, OSError)


class ChunkError(Exception):
    """A chunk that is not there or cannot be decoded.

    Attributes:
        file: where it is, or should be.
        chunk: its number.
        row: the first of the wanted rows that it would hold.
        what: `is missing` or `cannot be decoded`.
    """

    def __init__(self, file: Path, chunk: int, row: int, what: str) -> None:
        super().__init__(f"chunk {chunk} {what} ({file.name})")
        self.file, self.chunk, self.row, self.what = file, chunk, row, what


def chunk_number(file: Path) -> int | None:
    """The number of the chunk (along the first axis) that `file` holds; None for a file of another kind."""
    return int(file.name.split(".")[1]) if _CHUNK_FILE.fullmatch(file.name) else None


def rows_per_file(array: zarr.Array[Any]) -> int:
    """Rows that one file of `array` holds: a chunk, or in a packed store a shard."""
    return int((array.shards or array.chunks)[0])


class StrictRows:
    """The rows of `array [N, ...]`, which is chunked along the first axis only, in the store with these `files`."""

    def __init__(self, files: StoreFiles, array: zarr.Array[Any]) -> None:
        self._files, self.array = files, array

    def __len__(self) -> int:
        return int(self.array.shape[0])

    def read(self, start: int, stop: int) -> NDArray[Any]:
        """Rows `start:stop`, which must exist.

        Raises:
            ChunkError: for the first chunk of them that is missing or damaged.
            UnreachableError: when a chunk of them cannot be fetched.
        """
        array = self.array
        if start == stop or 0 in array.shape[1:]:
            return np.zeros((stop - start, *array.shape[1:]), array.dtype)
        length, chunks = rows_per_file(array), self._chunks(start, stop)
        self._files.fetch([self._key(chunk) for chunk in chunks])
        for chunk in chunks:
            if not self._file(chunk).is_file():
                raise ChunkError(self._file(chunk), chunk, max(start, chunk * length), "is missing")
        try:
            return np.asarray(array[start:stop])
        except _UNREADABLE:
            finish_other_tasks()
            for chunk in chunks:
                first, last = max(start, chunk * length), min(stop, (chunk + 1) * length)
                try:
                    array[first:last]
                except _UNREADABLE as error:
                    self._files.forget([self._key(chunk)])
                    raise ChunkError(self._file(chunk), chunk, first, "cannot be decoded") from error
            raise

    def forget(self, start: int, stop: int) -> None:
        """Rows `start:stop` can be decoded, but are not what was recorded."""
        self._files.forget([self._key(chunk) for chunk in self._chunks(start, stop)])

    def _chunks(self, start: int, stop: int) -> range:
        length = rows_per_file(self.array)
        return range(start // length, (stop - 1) // length + 1)

    def _file(self, chunk: int) -> Path:
        return self._files.root / self._key(chunk)

    def _key(self, chunk: int) -> str:
        file = self.array.metadata.encode_chunk_key((chunk, *[0] * (self.array.ndim - 1)))
        return f"{self.array.path}/{file}"

"""Reads rows of a zarr array, and raises an error where zarr would invent values.

Chunks are read and decoded in the calling thread. zarr hands every file and every chunk to other threads, which takes
many times longer than decoding a clip. `worldmodel.data.store.metadata` accepts only one layout, which is simple to
read:

- A file is a zstd frame, which holds a chunk of whole rows as little-endian numbers.
- A file of a packed store is many such frames. At its end are their places (offset and length, uint64 each) and a
  CRC-32C of the places.
"""

from __future__ import annotations

import math
import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import google_crc32c
import numpy as np
import zarr
from numcodecs.zstd import decompress
from numpy.typing import NDArray

from worldmodel.data.store.files import StoreFiles, open_file
from worldmodel.data.store.metadata import MOST_HEADER_BYTES, announced_bytes

_CHUNK_FILE = re.compile(r"c(\.\d{1,9})+")
# Exceptions that this module and zstd raise for an invalid file.
_UNREADABLE = (RuntimeError, ValueError, OSError, OverflowError)
_FETCHED_TOGETHER = 64  # files
_PLACE_BYTES, _CRC_BYTES = 16, 4  # sizes in a packed store's files
# Largest compression ratio of zstd. A block holds up to 128 KiB and takes at least 4 bytes (RFC 8878, 3.1.1.2).
_MOST_RATIO = 2**15
_MOST_KEPT_BYTES = 2**25  # largest chunk that `Pass` keeps for the next episode


class ChunkError(Exception):
    """A chunk is missing or cannot be decoded.

    Attributes:
        file: the file that holds the chunk, or should hold it.
        chunk: number of the chunk.
        row: the first requested row that the chunk should hold.
        what: `is missing` or `cannot be decoded`.
    """

    def __init__(self, file: Path, chunk: int, row: int, what: str) -> None:
        super().__init__(f"chunk {chunk} {what} ({file.name})")
        self.file, self.chunk, self.row, self.what = file, chunk, row, what


def chunk_number(file: Path) -> int | None:
    """The number (along the first axis) of the chunk in `file`; None for a file of another kind."""
    return int(file.name.split(".")[1]) if _CHUNK_FILE.fullmatch(file.name) else None


def rows_per_file(array: zarr.Array[Any]) -> int:
    """Number of rows in one file of `array`, which is a chunk, or a shard in a packed store."""
    return int((array.shards or array.chunks)[0])


class StrictRows:
    """The rows of `array [N, ...]` in the store with these `files`. Its chunks divide the first axis only."""

    def __init__(self, files: StoreFiles, array: zarr.Array[Any]) -> None:
        self._files, self.array = files, array

    def __len__(self) -> int:
        return int(self.array.shape[0])

    def read(self, start: int, stop: int) -> NDArray[Any]:
        """Rows `start:stop`, which must exist.

        Raises:
            ChunkError: for the first of their chunks that is missing or damaged.
            UnreachableError: when one of their chunks cannot be fetched.
        """
        array = self.array
        if start == stop or 0 in array.shape[1:]:
            return np.zeros((stop - start, *array.shape[1:]), array.dtype)
        self.require(start, stop)
        length, files = rows_per_file(array), self._numbers(start, stop)
        rows = np.empty((stop - start, *array.shape[1:]), array.dtype.newbyteorder("<"))
        for number in files:
            first, last = max(start, number * length), min(stop, (number + 1) * length)
            self._read_number(number, first, rows[first - start : last - start])
        return rows.astype(array.dtype, copy=False)

    def require(self, start: int, stop: int) -> None:
        """Check that the files of rows `start:stop` exist and are large enough for them, before memory is allocated.

        A damaged shape may claim endless rows. Raises: as `read`.
        """
        array = self.array
        if start == stop or 0 in array.shape[1:]:
            return
        length, files = rows_per_file(array), self._numbers(start, stop)
        row_bytes = array.dtype.itemsize * math.prod(array.shape[1:])
        for number in files:
            if (number - files.start) % _FETCHED_TOGETHER == 0:
                self.fetch(number, min(files.stop, number + _FETCHED_TOGETHER))
            first, last = max(start, number * length), min(stop, (number + 1) * length)
            self._require_file(number, first, (last - first) * row_bytes)

    def _require_file(self, number: int, first: int, num_bytes: int) -> None:
        """Check that a file can hold `num_bytes` from row `first` on. A damaged copy in the cache is fetched again."""
        for is_anew in (False, True):
            try:
                status = self._file(number).stat()
            except OSError:
                raise ChunkError(self._file(number), number, first, "is missing") from None
            if not stat.S_ISREG(status.st_mode):
                raise ChunkError(self._file(number), number, first, "is missing")
            if num_bytes <= _MOST_RATIO * status.st_size:
                return
            self._files.forget([self._key(number)])
            if is_anew or not self._files.is_remote:
                raise ChunkError(self._file(number), number, first, "cannot be decoded")
            self.fetch(number, number + 1)

    def fetch(self, first: int, stop: int) -> None:
        """Fetch the files from `first` up to, but not including, `stop`. Raises UnreachableError."""
        self._files.fetch([self._key(number) for number in range(first, stop)], self._most_bytes)

    def forget(self, start: int, stop: int) -> None:
        """Discard the files of rows `start:stop`, which can be decoded but differ from what was recorded."""
        self._files.forget([self._key(number) for number in self._numbers(start, stop)])

    def _read_number(self, number: int, first: int, rows: NDArray[Any]) -> None:
        """Fill `rows` from file `number`, beginning at row `first`. A damaged copy in the cache is fetched again."""
        start = first - number * rows_per_file(self.array)
        for is_anew in (False, True):
            try:
                return self._read_file(self._file(number), start, rows)
            except FileNotFoundError as error:
                raise ChunkError(self._file(number), number, first, "is missing") from error
            except _UNREADABLE as error:
                self._files.forget([self._key(number)])
                if is_anew or not self._files.is_remote:
                    raise ChunkError(self._file(number), number, first, "cannot be decoded") from error
            self.fetch(number, number + 1)

    @property
    def _most_bytes(self) -> int:
        """Largest possible size of a file, whose chunks may be incompressible, and which may have an index."""
        row = self.array.dtype.itemsize * math.prod(self.array.shape[1:])
        chunk, count = int(self.array.chunks[0]) * row, rows_per_file(self.array) // int(self.array.chunks[0])
        return count * (_most_packed(chunk) + _PLACE_BYTES) + _CRC_BYTES

    def _read_file(self, path: Path, start: int, rows: NDArray[Any]) -> None:
        """Fill `rows` from the file, beginning at its row `start`."""
        array = self.array
        length, stop = array.chunks[0], start + len(rows)
        with open_file(path) as file:
            places = _places(file, rows_per_file(array) // length, array.shards is not None)
            for number in range(start // length, (stop - 1) // length + 1):
                first, last = max(start, number * length), min(stop, (number + 1) * length)
                wanted = rows[first - start : last - start]
                # A chunk that is wanted whole is decoded in place. Otherwise the wanted part is copied.
                chunk = wanted if len(wanted) == length else np.empty((length, *rows.shape[1:]), rows.dtype)
                offset, num_bytes = places[number]
                _decode(file, int(offset), int(num_bytes), chunk)
                if chunk is not wanted:
                    wanted[:] = chunk[first - number * length : last - number * length]

    def _numbers(self, start: int, stop: int) -> range:
        length = rows_per_file(self.array)
        return range(start // length, (stop - 1) // length + 1)

    def _file(self, number: int) -> Path:
        return self._files.root / self._key(number)

    def _key(self, number: int) -> str:
        file = self.array.metadata.encode_chunk_key((number, *[0] * (self.array.ndim - 1)))
        return f"{self.array.path}/{file}"


class Pass:
    """One pass over the rows of a column, from the first to the last, in blocks of at most one chunk.

    A chunk that neighbouring episodes share is decoded once. `stop` is the row after the last one of the pass.
    """

    def __init__(self, rows: StrictRows, stop: int) -> None:
        self._rows, self._stop = rows, stop
        self._fetched = 0  # files
        self._number, self._chunk = -1, np.zeros(0)

    def blocks(self, start: int, stop: int) -> Iterator[NDArray[Any]]:
        """Rows `start:stop` in order, in blocks `[n, ...]`.

        Raises:
            ChunkError: for the first of their chunks that is missing or damaged.
            UnreachableError: when one of their chunks cannot be fetched.
        """
        array = self._rows.array
        length = int(array.chunks[0])
        while start < stop:
            last = min(stop, (start // length + 1) * length)
            yield self._block(start, last, length)
            start = last

    def _block(self, start: int, stop: int, length: int) -> NDArray[Any]:
        array, number = self._rows.array, start // length
        first = number * length
        if number != self._number:
            self._fetch_ahead(start)
            if array.dtype.itemsize * math.prod(array.chunks) > _MOST_KEPT_BYTES:
                return self._rows.read(start, stop)
            try:
                self._chunk = self._rows.read(first, min(first + length, self._stop))
            except ChunkError as error:  # the row in the error may belong to an earlier episode
                raise ChunkError(error.file, error.chunk, max(error.row, start), error.what) from error
            self._number = number
        return self._chunk[start - first : stop - first]

    def _fetch_ahead(self, row: int) -> None:
        file = row // rows_per_file(self._rows.array)
        if file >= self._fetched and 0 not in self._rows.array.shape[1:]:
            last = (self._stop - 1) // rows_per_file(self._rows.array)
            self._fetched = min(last, file + _FETCHED_TOGETHER - 1) + 1
            self._rows.fetch(file, self._fetched)


def _places(file: BinaryIO, count: int, packed: bool) -> list[tuple[int, int]] | NDArray[np.uint64]:
    """Offset and length of each of the `count` chunks in `file`, `[count, 2]`."""
    size = os.fstat(file.fileno()).st_size
    if not packed:
        return [(0, size)]
    num_bytes = count * _PLACE_BYTES
    file.seek(size - num_bytes - _CRC_BYTES)  # OSError if the file is shorter
    index = file.read(num_bytes)
    if google_crc32c.value(index) != int.from_bytes(file.read(_CRC_BYTES), "little"):
        raise ValueError("the index of the chunks is damaged")
    return np.frombuffer(index, "<u8").reshape(count, 2)


def _most_packed(num_bytes: int) -> int:
    """Largest size of `num_bytes` after compression with zstd."""
    return num_bytes + num_bytes // 256 + 64


def _decode(file: BinaryIO, offset: int, length: int, chunk: NDArray[Any]) -> None:
    """Fill the contiguous array `chunk` from the given place in `file`."""
    # A file may have any size, and the index of a packed store may claim any length.
    if length > _most_packed(chunk.nbytes):
        raise ValueError("a chunk that is larger than it can be")
    file.seek(offset)
    content = file.read(length)
    # zstd trusts the announced size, checks a checksum only if there is one, and leaves missing content unfilled.
    if announced_bytes(content[:MOST_HEADER_BYTES]) != chunk.nbytes:
        raise ValueError("a chunk of another size, or without a checksum")
    decompress(content, chunk.reshape(-1).view(np.uint8))

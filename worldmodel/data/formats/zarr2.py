"""Reads untrusted zarr groups of format 2, in a folder or a zip file.

zarr itself would look up any installed codec by name, allocate whatever size a chunk expands to, and read a missing
chunk as its fill value. Here a list has all accepted codecs, a chunk must have the size that its array declares, and a
missing chunk is an error unless the caller accepts it.

Specification: https://zarr-specs.readthedocs.io/en/latest/v2/v2.0.html
"""

from __future__ import annotations

import dataclasses
import itertools
import math
import re
import struct
import zipfile
import zlib
from pathlib import Path
from typing import Any, Final

import numcodecs
import numpy as np
from numpy.typing import NDArray

from worldmodel.data.formats.limits import (
    MOST_CHUNK_BYTES,
    MOST_FILES,
    MOST_JSON_BYTES,
    inside,
    parse_json,
    require,
    require_file,
    whole_number,
)
from worldmodel.data.formats.source import FormatError

CODECS: Final = ("blosc", "gzip", "lz4", "zlib", "zstd")
_INTO = {"blosc": numcodecs.Blosc, "lz4": numcodecs.LZ4, "zstd": numcodecs.Zstd}  # these check their output buffer
_BLOSC_HEADER = 16
_NUMBERS = re.compile(r"[<>|][biuf][1248]")
_MOST_DIMENSIONS = 6
_UNREADABLE = (RuntimeError, ValueError, OSError, zlib.error)
# RuntimeError includes NotImplementedError, which an invalid version or compression method raises.
_BROKEN_ZIP = (OSError, RuntimeError, EOFError, LookupError, struct.error, zipfile.BadZipFile, zlib.error)


class Files:
    """The files of a folder or a zip file. Parts of their names are separated by `/`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._zip: zipfile.ZipFile | None = None
        if path.is_dir():
            return
        require_file(path)
        try:
            self._zip = zipfile.ZipFile(path)
        except _BROKEN_ZIP as error:
            raise FormatError(f"{path} is neither a folder nor a zip file that can be read ({error})") from error
        require(len(self._zip.namelist()) <= MOST_FILES, f"{path} has too many files: at most {MOST_FILES:,}")

    def names_under(self, folder: str) -> list[str]:
        """Names of the folders and files directly in `folder`."""
        if self._zip is None:
            place = inside(self.path, folder, folder)
            return sorted(entry.name for entry in place.iterdir()) if place.is_dir() else []
        prefix = f"{folder}/"
        inner = (name.removeprefix(prefix) for name in self._zip.namelist() if name.startswith(prefix))
        return sorted({name.partition("/")[0] for name in inner} - {""})

    def read(self, name: str, most_bytes: int) -> bytes | None:
        """Content of a file; None if there is none. Raises FormatError when it is larger than `most_bytes`."""
        where = f"{self.path}: {name}"
        try:
            if self._zip is None:
                place = inside(self.path, name, name)
                if not place.is_file():
                    return None
                size = place.stat().st_size
                require(size <= most_bytes, f"{where} has {size:,} bytes: at most {most_bytes:,} accepted")
                return place.read_bytes()
            if name not in self._zip.NameToInfo:
                return None
            with self._zip.open(name) as file:
                content = file.read(most_bytes + 1)  # the size that the archive declares may be wrong
        except _BROKEN_ZIP as error:
            raise FormatError(f"{where} cannot be read ({error})") from error
        require(len(content) <= most_bytes, f"{where} has more than {most_bytes:,} bytes")
        return content

    def close(self) -> None:
        """Close the zip file."""
        if self._zip is not None:
            self._zip.close()


@dataclasses.dataclass(frozen=True)
class Array2:
    """One array. Its first axis is time. Chunks may divide all axes.

    Attributes:
        files: the files of the group.
        name: the array's folder in them.
        shape: `[N, ...]`.
        chunks: shape of a chunk, as long as `shape`.
        dtype: type of the numbers.
        codec: one of `CODECS`; None if chunks are not compressed.
        separator: separator of a chunk's indices in the name of its file.
        order: C or F.
        fill: value of missing chunks.
        fill_missing: whether chunks may be missing. Otherwise a missing chunk is an error.
    """

    files: Files
    name: str
    shape: tuple[int, ...]
    chunks: tuple[int, ...]
    dtype: np.dtype[Any]
    codec: str | None
    separator: str
    order: str
    fill: float
    fill_missing: bool

    def __len__(self) -> int:
        return self.shape[0]

    def read(self, start: int, stop: int) -> NDArray[Any]:
        """Rows `start:stop`. Raises FormatError when one of their chunks is missing or damaged."""
        where = f"{self.files.path}: {self.name}"
        require(0 <= start <= stop <= len(self), f"{where} has {len(self)} rows, not {stop}")
        needed = (stop - start) * math.prod(self.shape[1:]) * self.dtype.itemsize
        require(needed <= MOST_CHUNK_BYTES, f"{where}: {stop - start} rows have {needed:,} bytes")
        out = np.empty((stop - start, *self.shape[1:]), self.dtype)
        if out.size == 0:
            return out
        first, last = start // self.chunks[0], (stop - 1) // self.chunks[0]
        others = (range(-(-size // chunk)) for size, chunk in zip(self.shape[1:], self.chunks[1:], strict=True))
        for index in itertools.product(range(first, last + 1), *others):
            chunk = self._chunk(index)
            low = [i * size for i, size in zip(index, self.chunks, strict=True)]
            begin, end = max(start, low[0]), min(stop, low[0] + self.chunks[0])
            inner = [min(self.chunks[d], self.shape[d] - low[d]) for d in range(1, len(low))]
            target = (
                slice(begin - start, end - start),
                *(slice(low[d + 1], low[d + 1] + n) for d, n in enumerate(inner)),
            )
            out[target] = chunk[(slice(begin - low[0], end - low[0]), *(slice(0, n) for n in inner))]
        return out

    def _chunk(self, index: tuple[int, ...]) -> NDArray[Any]:
        key = f"{self.name}/{self.separator.join(map(str, index))}"
        where = f"{self.files.path}: {key}"
        size = math.prod(self.chunks) * self.dtype.itemsize
        packed = self.files.read(key, 2 * size + 65_536)
        if packed is None:
            require(
                self.fill_missing,
                f"{where} is missing: zarr reads it as {self.fill:g}, and so does --fill-missing",
            )
            return np.full(self.chunks, self.fill, self.dtype)
        try:
            plain = _unpack(self.codec, packed, size)
        except _UNREADABLE as error:
            raise FormatError(f"{where} cannot be unpacked ({error})") from error
        require(len(plain) == size, f"{where} has {len(plain)} bytes: its array says {size}")
        return np.frombuffer(plain, self.dtype).reshape(self.chunks, order="F" if self.order == "F" else "C")


def open_array(files: Files, name: str, fill_missing: bool) -> Array2:
    """The array in the folder `name`. Raises FormatError when it is missing or cannot be read."""
    where = f"{files.path}: {name}/.zarray"
    text = files.read(f"{name}/.zarray", MOST_JSON_BYTES)
    if text is None:
        newer = files.read(f"{name}/zarr.json", MOST_JSON_BYTES) is not None
        raise FormatError(f"{where} is not there{': this is zarr format 3, expected format 2' if newer else ''}")
    told = parse_json(text.decode("utf-8", "replace"), where)
    if not isinstance(told, dict):
        raise FormatError(f"{where} is not a JSON object")
    require(told.get("zarr_format") == 2, f"{where} has zarr_format {told.get('zarr_format')!r}: expected 2")
    shape, chunks = (_sizes(told, key, where) for key in ("shape", "chunks"))
    require(
        0 < len(shape) == len(chunks) <= _MOST_DIMENSIONS and 0 not in chunks,
        f"{where}: shape {shape}, chunks {chunks}",
    )
    dtype = told.get("dtype")
    if not isinstance(dtype, str) or not _NUMBERS.fullmatch(dtype):
        raise FormatError(f"{where} holds {str(dtype)[:40]!r}: only numbers are read, never objects")
    try:
        kind = np.dtype(dtype)
    except TypeError as error:
        raise FormatError(f"{where} holds {dtype!r}, which are no numbers") from error
    size = math.prod(chunks) * kind.itemsize
    require(size <= MOST_CHUNK_BYTES, f"{where} has chunks of {size:,} bytes: at most {MOST_CHUNK_BYTES:,} accepted")
    compressor = told.get("compressor")
    codec = compressor.get("id") if isinstance(compressor, dict) else compressor
    require(
        codec is None or codec in CODECS,
        f"{where} is packed with {str(codec)[:40]!r}: accepted are {', '.join(CODECS)}",
    )
    require(not told.get("filters"), f"{where} has filters {str(told.get('filters'))[:80]}: none are accepted")
    separator, order = told.get("dimension_separator", "."), told.get("order", "C")
    require(separator in (".", "/") and order in ("C", "F"), f"{where}: separator {separator!r}, order {order!r}")
    value = told.get("fill_value")
    fill = float(value) if isinstance(value, int | float) else 0.0
    return Array2(files, name, shape, chunks, kind, codec, separator, order, fill, fill_missing)


def _sizes(told: dict[str, Any], key: str, where: str) -> tuple[int, ...]:
    values = told.get(key)
    if not isinstance(values, list):
        raise FormatError(f"{where} has {key} {str(values)[:80]}: expected a list")
    return tuple(whole_number(value, 0, 2**40, f"{where}: {key}") for value in values)


def _unpack(codec: str | None, packed: bytes, size: int) -> bytes | bytearray:
    """The content of a chunk. Little more than `size` bytes are allocated, whatever size the chunk declares."""
    if codec is None:
        return packed
    if codec in _INTO:
        if codec == "blosc":  # blosc trusts both sizes in its header
            sizes = struct.unpack_from("<III", packed, 4) if len(packed) >= _BLOSC_HEADER else ()
            if len(sizes) != 3 or (sizes[0], sizes[2]) != (size, len(packed)):
                raise ValueError(f"{len(packed)} bytes with a header of sizes {list(sizes)}")
        plain = bytearray(size)
        unpacked = _INTO[codec]().decode(packed, out=plain)
        return plain if len(unpacked) == size else bytes(unpacked)
    inflater = zlib.decompressobj(wbits=zlib.MAX_WBITS | 32)  # zlib or gzip, which the first bytes tell apart
    return inflater.decompress(packed, size + 1)

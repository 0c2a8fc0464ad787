"""Opens the arrays of a store without trusting their metadata.

zarr obeys an array's `zarr.json`. It looks up any installed codec by name, and allocates as much memory as shapes and
compressed chunks declare. A damaged number could exhaust the machine's memory, and an untrusted file could choose the
code that decodes it. All stores are written by `worldmodel.data.store.writer`. Therefore only metadata as it writes
them are accepted, and these rules are checked before zarr reads the array:

- The element type and shape of a row are those of the store's description. They are fixed-size numbers, never objects.
- Codecs are `bytes` and `zstd` with its checksum. In packed stores, `sharding_indexed` with a `crc32c` on the index
  contains them.
- Chunks divide the first axis only and have at most 256 MiB before compression. A file has at most 2^20 of them.
- A chunk is decompressed only if its header announces a checksum and exactly the size of a chunk.
- Only each array's own `zarr.json` counts. Copies in consolidated metadata are out of date after the next episode.
"""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
import zarr
from zarr.abc.codec import Codec
from zarr.codecs import ShardingCodec, ZstdCodec
from zarr.core.array_spec import ArraySpec
from zarr.core.buffer import Buffer
from zarr.core.metadata import ArrayV3Metadata
from zarr.storage import LocalStore, StorePath

from worldmodel.data.store.files import open_file

MOST_CHUNK_BYTES: Final = 2**28
_MOST_JSON_BYTES = 2**22
_MOST_ROWS = 2**40
_MOST_CHUNKS_PER_FILE = 2**20
MOST_HEADER_BYTES: Final = 18
_ZSTD_MAGIC = bytes.fromhex("28b52ffd")
_BYTES = ({"name": "bytes"}, {"name": "bytes", "configuration": {"endian": "little"}})


class MetadataError(Exception):
    """A `zarr.json` that is missing or unreadable, or describes something that no store contains."""


class RowType(NamedTuple):
    """Element type and shape of one row of a column."""

    dtype: np.dtype[Any]
    shape: tuple[int, ...]

    @property
    def num_bytes(self) -> int:
        """The size of a row before compression."""
        return self.dtype.itemsize * math.prod(self.shape)


def read_json(file: Path) -> dict[str, Any]:
    """The JSON object in `file`.

    Raises:
        FileNotFoundError: when there is no such file.
        MetadataError: when it holds anything but an object of a reasonable size.
    """
    try:
        with open_file(file) as opened:
            content = opened.read(_MOST_JSON_BYTES + 1)
        if len(content) > _MOST_JSON_BYTES:
            raise MetadataError(f"{file.name} has more than {_MOST_JSON_BYTES} bytes")
        values = json.loads(content)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise FileNotFoundError(f"{file} is missing") from error
    except (OSError, ValueError, RecursionError) as error:
        raise MetadataError(f"{file.name} cannot be read") from error
    if not isinstance(values, dict):
        raise MetadataError(f"{file.name} holds no object")
    return values


def group_attributes(path: Path) -> dict[str, Any]:
    """The attributes of the group at `path`. Raises FileNotFoundError or MetadataError."""
    content = read_json(path / "zarr.json")
    attributes = content.get("attributes")
    if content.get("node_type") != "group" or content.get("zarr_format") != 3 or not isinstance(attributes, dict):
        raise MetadataError("zarr.json describes no group of zarr format 3")
    return attributes


def open_array(root: Path, name: str, row: RowType, store: LocalStore | None = None) -> zarr.Array[Any]:
    """The array `name`, with rows of type `row`, of the store at `root`. Writes go through `store`, if given.

    Raises:
        MetadataError: when the array's metadata are missing, unreadable or differ from those of such an array.
    """
    try:
        content = read_json(root / name / "zarr.json")
    except FileNotFoundError as error:
        raise MetadataError("zarr.json is missing") from error
    chunk_bytes = check_array(content, row)
    # zarr receives no other keys that the file may have.
    known = {field.name for field in dataclasses.fields(ArrayV3Metadata)}
    try:
        metadata = ArrayV3Metadata.from_dict({key: value for key, value in content.items() if key in known})
    except (ValueError, TypeError, KeyError) as error:
        raise MetadataError("zarr.json is no description of an array") from error
    metadata = dataclasses.replace(metadata, codecs=_bounded(metadata.codecs, chunk_bytes))
    files = store or LocalStore(root, read_only=True)
    return zarr.Array(zarr.AsyncArray(metadata=metadata, store_path=StorePath(files, name)))


def check_array(content: dict[str, Any], row: RowType) -> int:
    """Bytes of a chunk of the array that `content` describes, before compression.

    Raises:
        MetadataError: naming what was found, if it is not an array as the writer makes them.
    """
    _require(content, "zarr_format", 3)
    _require(content, "node_type", "array")
    _require(content, "data_type", row.dtype.name)
    _require(content, "chunk_key_encoding", {"name": "default", "configuration": {"separator": "."}})
    _require(content, "fill_value", 0, 0.0)
    _require(content, "storage_transformers", None, [])
    _require(content, "dimension_names", None)
    if not isinstance(content.get("attributes", {}), dict):
        raise MetadataError("attributes are no object")
    shape = _lengths(content.get("shape"), "shape", least=0)
    if tuple(shape[1:]) != row.shape:
        raise MetadataError(f"rows have the shape {shape[1:]}, not {list(row.shape)}")
    if shape[0] > _MOST_ROWS:
        raise MetadataError(f"{shape[0]} rows are more than {_MOST_ROWS}")
    rows = per_file = _chunk_rows(_configuration(content.get("chunk_grid"), "chunk_grid", "regular"), row)
    codecs = content.get("codecs")
    if isinstance(codecs, list) and len(codecs) == 1:
        sharding = _configuration(codecs[0], "the only codec", "sharding_indexed")
        _require(sharding, "index_codecs", [_BYTES[1], {"name": "crc32c"}])
        _require(sharding, "index_location", "end")
        rows = _chunk_rows(sharding, row)
        if per_file % rows or per_file // rows > _MOST_CHUNKS_PER_FILE:
            raise MetadataError(f"files of {per_file} rows cannot be divided into chunks of {rows}")
        codecs = sharding.get("codecs")
    if not isinstance(codecs, list) or len(codecs) != 2 or codecs[0] not in _BYTES or not _is_zstd(codecs[1]):
        raise MetadataError(f"codecs {_short(codecs)} are not accepted: expected bytes, zstd with a checksum")
    return rows * _bytes_in_chunk(row)


def _require(content: dict[str, Any], key: str, *accepted: Any) -> None:
    value = content.get(key)
    if not any(value == one and type(value) is type(one) for one in accepted):
        raise MetadataError(f"{key} is {_short(value)}: expected {_short(accepted[0])}")


def _configuration(value: object, what: str, name: str) -> dict[str, Any]:
    """The configuration in `{"name": name, "configuration": {...}}`."""
    configuration = value.get("configuration") if isinstance(value, dict) else None
    if not isinstance(value, dict) or value.get("name") != name or not isinstance(configuration, dict):
        raise MetadataError(f"{what} is {_short(value)}: expected {name}")
    return configuration


def _lengths(value: object, what: str, least: int) -> list[int]:
    if not isinstance(value, list) or not value or not all(type(n) is int and n >= least for n in value):
        raise MetadataError(f"{what} is {_short(value)}: expected whole numbers of at least {least}")
    return value


def _chunk_rows(configuration: dict[str, Any], row: RowType) -> int:
    rows, *rest = _lengths(configuration.get("chunk_shape"), "chunk_shape", least=1)
    if rest != _chunked(row):
        raise MetadataError(f"chunk_shape is {_short([rows, *rest])}: expected whole rows {_chunked(row)}")
    if rows * _bytes_in_chunk(row) > MOST_CHUNK_BYTES:
        raise MetadataError(f"chunks of {rows} rows have more than {MOST_CHUNK_BYTES} bytes")
    return rows


def _chunked(row: RowType) -> list[int]:
    """The shape of a row within a chunk, where no length may be 0."""
    return [max(1, size) for size in row.shape]


def _bytes_in_chunk(row: RowType) -> int:
    return row.dtype.itemsize * math.prod(_chunked(row))


def _is_zstd(codec: object) -> bool:
    if not isinstance(codec, dict) or codec.keys() != {"name", "configuration"} or codec["name"] != "zstd":
        return False
    options = codec["configuration"]
    if not isinstance(options, dict) or options.keys() != {"level", "checksum"} or options["checksum"] is not True:
        return False
    return type(options["level"]) is int and -100 <= options["level"] <= 22


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def _bounded(codecs: tuple[Codec, ...], chunk_bytes: int) -> tuple[Codec, ...]:
    if isinstance(codecs[0], ShardingCodec):
        return (dataclasses.replace(codecs[0], codecs=_bounded(codecs[0].codecs, chunk_bytes)),)
    return tuple(_BoundedZstdCodec(codec, chunk_bytes) if isinstance(codec, ZstdCodec) else codec for codec in codecs)


class _BoundedZstdCodec(ZstdCodec):
    """zstd that allocates only what a chunk needs. zstd itself allocates any size that a frame's header announces."""

    _num_bytes: int

    def __init__(self, codec: ZstdCodec, num_bytes: int) -> None:
        super().__init__(level=codec.level, checksum=codec.checksum)
        object.__setattr__(self, "_num_bytes", num_bytes)

    def _decode_sync(self, chunk_bytes: Buffer, chunk_spec: ArraySpec) -> Buffer:
        self._check(chunk_bytes)
        return super()._decode_sync(chunk_bytes, chunk_spec)

    async def _decode_single(self, chunk_bytes: Buffer, chunk_spec: ArraySpec) -> Buffer:
        self._check(chunk_bytes)
        return await super()._decode_single(chunk_bytes, chunk_spec)

    def _check(self, chunk_bytes: Buffer) -> None:
        if announced_bytes(chunk_bytes[:MOST_HEADER_BYTES].to_bytes()) != self._num_bytes:
            raise ValueError("a chunk of another size, or without a checksum")


def announced_bytes(header: bytes) -> int | None:
    """The decompressed size that a zstd frame announces; None if it announces none or has no checksum.

    See RFC 8878, section 3.1.1.1. `header` is at least the first 18 bytes of the frame, or all of a shorter frame.
    """
    if len(header) < 6 or header[:4] != _ZSTD_MAGIC:
        return None
    descriptor = header[4]
    size_flag, is_single_segment, has_checksum, dictionary_flag = (
        descriptor >> 6,
        descriptor >> 5 & 1,
        descriptor >> 2 & 1,
        descriptor & 3,
    )
    start = 5 + (1 - is_single_segment) + (0, 1, 2, 4)[dictionary_flag]
    length = (is_single_segment, 2, 4, 8)[size_flag]
    field = header[start : start + length]
    if not has_checksum or not length or len(field) < length:
        return None
    return int.from_bytes(field, "little") + (256 if length == 2 else 0)

"""Creates an empty store, which appears whole or not at all."""

from __future__ import annotations

import math
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from zarr.codecs import ZstdCodec

from worldmodel.core.files import PARTIAL
from worldmodel.data.store.durable import DurableLocalStore, sync_directory
from worldmodel.data.store.files import require_folder
from worldmodel.data.store.integrity import chain, description_checksum, make_records
from worldmodel.data.store.layout import CHAIN, ENDS, FORMAT, INSTRUCTIONS, RECORDS, SEEDS, Layout
from worldmodel.data.store.metadata import RowType

_PIXEL_CHUNK = 16  # frames: about one clip, so that a random clip decodes two chunks
_VECTOR_CHUNK = 512  # rows: there are few files, and rewriting the last one stays cheap
_META_CHUNKS = {ENDS: 4096, SEEDS: 4096, RECORDS: 4096, INSTRUCTIONS: 64}  # episodes, for the same reason
_PACKED_BYTES = 64_000_000  # size of one file of a packed store, before compression


def create_store(path: Path, layout: Layout, recording: Mapping[str, Any], packed: bool = False) -> None:
    """Create an empty store, which appears at `path` whole or not at all.

    `packed` puts many chunks into one file (zarr's shards), which suits archives and object storage. Single clips can
    still be read from it. Adding an episode rewrites the last file.
    """
    require_folder(path)
    draft = path.with_name(path.name + PARTIAL)
    if draft.exists():
        shutil.rmtree(draft)
    store = DurableLocalStore(draft)
    attributes = {
        "format": FORMAT,
        "schema_version": layout.version,
        "environment": layout.spec.to_dict(),
        "columns": list(layout.columns),
        "recording": dict(recording),
        "packed": packed,
        "zarr_version": zarr.__version__,
    }
    attributes["checksum"] = description_checksum(attributes)
    group = zarr.create_group(store, attributes=attributes)
    group.create_group("meta", attributes=attributes)  # a second copy: no store can be read without one
    for name, row in layout.array_types.items():
        if name in _META_CHUNKS:
            _create_array(group, name, row, _META_CHUNKS[name])
            continue
        is_picture = len(row.shape) == 3
        chunk = _PIXEL_CHUNK if is_picture else _VECTOR_CHUNK
        row_bytes = row.dtype.itemsize * math.prod(max(1, size) for size in row.shape)  # no length of a chunk is 0
        _create_array(group, name, row, chunk, max(1, _PACKED_BYTES // (chunk * row_bytes)) if packed else None)
    group[ENDS].update_attributes({CHAIN: chain(make_records([], [], [], len(layout.digested)))})
    store.sync_directories()
    draft.replace(path)
    sync_directory(path.parent)


def is_vacant(path: Path) -> bool:
    """Whether a store can be created at `path`, which must be absent or an empty folder."""
    return not path.exists() or (path.is_dir() and not any(path.iterdir()))


def _create_array(group: zarr.Group, name: str, row: RowType, chunk: int, chunks_per_file: int | None = None) -> None:
    within = tuple(max(1, size) for size in row.shape)
    group.create_array(
        name,
        shape=(0, *row.shape),
        chunks=(chunk, *within),
        shards=None if chunks_per_file is None else (chunk * chunks_per_file, *within),
        dtype=np.dtype(row.dtype),
        compressors=ZstdCodec(level=1, checksum=True),
        fill_value=0,
        chunk_key_encoding={"name": "default", "separator": "."},  # one folder per array, not one per chunk
    )

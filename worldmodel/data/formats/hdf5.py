"""Reads untrusted HDF5 files.

HDF5 can refer to other files (external links, external storage, virtual data sets), run any installed filter, and hold
pickled objects. This module accepts none of them. Chunks that were never written, which HDF5 reads as zeros, are
errors.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from worldmodel.data.formats.images import holds_pictures
from worldmodel.data.formats.limits import MOST_CHUNK_BYTES, MOST_COLUMNS, check_row, require, require_file
from worldmodel.data.formats.source import Feature, FormatError, refusing

_FILTERS = {1: "gzip", 2: "shuffle", 3: "fletcher32", 4: "szip", 6: "scaleoffset", 32000: "lzf"}
_DEEPEST = 4
_BLOCK_BYTES = 32_000_000
_CODED_ROWS = 16
_UNREADABLE = (OSError, RuntimeError, ValueError, TypeError, KeyError)


def _reading(path: Path, what: str) -> AbstractContextManager[None]:
    """A context that turns h5py's errors for damaged files into FormatError."""
    return refusing(_UNREADABLE, f"{path}: {what} cannot be read")


def open_hdf5(path: Path) -> h5py.File:
    """Open a file for reading. Raises FormatError when it does not exist or is not HDF5."""
    require_file(path)
    with _reading(path, "the file"):
        return h5py.File(path, "r")


def names_in(group: h5py.Group, most: int, path: Path) -> list[str]:
    """Names of a group's members. Raises FormatError when there are more than `most`."""
    with _reading(path, str(group.name)):
        require(len(group) <= most, f"{path}: {group.name} has {len(group):,} members: at most {most:,}")
        return list(group)


def member(group: h5py.Group, name: str, path: Path) -> h5py.Group | h5py.Dataset | None:
    """The member `name` of `group`; None if there is none. Raises FormatError for a link to elsewhere."""
    node = group
    with _reading(path, f"{group.name.rstrip('/')}/{name}"):
        for part in name.split("/"):
            if not isinstance(node, h5py.Group) or part not in node:
                return None
            link = node.get(part, getlink=True)
            require(isinstance(link, h5py.HardLink), f"{path}: {node.name}/{part} is a link, which is not followed")
            node = node[part]
    return node


def subgroup(group: h5py.Group, name: str, path: Path) -> h5py.Group:
    """The group `name`. Raises FormatError when there is none."""
    found = member(group, name, path)
    if not isinstance(found, h5py.Group):
        raise FormatError(f"{path}: {group.name.rstrip('/')}/{name} is not there, or not a group")
    return found


def dataset(group: h5py.Group, name: str, path: Path) -> h5py.Dataset:
    """The data set `name`, after all checks. Raises FormatError when there is none, or a check fails."""
    found = member(group, name, path)
    if not isinstance(found, h5py.Dataset):
        raise FormatError(f"{path}: {group.name.rstrip('/')}/{name} is not there, or not a data set")
    with _reading(path, str(found.name)):
        check_dataset(found, path)
    return found


def is_coded(data: h5py.Dataset) -> bool:
    """Whether rows are byte strings of any length, as encoded images are."""
    return bool(h5py.check_vlen_dtype(data.dtype) == np.dtype(np.uint8))


def check_dataset(data: h5py.Dataset, path: Path) -> None:
    """Raises FormatError unless the rows are numbers or encoded images of a plausible size, all in this file."""
    where = f"{path}: {data.name}"
    coded = is_coded(data)
    require(coded or data.dtype.kind in "biuf", f"{where} holds {data.dtype}: only numbers are read, never objects")
    require(data.shape is not None and data.ndim >= 1, f"{where} has no rows")
    require(not data.is_virtual and not data.external, f"{where} is kept in other files, which are not followed")
    check_row(data.shape[1:], data.ndim >= 3, where)
    creation = data.id.get_create_plist()
    filters = [creation.get_filter(i)[0] for i in range(creation.get_nfilters())]
    require(
        all(number in _FILTERS for number in filters),
        f"{where} is packed by filter {filters}: accepted are {', '.join(_FILTERS.values())}",
    )
    if data.chunks is None:
        require(
            data.size == 0 or data.id.get_storage_size() > 0, f"{where} was never written: it would be read as zeros"
        )
        return
    decoded = math.prod(data.chunks) * data.dtype.itemsize
    require(decoded <= MOST_CHUNK_BYTES, f"{where} has chunks of {decoded:,} bytes: at most {MOST_CHUNK_BYTES:,}")
    expected = math.prod(-(-size // chunk) for size, chunk in zip(data.shape, data.chunks, strict=True))
    written = data.id.get_num_chunks()
    require(written >= expected, f"{where} has {written} of {expected} chunks: the others would be read as zeros")
    # HDF5 writes no chunk that is much larger than its content. gzip would expand such a chunk to any size.
    require(
        data.id.get_storage_size() <= 2 * expected * (decoded + 65_536), f"{where} takes more room than its numbers do"
    )


def rows_of(data: h5py.Dataset, start: int, stop: int, path: Path) -> NDArray[Any]:
    """Rows `start:stop`. Raises FormatError when they do not exist or cannot be decoded."""
    where = f"{path}: {data.name}"
    require(0 <= start <= stop <= len(data), f"{where} has {len(data)} rows, not {stop}")
    needed = (stop - start) * max(1, math.prod(data.shape[1:])) * data.dtype.itemsize
    require(needed <= MOST_CHUNK_BYTES, f"{where} has {needed:,} bytes in an episode: at most {MOST_CHUNK_BYTES:,}")
    with _reading(path, str(data.name)):
        return np.asarray(data[start:stop])


def pictures_of(data: h5py.Dataset, start: int, stop: int, path: Path) -> Iterator[NDArray[Any]]:
    """Rows `start:stop` one after the other. Only a few of them are in memory at a time."""
    per_row = max(1, math.prod(data.shape[1:]) * data.dtype.itemsize)
    # The length of byte strings is unknown before they are read.
    block = _CODED_ROWS if is_coded(data) else max(1, _BLOCK_BYTES // per_row)
    for low in range(start, stop, block):
        yield from rows_of(data, low, min(stop, low + block), path)


def features_in(group: h5py.Group, prefix: str, path: Path, deep: int = _DEEPEST) -> Iterator[Feature]:
    """All data sets of numbers under `group`, with names that begin with `prefix`."""
    for name in names_in(group, MOST_COLUMNS, path):
        found = member(group, name, path)
        if isinstance(found, h5py.Group) and deep > 1:
            yield from features_in(found, f"{prefix}{name}/", path, deep - 1)
        elif isinstance(found, h5py.Dataset):
            with _reading(path, str(found.name)):
                shape, dtype, coded = found.shape, found.dtype, is_coded(found)
            if shape and (coded or dtype.kind in "biuf"):
                row = tuple(int(size) for size in shape[1:])
                image = coded or holds_pictures(row, dtype)
                yield Feature(f"{prefix}{name}", row, "png/jpeg" if coded else str(dtype), image)


def attribute(node: h5py.Group, name: str, path: Path) -> Any:
    """An attribute; None if there is none. Raises FormatError when it cannot be read."""
    with _reading(path, f"attribute {name} of {node.name}"):
        if name not in node.attrs:  # `get` would treat a damaged attribute as a missing one
            return None
        return node.attrs[name]


def text_attribute(node: h5py.Group, name: str, path: Path) -> str | None:
    """An attribute that is text; None if there is none. Raises FormatError when it is something else."""
    value = attribute(node, name, path)
    if isinstance(value, bytes):
        value = value.decode("utf-8", "replace")
    if value is not None and not isinstance(value, str):
        raise FormatError(f"{path}: attribute {name} of {node.name} is a {type(value).__name__}: expected text")
    return value


def whole_attribute(node: h5py.Group, name: str, path: Path) -> int | None:
    """An attribute that is a whole number; None if there is none. Raises FormatError when it is something else."""
    value = attribute(node, name, path)
    if value is None:
        return None
    if not isinstance(value, np.integer | int) or isinstance(value, bool):
        raise FormatError(f"{path}: attribute {name} of {node.name} is a {type(value).__name__}: expected a number")
    return int(value)

"""Checksums: what every episode and every column of it was when it was recorded.

zstd's own checksum guards a chunk. It cannot tell that two chunk files were swapped, that a description was changed, or
that a file came back from an older backup. So each episode has a record

    end [rows], seed, BLAKE2b-128 of each column's bytes, BLAKE2b-64 of all that

and the commit (`meta/episode_ends/zarr.json`) names the BLAKE2b-128 of all records so far. The record repeats where the
episode ends, so that either copy can be restored from the other.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

COLUMNS: Final = ("pixels", "action", "proprio", "state")
_DIGEST, _CHECK = 16, 8
_RECORD: Final = np.dtype(
    [("end", "<i8"), ("seed", "<i8"), ("digests", "u1", (len(COLUMNS), _DIGEST)), ("check", "u1", _CHECK)]
)
RECORD_BYTES: Final = _RECORD.itemsize

Records = NDArray[np.void]


def column_digest(values: NDArray[Any]) -> bytes:
    """BLAKE2b-128 of the little-endian bytes of an episode's column `[T+1, ...]`."""
    little = np.ascontiguousarray(values, values.dtype.newbyteorder("<"))
    return hashlib.blake2b(little.tobytes(), digest_size=_DIGEST).digest()


def make_records(ends: Iterable[int], seeds: Iterable[int], digests: Iterable[Mapping[str, bytes]]) -> Records:
    """Records `[E]` of episodes, from the digests of their columns."""
    rows = [
        (end, seed, [list(columns[name]) for name in COLUMNS], [0] * _CHECK)
        for end, seed, columns in zip(ends, seeds, digests, strict=True)
    ]
    records = np.array(rows, _RECORD)
    records["check"] = _checks(records)
    return records


def to_bytes(records: Records) -> NDArray[np.uint8]:
    """Records `[E]` as they are stored, uint8 `[E, RECORD_BYTES]`."""
    return np.ascontiguousarray(records).view(np.uint8).reshape(-1, RECORD_BYTES)


def from_bytes(rows: NDArray[np.uint8]) -> Records:
    """Inverse of `to_bytes`."""
    return np.ascontiguousarray(rows).view(_RECORD).reshape(-1)


def intact(records: Records) -> NDArray[np.bool_]:
    """Which records `[E]` carry their own checksum."""
    matches: NDArray[np.bool_] = (records["check"] == _checks(records)).all(axis=1)
    return matches


def chain(records: Records) -> str:
    """BLAKE2b-128 (hexadecimal) of all `records [E]` in order."""
    return hashlib.blake2b(to_bytes(records).tobytes(), digest_size=_DIGEST).hexdigest()


def description_checksum(attributes: Mapping[str, Any]) -> str:
    """SHA-256 (hexadecimal) of a store's attributes, their checksum itself left out."""
    content = {key: value for key, value in attributes.items() if key != "checksum"}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _checks(records: Records) -> NDArray[np.uint8]:
    body = to_bytes(records)[:, :-_CHECK]
    digests = [hashlib.blake2b(row.tobytes(), digest_size=_CHECK).digest() for row in body]
    return np.frombuffer(b"".join(digests), np.uint8).reshape(-1, _CHECK)

"""Checksums of every episode and each of its columns, as they were recorded.

zstd's own checksum guards a single chunk. It does not reveal two swapped chunk files, a changed description, or a file
that came back from an older backup. Therefore each episode has a record

    end [rows], seed, BLAKE2b-128 of each column's bytes (and of the instruction), BLAKE2b-64 of all of these

and the commit (`meta/episode_ends/zarr.json`) holds the BLAKE2b-128 of all records so far. The record repeats the
episode's end, so that either copy can be restored from the other. Shapes: `E` episodes, `D` digests of each.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

_DIGEST, _CHECK = 16, 8

Records = NDArray[np.void]


class ColumnDigest:
    """BLAKE2b-128 of the little-endian bytes of one column of an episode, which arrives in blocks of rows."""

    def __init__(self) -> None:
        self._hash = hashlib.blake2b(digest_size=_DIGEST)

    def update(self, rows: NDArray[Any]) -> None:
        """Add the next rows `[n, ...]`."""
        little = np.ascontiguousarray(rows, rows.dtype.newbyteorder("<"))
        self._hash.update(little.reshape(-1).view(np.uint8).data)

    def digest(self) -> bytes:
        """The digest of all rows so far."""
        return self._hash.digest()


def column_digest(values: NDArray[Any]) -> bytes:
    """The digest of a whole column `[T+1, ...]`."""
    digest = ColumnDigest()
    digest.update(values)
    return digest.digest()


def record_type(num_digests: int) -> np.dtype[Any]:
    """The element type of one record."""
    return np.dtype(
        [("end", "<i8"), ("seed", "<i8"), ("digests", "u1", (num_digests, _DIGEST)), ("check", "u1", _CHECK)]
    )


def make_records(
    ends: Iterable[int], seeds: Iterable[int], digests: Iterable[Sequence[bytes]], num_digests: int
) -> Records:
    """Records `[E]` of episodes, from the `num_digests` digests of each."""
    rows = [
        (end, seed, [list(digest) for digest in of_one], [0] * _CHECK)
        for end, seed, of_one in zip(ends, seeds, digests, strict=True)
    ]
    records = np.array(rows, record_type(num_digests))
    records["check"] = _checks(records)
    return records


def to_bytes(records: Records) -> NDArray[np.uint8]:
    """Records `[E]` as they are stored, uint8 `[E, bytes of a record]`."""
    return np.ascontiguousarray(records).view(np.uint8).reshape(-1, records.dtype.itemsize)


def from_bytes(rows: NDArray[np.uint8]) -> Records:
    """Inverse of `to_bytes`. The number of digests follows from the size of a record."""
    num_digests = (rows.shape[1] - record_type(0).itemsize) // _DIGEST
    return np.ascontiguousarray(rows).view(record_type(num_digests)).reshape(-1)


def intact(records: Records) -> NDArray[np.bool_]:
    """Which records `[E]` match their own checksum."""
    matches: NDArray[np.bool_] = (records["check"] == _checks(records)).all(axis=1)
    return matches


def chain(records: Records) -> str:
    """BLAKE2b-128 (hexadecimal) of all `records [E]` in order."""
    return hashlib.blake2b(to_bytes(records).tobytes(), digest_size=_DIGEST).hexdigest()


def description_checksum(attributes: Mapping[str, Any]) -> str:
    """SHA-256 (hexadecimal) of a store's attributes without their checksum."""
    content = {key: value for key, value in attributes.items() if key != "checksum"}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _checks(records: Records) -> NDArray[np.uint8]:
    body = to_bytes(records)[:, :-_CHECK]
    digests = [hashlib.blake2b(row.tobytes(), digest_size=_CHECK).digest() for row in body]
    return np.frombuffer(b"".join(digests), np.uint8).reshape(-1, _CHECK)

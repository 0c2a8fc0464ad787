"""Rows are read as zarr reads them, and what zarr would make up is an error."""

from __future__ import annotations

from pathlib import Path

import google_crc32c
import numpy as np
import pytest
import zarr

from benchmarks.store.damage import limits
from worldmodel.data import StoreError, TrajectoryStore
from worldmodel.data.store.rewriting import pack

CANNOT_BE_DECODED = "chunk 0 of data/images/camera cannot be decoded"


@pytest.fixture
def packed(store: TrajectoryStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> TrajectoryStore:
    """With files of two chunks of frames."""
    monkeypatch.setattr("worldmodel.data.store.creating._PACKED_BYTES", 2 * 16 * 8 * 8 * 3)
    return pack(store, tmp_path / "packed.zarr", lambda *_: None)


def frames_file(store: TrajectoryStore) -> Path:
    (file,) = (store.path / "data/images/camera").glob("c.0.*")
    return file


def with_index(content: bytes, places: list[tuple[int, int]]) -> bytes:
    """The same file with other places of its chunks, and a checksum that fits them."""
    index = np.array(places, "<u8").tobytes()
    return content[: -len(index) - 4] + index + google_crc32c.value(index).to_bytes(4, "little")


@pytest.mark.parametrize("kind", ["store", "packed"])
def test_any_span_of_rows_is_what_zarr_reads(kind: str, request: pytest.FixtureRequest) -> None:
    store: TrajectoryStore = request.getfixturevalue(kind)
    for name in store.layout.columns:
        array = zarr.open_array(store.path / "data" / name, mode="r")
        for start, stop in ((0, 16), (5, 21), (16, 17), (15, 33), (31, 96), (40, 40), (90, 106), (0, 106)):
            rows, wanted = store.read(name, start, stop), np.asarray(array[start:stop])
            assert rows.dtype == wanted.dtype
            np.testing.assert_array_equal(rows, wanted)


@pytest.mark.parametrize("row", [0, 20])
def test_a_chunk_that_is_left_out_of_a_packed_file_is_an_error_and_not_zeros(packed, row: int) -> None:
    content = frames_file(packed).read_bytes()
    places = [(int(a), int(b)) for a, b in np.frombuffer(content[-36:-4], "<u8").reshape(2, 2)]
    places[row // 16] = (2**64 - 1, 2**64 - 1)
    frames_file(packed).write_bytes(with_index(content, places))
    with pytest.raises(StoreError, match=CANNOT_BE_DECODED):
        packed.read("images/camera", row, row + 1)
    packed.read("images/camera", 20 - row, 21 - row)  # the other one is still there


@pytest.mark.parametrize("place", [(2**64 - 1, 100), (2**40, 100), (0, 2**63), (0, 0), (1, 100)])
def test_an_index_that_points_elsewhere_is_refused(packed, place: tuple[int, int]) -> None:
    content = frames_file(packed).read_bytes()
    frames_file(packed).write_bytes(with_index(content, [place, place]))
    with pytest.raises(StoreError, match=CANNOT_BE_DECODED), limits():
        packed.read("images/camera", 0, 1)


def test_a_damaged_index_is_noticed(packed) -> None:
    content = frames_file(packed).read_bytes()
    # The place of the second chunk: the first one could be read.
    frames_file(packed).write_bytes(content[:-8] + bytes([content[-8] ^ 1]) + content[-7:])
    with pytest.raises(StoreError, match=CANNOT_BE_DECODED):
        packed.read("images/camera", 0, 1)


@pytest.mark.parametrize("keep", [0, 3, 20])
def test_a_packed_file_without_a_whole_index_is_refused(packed, keep: int) -> None:
    frames_file(packed).write_bytes(frames_file(packed).read_bytes()[-keep or 10**9 :])
    with pytest.raises(StoreError, match=CANNOT_BE_DECODED):
        packed.read("images/camera", 0, 1)


def test_a_file_larger_than_a_chunk_can_be_is_not_read(store) -> None:
    with frames_file(store).open("r+b") as file:
        file.truncate(2**36)  # takes no room on disk
    with pytest.raises(StoreError, match=CANNOT_BE_DECODED), limits():
        store.read("images/camera", 0, 16)

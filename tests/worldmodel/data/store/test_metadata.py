"""What a store's files say of themselves is not believed where it would do harm."""

from __future__ import annotations

import copy
import dataclasses
import json
import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numcodecs
import numpy as np
import pytest
import zarr
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.store.damage import limits
from benchmarks.store.faults import SPEC
from worldmodel.core.errors import UserError
from worldmodel.core.spec import one_camera
from worldmodel.data import StoreError, TrajectoryStore
from worldmodel.data.store.creating import create_store
from worldmodel.data.store.integrity import (
    ColumnDigest,
    chain,
    column_digest,
    description_checksum,
    make_records,
    to_bytes,
)
from worldmodel.data.store.layout import CHAIN, Layout
from worldmodel.data.store.metadata import MOST_CHUNK_BYTES, MetadataError, RowType, announced_bytes, check_array
from worldmodel.data.store.recovery import recover
from worldmodel.data.store.rewriting import pack
from worldmodel.data.store.verification import verify

ZSTD = {"name": "zstd", "configuration": {"level": 1, "checksum": True}}
PIXELS = RowType(np.dtype(np.uint8), (8, 8, 3))


def edit(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    content = json.loads((path / "zarr.json").read_text())
    change(content)
    (path / "zarr.json").write_text(json.dumps(content))


def refused(path: Path, message: str) -> None:
    """Without a warning of zarr's about what it was asked for, without much memory, and in time."""
    with pytest.raises(StoreError, match=message) as error, limits():
        TrajectoryStore.open(path).episode(0)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "name", ["pickle", "numcodecs.pickle", "numcodecs.zlib", "vlen-utf8", "blosc", "gzip", "made up"]
)
def test_only_our_codecs_are_accepted(store: TrajectoryStore, name: str) -> None:
    codec = {"name": name, "configuration": {}}
    edit(store.path / "data/images/camera", lambda content: content["codecs"].__setitem__(1, codec))
    refused(store.path, rf"data/images/camera: codecs .*'{name}'.* are not accepted: expected bytes, zstd")


@pytest.mark.parametrize(
    "codecs",
    [
        [],
        None,
        [{"name": "bytes"}],
        [ZSTD],
        [{"name": "bytes"}, {"name": "zstd", "configuration": {"level": 1, "checksum": False}}],
        [{"name": "bytes"}, {"name": "zstd", "configuration": {"level": True, "checksum": True}}],
        [{"name": "bytes", "configuration": {"endian": "big"}}, ZSTD],
        [{"name": "transpose", "configuration": {"order": [0, 1]}}, {"name": "bytes"}],
        [{"name": "sharding_indexed", "configuration": {}}],
        [3],
    ],
)
def test_only_our_order_of_codecs_is_accepted(store: TrajectoryStore, codecs: object) -> None:
    edit(store.path / "data/action", lambda content: content.update(codecs=codecs))
    refused(store.path, "data/action: ")


@pytest.mark.parametrize(
    "dtype", ["string", "object", "int8", "float64", "null_terminated_bytes", None, {"name": "struct"}]
)
def test_only_the_described_type_is_accepted(store: TrajectoryStore, dtype: object) -> None:
    edit(store.path / "data/images/camera", lambda content: content.update(data_type=dtype))
    refused(store.path, "data/images/camera: data_type is .*: expected 'uint8'")


@pytest.mark.parametrize(
    ("rows", "chunk", "message"),
    [
        (10**12, 10**12, "chunks of 1000000000000 rows have more than"),
        (10**13, 4096, "10000000000000 rows are more than"),
        (10**12, 4096, "meta/episode_ends does not increase"),
        (3 * 10**7, 3 * 10**7, "cannot be decoded"),
        (-1, 4096, "shape is"),
        (True, 4096, "shape is"),
        (5, 0, "chunk_shape is"),
        (5, 1.5, "chunk_shape is"),
        ("5", 4096, "shape is"),
    ],
)
def test_no_memory_is_asked_for_because_a_number_says_so(store, rows, chunk, message) -> None:
    def change(content: dict[str, Any]) -> None:
        content["shape"] = [rows]
        content["chunk_grid"]["configuration"]["chunk_shape"] = [chunk]

    edit(store.path / "meta/episode_ends", change)
    refused(store.path, message)


@pytest.mark.parametrize(
    ("shape", "chunk"),
    [
        ([106, 8, 8], [16, 8, 8]),
        ([106, 8, 8, 4], [16, 8, 8, 4]),
        ([106, 8, 8, 3], [16, 4, 8, 3]),
        ([106, 8, 8, 3], [16, 8, 8]),
    ],
)
def test_only_whole_rows_are_accepted(shape: list[int], chunk: list[int], store: TrajectoryStore) -> None:
    def change(content: dict[str, Any]) -> None:
        content["shape"] = shape
        content["chunk_grid"]["configuration"]["chunk_shape"] = chunk

    edit(store.path / "data/images/camera", change)
    refused(store.path, "data/images/camera: (rows have the shape|chunk_shape is)")


@pytest.mark.parametrize("name", ["data/images/camera", "meta/episode_ends", ""])
@pytest.mark.parametrize("content", [b"[" * 100_000, b"[]", b"3", b"{", b"", b"\xff\xfe", b" " * (2**22 + 1)])
def test_a_file_that_is_no_description_is_refused(store: TrajectoryStore, name: str, content: bytes) -> None:
    (store.path / name / "zarr.json").write_bytes(content)
    refused(store.path, r"damaged.*worldmodel\.data recover")


def compressed(values: np.ndarray, checksum: bool = True) -> bytes:
    return bytes(numcodecs.Zstd(level=1, checksum=checksum).encode(values))


BOMB = bytes.fromhex("28b52ffd") + bytes([0b11100100]) + (2**40).to_bytes(8, "little") + bytes([1, 0, 0, 0, 0, 0, 0])


@pytest.mark.parametrize("packed", [False, True])
def test_a_chunk_that_grows_when_it_is_decompressed_is_refused(tmp_path: Path, store, packed: bool) -> None:
    """Two gigabytes of zeros are 64 kB when compressed."""
    if packed:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("worldmodel.data.store.creating._PACKED_BYTES", 100_000)
            path = pack(store, tmp_path / "packed.zarr", lambda *_: None).path
        size = (
            json.loads((path / "data/images/camera/zarr.json").read_text())["chunk_grid"]["configuration"][
                "chunk_shape"
            ][0]
            // 16
        )
        (file,) = (path / "data/images/camera").glob("c.0.*")
        whole = file.read_bytes()
        first = int.from_bytes(whole[-16 * size - 4 :][:8], "little")
        file.write_bytes(whole[:first] + BOMB + whole[first + len(BOMB) :])
        refused(path, "chunk 0 of data/images/camera cannot be decoded")
    else:
        (file,) = (store.path / "data/images/camera").glob("c.0.*")
        for content in (BOMB, compressed(np.zeros(200_000_000, np.uint8)), compressed(np.zeros(5, np.uint8))):
            file.write_bytes(content)
            refused(store.path, "chunk 0 of data/images/camera cannot be decoded")


def test_a_chunk_without_a_checksum_is_refused(store: TrajectoryStore) -> None:
    (file,) = (store.path / "data/images/camera").glob("c.0.*")
    file.write_bytes(compressed(np.zeros(16 * 8 * 8 * 3, np.uint8), checksum=False))
    refused(store.path, "chunk 0 of data/images/camera cannot be decoded")


def test_a_whole_chunk_of_something_else_is_noticed(store: TrajectoryStore) -> None:
    (file,) = (store.path / "data/images/camera").glob("c.3.*")
    file.write_bytes(compressed(np.zeros(16 * 8 * 8 * 3, np.uint8)))
    with pytest.raises(StoreError, match=r"images/camera of episode 2 is not what was recorded .*its checksum differs"):
        store.episode(2)
    store.episode(0)


@given(st.binary(max_size=300), st.booleans(), st.integers(-5, 19))
def test_a_frame_announces_its_size(content: bytes, checksum: bool, level: int) -> None:
    frame = bytes(numcodecs.Zstd(level=level, checksum=checksum).encode(content * 7))
    assert announced_bytes(frame[:18]) == (len(content) * 7 if checksum else None)


@given(st.binary(max_size=20))
def test_any_header_is_read(header: bytes) -> None:
    assert announced_bytes(header) is None
    size = announced_bytes(bytes.fromhex("28b52ffd") + header)
    assert size is None or 0 <= size < 2**64


# --- the description -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("cameras", "abc"),
        ("cameras", []),
        ("cameras", [3]),
        ("cameras", [{"name": "camera", "height": "abc", "width": 8}]),
        ("cameras", [{"name": "camera", "height": 10**12, "width": 8}]),
        ("cameras", [{"name": "../up", "height": 8, "width": 8}]),
        ("cameras", [{"name": "twice", "height": 8, "width": 8}] * 2),
        ("action", 3),
        ("action", {"low": ["a", "b"], "high": [1.0, 1.0], "units": ["", ""]}),
        ("action", {"low": [5.0, 0.0], "high": [1.0, 1.0], "units": ["", ""]}),
        ("action", {"low": [0.0, 0.0], "high": [1.0], "units": ["", ""]}),
        ("action", {"low": [0.0], "high": [1.0], "units": [""], "rest": ["sleep"]}),
        ("action", {"low": [0.0], "high": [1.0], "units": [""], "max_rate": [-1.0]}),
        ("action", {"low": [0.0], "high": [1.0], "units": [""], "kinds": ["ternary"]}),
        ("action", {"low": [0.0], "high": [1.0], "units": [""], "hold_from": [99]}),
        ("control_step_s", "x"),
        ("control_step_s", 0),
        ("options", 3),
        ("state_size", 1.5),
        ("proprio_size", -1),
        ("env", None),
    ],
)
def test_a_description_that_makes_no_sense_is_refused(store: TrajectoryStore, name: str, value: object) -> None:
    def change(content: dict[str, Any]) -> None:
        attributes = content["attributes"]
        attributes["environment"][name] = value
        attributes["checksum"] = description_checksum(attributes)

    edit(store.path, change)
    with pytest.raises(UserError, match=name.removesuffix("s")):
        TrajectoryStore.open(store.path)


@pytest.mark.parametrize("packed", [False, True])
def test_the_largest_description_that_is_accepted_makes_a_store_that_is(tmp_path: Path, spec, packed: bool) -> None:
    most = dataclasses.replace(spec, cameras=one_camera(2048), proprio_size=2**16, state_size=2**16)
    create_store(tmp_path / "data.zarr", Layout(most), {}, packed)
    assert TrajectoryStore.open(tmp_path / "data.zarr").spec == most
    with pytest.raises(UserError, match="height of camera camera is 2049: expected a whole number from 1 to 2048"):
        dataclasses.replace(spec, cameras=one_camera(2049))


def test_a_store_that_pretends_to_be_older_is_not_believed(store: TrajectoryStore) -> None:
    """Otherwise two flipped bits would switch all checksums off."""
    edit(store.path, lambda content: content["attributes"].update(schema_version=1))
    refused(store.path, r"its description in zarr\.json is not what was written there")


def test_consolidated_metadata_may_be_stale(store: TrajectoryStore, write_store) -> None:
    with pytest.warns(UserWarning, match="Consolidated metadata"):
        zarr.consolidate_metadata(store.path)
    assert write_store(store.path, (12,), first=5).num_episodes == 6
    later = TrajectoryStore.open(store.path)
    assert later.num_episodes == 6
    assert verify(later, lambda *_: None) == []


def test_what_the_writer_makes_is_accepted_and_each_change_of_it_is_not(store: TrajectoryStore) -> None:
    content = json.loads((store.path / "data/images/camera/zarr.json").read_text())
    assert check_array(content, PIXELS) == 16 * 8 * 8 * 3
    for key in (
        "shape",
        "data_type",
        "chunk_grid",
        "chunk_key_encoding",
        "fill_value",
        "codecs",
        "node_type",
        "zarr_format",
    ):
        for value in (None, [], {}, "x", -1):
            changed = copy.deepcopy(content) | {key: value}
            with pytest.raises(MetadataError, match=key):
                check_array(changed, PIXELS)
    largest = MOST_CHUNK_BYTES // (8 * 8 * 3)
    for rows in (largest, largest + 1):
        content["chunk_grid"]["configuration"]["chunk_shape"][0] = rows
        if rows == largest:
            check_array(content, PIXELS)
        else:
            with pytest.raises(MetadataError, match="more than"):
                check_array(content, PIXELS)


# --- what is no file, and what claims more than it holds -------------------------------------------------------------

EVERY_KIND = ["zarr.json", "meta/episode_ends/zarr.json", "data/images/camera/zarr.json", "meta/episode_ends/c.0"]


@pytest.mark.parametrize("name", [*EVERY_KIND, "meta/episode_instruction/c.0.0", "data/images/camera/c.0.0.0.0"])
@pytest.mark.parametrize("kind", ["pipe", "device", "socket", "folder"])
def test_what_is_no_file_is_refused_at_once(store: TrajectoryStore, name: str, kind: str, monkeypatch) -> None:
    file = store.path / name
    file.unlink()
    if kind == "pipe":
        os.mkfifo(file)
    elif kind == "device":
        file.symlink_to("/dev/zero")
    elif kind == "folder":
        file.mkdir()
    else:
        monkeypatch.chdir(file.parent)  # the path of a socket is short
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(file.name)
    refused(store.path, r"damaged|not a trajectory store|is missing|cannot be decoded")
    with limits():
        recover(store.path, lambda *_: None)
    assert verify(TrajectoryStore.open(store.path), lambda *_: None) == []


def hostile_store(path: Path, rows: int, side: int, content: bytes | None = None) -> None:
    """One episode of black pictures of `side` pixels, in files of very few bytes, or of that `content`."""
    spec = dataclasses.replace(SPEC, cameras=one_camera(side), proprio_size=0, state_size=0)
    create_store(path, Layout(spec), {})
    black = compressed(np.zeros((16, side, side, 3), np.uint8)) if content is None else content
    with_rows(path / "data/images/camera", rows)
    for number in range(-(-rows // 16)):
        (path / f"data/images/camera/c.{number}.0.0.0").write_bytes(black)
    for number in range(-(-rows // 512)):
        (path / f"data/action/c.{number}.0").write_bytes(compressed(np.zeros((512, 2), np.float32)))
    with_rows(path / "data/action", rows)
    with_rows(path / "data/proprio", rows)
    with_rows(path / "data/state", rows)
    pictures = ColumnDigest()
    for _ in range(rows // 16 if content is None else 0):
        pictures.update(np.zeros((16, side, side, 3), np.uint8))
    empty = [column_digest(np.zeros((rows, *shape), t)) for shape, t in (((2,), "f4"), ((0,), "f4"), ((0,), "f8"))]
    digests = [pictures.digest(), *empty, column_digest(np.zeros(512, np.uint8))]
    records = make_records([rows], [0], [digests], 5)
    for name, values in (
        ("meta/episode_ends", np.array([rows])),
        ("meta/episode_seed", np.array([0])),
        ("meta/episode_record", to_bytes(records)),
        ("meta/episode_instruction", np.zeros((1, 512), np.uint8)),
    ):
        length = 64 if name.endswith("instruction") else 4096
        chunk = np.zeros((length, *values.shape[1:]), values.dtype)
        chunk[:1] = values
        (path / name / ("c.0" if values.ndim == 1 else "c.0.0")).write_bytes(compressed(chunk))
        with_rows(path / name, 1)
    edit(path / "meta/episode_ends", lambda content: content["attributes"].update({CHAIN: chain(records)}))


def with_rows(array: Path, rows: int) -> None:
    edit(array, lambda content: content["shape"].__setitem__(0, rows))


@pytest.mark.parametrize("content", [b"", b"black"])
def test_a_large_claim_in_small_files_is_refused_before_memory_is_asked_for(tmp_path: Path, content: bytes) -> None:
    hostile_store(tmp_path / "data.zarr", 16 * 400, 1152, content)
    small = "chunk 0 of data/images/camera cannot be decoded"
    with limits():
        store = TrajectoryStore.open(tmp_path / "data.zarr")
        for read in (lambda: store.episode(0), lambda: store.column("images/camera")):
            with pytest.raises(StoreError, match=small):
                read()
        assert small in verify(store, lambda *_: None)[0].what


def test_verifying_takes_the_memory_of_a_few_chunks(tmp_path: Path) -> None:
    """1.1 GB of black pictures in some kB, which is honest."""
    hostile_store(tmp_path / "data.zarr", 16 * 18, 1152)
    with limits():
        store = TrajectoryStore.open(tmp_path / "data.zarr")
        assert verify(store, lambda *_: None) == []

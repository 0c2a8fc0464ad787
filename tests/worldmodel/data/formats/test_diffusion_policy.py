"""Replay buffers as Diffusion Policy writes them: zarr format 2, by zarr itself."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numcodecs
import numpy as np
import pytest
import zarr
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from worldmodel.core.errors import UserError
from worldmodel.data.formats import zarr2
from worldmodel.data.formats.source import FormatError

BLOSC = numcodecs.Blosc(cname="zstd", clevel=5, shuffle=numcodecs.Blosc.BITSHUFFLE)
OPTIONS = {"rate_hz": 10.0, "proprio": ["agent"]}


def write(path: Path, episodes: list, compressor: object = BLOSC, floats: bool = False, **more: np.ndarray) -> Path:
    """As many actions as observations: the last observation of each episode was not recorded."""
    group = zarr.create_group(path, zarr_format=2)
    columns = {
        "img": np.concatenate([e.pixels[:-1] for e in episodes]).astype(np.float32 if floats else np.uint8),
        "action": np.concatenate([e.action for e in episodes]),
        "agent": np.concatenate([e.proprio[:-1] for e in episodes]),
        "state": np.concatenate([e.state[:-1] for e in episodes]),
        **more,
    }
    for name, values in columns.items():
        chunks = (4, *values.shape[1:-1], 2) if name == "img" else (5, *values.shape[1:])  # also cut across channels
        array = group.create_array(
            f"data/{name}", shape=values.shape, chunks=chunks, dtype=values.dtype, compressors=compressor, fill_value=0
        )
        array[:] = values
    ends = np.cumsum([len(e.action) for e in episodes])
    group.create_array("meta/episode_ends", data=ends, compressors=None)
    return path


@pytest.fixture
def buffer(tmp_path: Path, recorded) -> Path:
    return write(tmp_path / "pusht.zarr", recorded)


def test_the_last_action_of_an_episode_is_left_out(tmp_path: Path, buffer: Path, recorded, import_from, assert_holds):
    store = import_from("diffusion_policy", buffer, tmp_path / "out.zarr", **OPTIONS)
    assert_holds(store, recorded, fewer=1)
    assert (store.spec.env, store.spec.control_step_s) == ("pusht", 0.1)
    assert store.episode_seeds.tolist() == [-1, -1, -1]


def test_a_zip_file(tmp_path: Path, buffer: Path, recorded, import_from, assert_holds) -> None:
    packed = Path(shutil.make_archive(str(buffer), "zip", buffer))
    assert packed.name == "pusht.zarr.zip"
    store = import_from("diffusion_policy", packed, tmp_path / "out.zarr", **OPTIONS)
    assert_holds(store, recorded, fewer=1)
    assert store.spec.env == "pusht"


@pytest.mark.parametrize(
    "compressor",
    [None, numcodecs.Zstd(), numcodecs.LZ4(), numcodecs.Zlib(), numcodecs.GZip(), numcodecs.Blosc("lz4", shuffle=0)],
    ids=lambda c: "none" if c is None else c.codec_id,
)
def test_every_codec(tmp_path: Path, recorded, import_from, assert_holds, compressor: object) -> None:
    source = write(tmp_path / "data.zarr", recorded, compressor)
    assert_holds(import_from("diffusion_policy", source, tmp_path / "out.zarr", **OPTIONS), recorded, fewer=1)


def test_pictures_as_floating_point_numbers(tmp_path: Path, recorded, import_from, assert_holds) -> None:
    source = write(tmp_path / "data.zarr", recorded, floats=True)
    assert_holds(import_from("diffusion_policy", source, tmp_path / "out.zarr", **OPTIONS), recorded, fewer=1)


def test_a_part_of_a_column(tmp_path: Path, buffer: Path, recorded, import_from) -> None:
    options = {"rate_hz": 10.0, "proprio": ["state[1:3]", "agent[:1]"], "state": ["none"]}
    store = import_from("diffusion_policy", buffer, tmp_path / "out.zarr", **options)
    wanted = np.concatenate([recorded[1].state[:-1, 1:3], recorded[1].proprio[:-1, :1]], axis=1).astype(np.float32)
    np.testing.assert_array_equal(store.episode(1).proprio, wanted)
    assert store.spec.state_size == 0
    with pytest.raises(UserError, match=r"--proprio 'agent\[1:4\]': agent has 3 numbers"):
        import_from("diffusion_policy", buffer, tmp_path / "other.zarr", rate_hz=10.0, proprio=["agent[1:4]"])


def times(episodes: list, step: float) -> np.ndarray:
    return np.concatenate([1000 + 50 * i + np.arange(len(e.action)) * step for i, e in enumerate(episodes)])


def test_timestamps_tell_the_rate(tmp_path: Path, recorded, import_from) -> None:
    clock = times(recorded, 0.1) + np.random.default_rng(0).uniform(-0.004, 0.004, 18)
    source = write(tmp_path / "real.zarr", recorded, timestamp=clock)
    store = import_from("diffusion_policy", source, tmp_path / "out.zarr", proprio=["none"])
    assert store.spec.control_step_s == pytest.approx(0.1, rel=0.05)


def test_rows_that_are_not_evenly_spaced(tmp_path: Path, recorded, import_from) -> None:
    clock = times(recorded, 0.1)
    clock[8] += 0.05
    source = write(tmp_path / "real.zarr", recorded, timestamp=clock)
    with pytest.raises(FormatError, match=r"row 2 of episode 1 .* is 0\.50 steps from where its rate of 10 Hz puts it"):
        import_from("diffusion_policy", source, tmp_path / "out.zarr", proprio=["none"])
    import_from("diffusion_policy", source, tmp_path / "forced.zarr", proprio=["none"], rate_hz=10.0)


def change(path: Path, **values: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def grow(path: Path, codec: numcodecs.abc.Codec, size: int) -> None:
    path.write_bytes(codec.encode(np.zeros(size, np.uint8)))


def link_out(path: Path) -> None:
    path.unlink()
    path.symlink_to("/etc/passwd")


def set_ends(buffer: Path, ends: list[int]) -> None:
    (buffer / "meta/episode_ends/0").write_bytes(np.array(ends, np.int64).tobytes())


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda b: (b / "data/img/1.0.0.0").unlink(), r"data/img/1\.0\.0\.0 is missing: zarr reads it as 0"),
        (lambda b: (b / "data/img/1.0.0.0").write_bytes(b"x" * 99), r"data/img/1\.0\.0\.0 cannot be unpacked"),
        (lambda b: (b / "data/img/1.0.0.0").write_bytes(b""), r"data/img/1\.0\.0\.0 cannot be unpacked"),
        (lambda b: grow(b / "data/img/1.0.0.0", BLOSC, 10**6), r"data/img/1\.0\.0\.0 cannot be unpacked"),
        (lambda b: (b / "data/action/0.0").write_bytes(bytes(10**6)), r"data/action/0\.0 has 1,000,000 bytes: at most"),
        (lambda b: change(b / "data/img/.zarray", dtype="|O"), r"data/img/\.zarray holds '\|O': only numbers"),
        (lambda b: change(b / "data/img/.zarray", dtype=[["a", "<f4"]]), r"data/img/\.zarray holds .* only numbers"),
        (lambda b: change(b / "data/img/.zarray", compressor={"id": "pickle"}), r"packed with 'pickle': accepted are"),
        (lambda b: change(b / "data/img/.zarray", filters=[{"id": "pickle"}]), r"has filters .*: none are accepted"),
        (lambda b: change(b / "data/img/.zarray", chunks=[10**6, 12, 16, 300]), r"chunks of 57,600,000,000 bytes"),
        (lambda b: change(b / "data/img/.zarray", chunks=[0, 12, 16, 3]), r"data/img/\.zarray: shape .*, chunks"),
        (lambda b: change(b / "data/img/.zarray", zarr_format=3), "has zarr_format 3: expected 2"),
        (lambda b: change(b / "data/img/.zarray", shape=[3, 12, 16, 3]), "data/img has 3 rows, .* promises 18"),
        (lambda b: (b / "data/img/.zarray").unlink(), r"data/img/\.zarray is not there"),
        (lambda b: set_ends(b, [9, 6, 18]), "meta/episode_ends does not increase"),
        (lambda b: set_ends(b, [6, 9, 10**15]), "has 18 rows, meta/episode_ends promises"),
        (lambda b: link_out(b / "data/img/1.0.0.0"), "is a link that leads out"),
    ],
)  # fmt: skip
def test_damage_and_traps_are_named(tmp_path: Path, buffer: Path, import_from, damage: Callable, message: str) -> None:
    damage(buffer)
    with pytest.raises(FormatError, match=message):
        import_from("diffusion_policy", buffer, tmp_path / "out.zarr", **OPTIONS)


@pytest.mark.parametrize("codec", [numcodecs.Zstd(), numcodecs.LZ4(), numcodecs.Zlib()], ids=lambda c: c.codec_id)
def test_a_chunk_never_unpacks_to_more_than_its_array_says(tmp_path: Path, recorded, import_from, codec) -> None:
    source = write(tmp_path / "data.zarr", recorded, codec)
    grow(source / "data/img/1.0.0.0", codec, 10**7)
    with pytest.raises(FormatError, match=r"data/img/1\.0\.0\.0 (cannot be unpacked|has 1537 bytes)"):
        import_from("diffusion_policy", source, tmp_path / "out.zarr", **OPTIONS)


def test_missing_chunks_are_zeros_when_asked_for(tmp_path: Path, buffer: Path, recorded, import_from) -> None:
    for name in ("data/img/1.0.0.0", "data/img/1.0.0.1"):
        (buffer / name).unlink()
    store = import_from("diffusion_policy", buffer, tmp_path / "out.zarr", fill_missing=True, **OPTIONS)
    pixels = store.read("images/img", 0, store.num_rows)
    assert not pixels[4:8].any()
    np.testing.assert_array_equal(pixels[:4], recorded[0].pixels[:4, :, 2:14])


def test_a_newer_zarr_is_named(tmp_path: Path, recorded, import_from) -> None:
    group = zarr.create_group(tmp_path / "data.zarr", zarr_format=3)
    group.create_array("meta/episode_ends", data=np.array([6]))
    with pytest.raises(FormatError, match="this is zarr format 3, expected format 2"):
        import_from("diffusion_policy", tmp_path / "data.zarr", tmp_path / "out.zarr", **OPTIONS)


_SIDES = st.tuples(st.integers(1, 9), st.integers(1, 9))


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(_SIDES, min_size=1, max_size=3),
    st.sampled_from(["<f4", "|u1", "<i8", ">f8", "|b1"]),
    st.sampled_from(["C", "F"]),
    st.sampled_from([".", "/"]),
    st.data(),
)
def test_rows_are_read_as_zarr_reads_them(tmp_path_factory, sides, dtype, order, separator, data) -> None:
    shape, chunks = zip(*sides, strict=True)
    folder = tmp_path_factory.mktemp("any")
    encoding = {"name": "v2", "separator": separator}
    group = zarr.create_group(folder, zarr_format=2)
    array = group.create_array(
        "x", shape=shape, chunks=chunks, dtype=dtype, order=order, chunk_key_encoding=encoding, fill_value=0
    ).with_config({"write_empty_chunks": True})
    array[...] = np.random.default_rng(0).integers(0, 2 if dtype == "|b1" else 99, shape).astype(dtype)
    start = data.draw(st.integers(0, shape[0]))
    stop = data.draw(st.integers(start, shape[0]))
    found = zarr2.open_array(zarr2.Files(folder), "x", False).read(start, stop)
    np.testing.assert_array_equal(found, array[start:stop])
    assert found.dtype == np.dtype(dtype)

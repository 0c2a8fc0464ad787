"""Random clips from our store and from other formats, in one run: `python -m benchmarks.store.formats [option=...]`.

Options with defaults: `size=64` (image size in pixels), `episodes=40` (recorded episodes of pushing), `repeats=7` (of
the whole comparison), `clips=64` (in each repeat). `store` names a recording to use instead of making one.

Every format holds the same frames. One process reads the same random clips of 16 frames from each, from a warm page
cache. The formats take turns within each repeat, so that other programs disturb all alike, and the median counts. The
processor time of a clip (of all threads) hardly depends on other programs, and is the better measure on a busy machine.
Lossless formats must return the same bytes, or the comparison ends with an error. Formats whose package is not
installed are named. `pip install -c constraints.txt -e ".[benchmarks,formats]"` installs them all.
"""

from __future__ import annotations

import dataclasses
import io
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from rich.table import Table

from worldmodel.cli.command import fail
from worldmodel.cli.console import console
from worldmodel.core.errors import UserError, choices_message
from worldmodel.data import ClipSampler, TrajectoryStore
from worldmodel.data.store.rewriting import pack

CLIP_LENGTH = 16
_RATE = 10  # frames per second of the videos
_YARDSTICKS = ("memory map", "Lance, zstd")

Frames = NDArray[np.uint8]
Read = Callable[[int, int], Frames]
"""Frames `start:stop`, uint8 `[L, H, W, 3]`."""


@dataclasses.dataclass(frozen=True)
class Recording:
    """The recording that every format holds.

    Attributes:
        store: our store.
        frames: all frames of the store, uint8 `[N, H, W, 3]`.
        ends: row after the last one of each episode, int64 `[E]`.
    """

    store: TrajectoryStore
    frames: Frames
    ends: NDArray[np.int64]


@dataclasses.dataclass(frozen=True)
class Format:
    """One way to keep the frames.

    Attributes:
        name: name in the table.
        make: writes all frames into an empty folder and returns a function that reads from it.
        lossless: whether reading returns the same bytes.
    """

    name: str
    make: Callable[[Recording, Path], Read]
    lossless: bool = True


def memory_map(recording: Recording, folder: Path) -> Read:
    """One file of plain bytes, without compression or checks."""
    (folder / "frames.bin").write_bytes(recording.frames.tobytes())
    plain = np.memmap(folder / "frames.bin", np.uint8, "r", shape=recording.frames.shape)
    return lambda start, stop: np.array(plain[start:stop])


def our_store(recording: Recording, folder: Path) -> Read:
    """Our store. Only the images count for its size, because the other formats hold nothing else."""
    column = recording.store.layout.columns[0]
    (folder / "pixels").symlink_to((recording.store.path / recording.store.layout.array(column)).absolute())
    return lambda start, stop: recording.store.read(column, start, stop)


def packed_store(recording: Recording, folder: Path) -> Read:
    """Our store, packed. Only the images count for its size."""
    store = pack(recording.store, folder.with_name(f"{folder.name}.zarr"), lambda done, of: None)
    column = store.layout.columns[0]
    (folder / "pixels").symlink_to((store.path / store.layout.array(column)).absolute())
    return lambda start, stop: store.read(column, start, stop)


def lance_raw(recording: Recording, folder: Path) -> Read:
    """A fixed-size list of bytes for each frame, which is Lance's layout for tensors, without compression."""
    import pyarrow as pa

    flat = pa.array(recording.frames.reshape(-1))
    read = _lance(folder, pa.FixedSizeListArray.from_arrays(flat, recording.frames[0].size), {})
    shape = recording.frames.shape[1:]

    def frames(start: int, stop: int) -> Frames:
        column = read(start, stop)
        pieces = [np.asarray(piece.flatten()).reshape(-1, *shape) for piece in column.chunks]
        return np.concatenate(pieces) if len(pieces) > 1 else pieces[0]

    return frames


def lance_zstd(recording: Recording, folder: Path) -> Read:
    """A binary value for each frame, compressed by Lance with zstd at its default level."""
    blobs = [frame.tobytes() for frame in recording.frames]
    return _lance_blobs(recording, folder, blobs, {"lance-encoding:compression": "zstd"}, _from_bytes)


def lance_png(recording: Recording, folder: Path) -> Read:
    return _lance_blobs(recording, folder, [_encoded(frame, "PNG") for frame in recording.frames], {}, _decoded)


def lance_jpeg(recording: Recording, folder: Path) -> Read:
    """JPEG of quality 95 with colours at half the resolution, as in many robot data sets. It is lossy."""
    return _lance_blobs(recording, folder, [_encoded(frame, "JPEG") for frame in recording.frames], {}, _decoded)


def _lance(folder: Path, column: Any, metadata: dict[str, str]) -> Callable[[int, int], Any]:
    """Write one column. The returned function reads its rows."""
    import lance
    import pyarrow as pa

    schema = pa.schema([pa.field("pixels", column.type, nullable=False, metadata=metadata)])
    path = folder / "frames.lance"
    lance.write_dataset(pa.table([column], schema), path, data_storage_version="stable")
    dataset = lance.dataset(path)
    return lambda start, stop: dataset.take(list(range(start, stop)), columns=["pixels"]).column("pixels")


def _lance_blobs(
    recording: Recording,
    folder: Path,
    blobs: list[bytes],
    metadata: dict[str, str],
    decode: Callable[[bytes, Frames], None],
) -> Read:
    import pyarrow as pa

    read = _lance(folder, pa.array(blobs, pa.large_binary()), metadata)
    shape = recording.frames.shape[1:]

    def frames(start: int, stop: int) -> Frames:
        clip = np.empty((stop - start, *shape), np.uint8)
        for frame, blob in zip(clip, read(start, stop), strict=True):
            decode(blob.as_buffer(), frame)
        return clip

    return frames


def _from_bytes(blob: bytes, frame: Frames) -> None:
    frame.reshape(-1)[:] = np.frombuffer(blob, np.uint8)


def _encoded(frame: Frames, kind: str) -> bytes:
    content = io.BytesIO()
    Image.fromarray(frame).save(content, kind, **({"quality": 95} if kind == "JPEG" else {}))
    return content.getvalue()


def _decoded(blob: bytes, frame: Frames) -> None:
    frame[:] = np.asarray(Image.open(io.BytesIO(blob)))


def hdf5(**filters: Any) -> Callable[[Recording, Path], Read]:
    """HDF5 with chunks of one clip. They have a checksum (Fletcher-32), since our chunks have one."""

    def make(recording: Recording, folder: Path) -> Read:
        import h5py

        frames = recording.frames
        options = {key: value() if callable(value) else value for key, value in filters.items()}
        with h5py.File(folder / "frames.h5", "w") as file:
            file.create_dataset(
                "pixels", data=frames, chunks=(CLIP_LENGTH, *frames.shape[1:]), fletcher32=True, **options
            )
        # A cache of chunks would hold a large part of a small recording.
        pixels = h5py.File(folder / "frames.h5", "r", rdcc_nbytes=0)["pixels"]
        return lambda start, stop: pixels[start:stop]

    return make


def hdf5_blosc() -> Any:
    import hdf5plugin

    return hdf5plugin.Blosc(cname="zstd", clevel=1, shuffle=hdf5plugin.Blosc.NOSHUFFLE)


def videos(keyframe_every: int) -> Callable[[Recording, Path], Read]:
    """H.264 with LeRobot's settings (4:2:0, quality 30), one file for each episode. Files stay open between clips."""

    def make(recording: Recording, folder: Path) -> Read:
        starts = np.concatenate([[0], recording.ends[:-1]])
        for episode, (start, stop) in enumerate(zip(starts, recording.ends, strict=True)):
            _write_video(folder / f"{episode}.mp4", recording.frames[start:stop], keyframe_every)
        opened: dict[int, Any] = {}

        def frames(start: int, stop: int) -> Frames:
            import av

            episode = int(np.searchsorted(recording.ends, start, side="right"))
            if episode not in opened:
                opened[episode] = av.open(str(folder / f"{episode}.mp4"))
            return _read_video(opened[episode], start - int(starts[episode]), stop - start)

        return frames

    return make


def _write_video(path: Path, frames: Frames, keyframe_every: int) -> None:
    import av

    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=_RATE)
        stream.width = stream.height = frames.shape[1]
        stream.pix_fmt = "yuv420p"
        stream.options = {"crf": "30", "g": str(keyframe_every)}
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())


def _read_video(container: Any, first: int, length: int) -> Frames:
    """Decode from the keyframe at or before the first frame. Frames are identified by their times."""
    stream = container.streams.video[0]
    per_frame = Fraction(1, _RATE) / stream.time_base
    container.seek(int(first * per_frame), stream=stream)
    clip: list[Frames] = []
    for frame in container.decode(stream):
        if round(frame.pts / per_frame) >= first:
            clip.append(frame.to_ndarray(format="rgb24"))
            if len(clip) == length:
                break
    return np.stack(clip)


FORMATS = (
    Format("memory map", memory_map),
    Format("our store", our_store),
    Format("our store, packed", packed_store),
    Format("Lance, not compressed", lance_raw),
    Format("Lance, zstd", lance_zstd),
    Format("Lance, PNG", lance_png),
    Format("Lance, JPEG", lance_jpeg, lossless=False),
    Format("HDF5, gzip 1", hdf5(compression="gzip", compression_opts=1)),
    Format("HDF5, lzf", hdf5(compression="lzf")),
    Format("HDF5, blosc zstd 1", hdf5(compression=hdf5_blosc)),
    Format("MP4, keyframe every 2", videos(2), lossless=False),
    Format("MP4, keyframe every 10", videos(10), lossless=False),
)


@dataclasses.dataclass(frozen=True)
class Measured:
    """The measurements of one format.

    Attributes:
        clips_per_second: clips per second, median over all repeats.
        cpu_s: processor time of all threads for a clip [s], median over all repeats.
        num_bytes: size on disk [bytes].
    """

    clips_per_second: float
    cpu_s: float
    num_bytes: int


def compare(recording: Recording, folder: Path, repeats: int, clips: int) -> tuple[dict[str, Measured], dict[str, str]]:
    """The measurements of each format, and the missing package of each format that could not be tried.

    Raises:
        RuntimeError: when a lossless format returns other bytes than were recorded.
    """
    readers: dict[Format, Read] = {}
    missing: dict[str, str] = {}
    for number, kind in enumerate(FORMATS):
        place = folder / str(number)
        place.mkdir()
        try:
            readers[kind] = kind.make(recording, place)
        except ImportError as error:
            missing[kind.name] = error.name or str(error)
    sampler = ClipSampler(recording.ends, CLIP_LENGTH, strides=(1,), seed=0)
    check(recording, readers, sampler.sample(0, clips).rows)  # also fills the page cache
    times: dict[Format, list[tuple[float, float]]] = {kind: [] for kind in readers}
    order = np.random.default_rng(0)
    for repeat in range(repeats):
        rows = sampler.sample(repeat, clips).rows
        for position in order.permutation(len(readers)):
            kind = list(readers)[position]
            times[kind].append(seconds_per_clip(readers[kind], rows))
    sizes = {kind: sum(_file_sizes(folder / str(FORMATS.index(kind)))) for kind in readers}
    measured = {}
    for kind in readers:
        wall_s, cpu_s = (statistics.median(column) for column in zip(*times[kind], strict=True))
        measured[kind.name] = Measured(1 / wall_s, cpu_s, sizes[kind])
    return measured, missing


def check(recording: Recording, readers: dict[Format, Read], rows: NDArray[np.int64]) -> None:
    """Raises RuntimeError when a lossless format has other frames at `rows [B, L]` than the recording."""
    for kind, read in readers.items():
        for clip in rows:
            start, stop = int(clip[0]), int(clip[-1]) + 1
            found, wanted = read(start, stop), recording.frames[start:stop]
            if found.shape != wanted.shape or found.dtype != wanted.dtype:
                raise RuntimeError(f"{kind.name} returns {found.dtype} {found.shape}, not {wanted.shape}")
            if kind.lossless and not np.array_equal(found, wanted):
                raise RuntimeError(f"{kind.name} returns other frames than {start}:{stop}")


def seconds_per_clip(read: Read, rows: NDArray[np.int64]) -> tuple[float, float]:
    """Wall-clock time and processor time that `read` takes for one clip of `rows [B, L]`, on average [s]."""
    began, began_cpu = time.perf_counter(), time.process_time()
    for clip in rows:
        read(int(clip[0]), int(clip[-1]) + 1)
    return (time.perf_counter() - began) / len(rows), (time.process_time() - began_cpu) / len(rows)


def _file_sizes(folder: Path) -> Iterator[int]:
    return (f.stat().st_size for root in (folder, folder / "pixels") for f in root.rglob("*") if f.is_file())


def table(recording: Recording, measured: dict[str, Measured], missing: dict[str, str]) -> Table:
    """The measurements, with ratios to the memory map and to Lance."""
    size, rows = recording.frames.shape[1], len(recording.frames)
    result = Table(title=f"random clips of {CLIP_LENGTH} frames, {rows} frames of {size}x{size}, warm page cache")
    result.add_column("format")
    for column in ("clips/s", *(f"speed / {name}" for name in _YARDSTICKS), "CPU ms", "MB"):
        result.add_column(column, justify="right")
    for column in (f"size / {name}" for name in _YARDSTICKS):
        result.add_column(column, justify="right")
    for kind in FORMATS:
        name = kind.name if kind.lossless else f"{kind.name} (lossy)"
        if kind.name in missing:
            result.add_row(name, f"needs {missing[kind.name]}")
            continue
        mine = measured[kind.name]
        others = [measured.get(yardstick) for yardstick in _YARDSTICKS]
        speeds = ["" if o is None else f"{mine.clips_per_second / o.clips_per_second:.2f}" for o in others]
        sizes = ["" if o is None else f"{mine.num_bytes / o.num_bytes:.3f}" for o in others]
        result.add_row(
            name,
            f"{mine.clips_per_second:.0f}",
            *speeds,
            f"{mine.cpu_s * 1e3:.2f}",
            f"{mine.num_bytes / 1e6:.2f}",
            *sizes,
        )
    return result


def record(path: Path, size: int, episodes: int) -> TrajectoryStore:
    """Record episodes of pushing like `python -m envs.collect env=push`."""
    from envs.collect import CollectConfig, collect
    from envs.registry import env_options

    collect(CollectConfig(episodes, 50, 0, None, str(path)), env_options("push", image_size=size))
    return TrajectoryStore.open(path)


def main(arguments: list[str]) -> None:
    """Print the table."""
    options: dict[str, str] = {"size": "64", "episodes": "40", "repeats": "7", "clips": "64", "store": ""}
    for argument in arguments:
        name, _, value = argument.partition("=")
        if name not in options:
            raise UserError(choices_message("option", name, options))
        options[name] = value
    numbers = {name: int(value) for name, value in options.items() if name != "store"}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if options["store"]:
            store = TrajectoryStore.open(options["store"])
        else:
            store = record(folder / "data.zarr", numbers["size"], numbers["episodes"])
        recording = Recording(store, store.column(store.layout.columns[0]), store.episode_ends)
        measured, missing = compare(recording, folder, numbers["repeats"], numbers["clips"])
        console.print(table(recording, measured, missing))


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except UserError as error:
        fail(str(error))

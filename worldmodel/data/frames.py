"""All frames of a store, decoded once, for training at memory speed.

A cache is an .npy file with the frames of one camera. The store's identity and a checksum of every block of the array
follow the array in the same file, so that one rename publishes all of them. A cache is checked when it is opened.
CRC-32C processes 3 to 10 GB/s, and the check reads data that the training reads next anyway.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

import google_crc32c
import numpy as np
from numpy.typing import NDArray

from worldmodel.core.errors import UserError, choices_message
from worldmodel.core.files import replacing
from worldmodel.core.spec import CameraSpec
from worldmodel.data.store.files import open_file
from worldmodel.data.store.layout import image_column
from worldmodel.data.store.lock import WriterLock
from worldmodel.data.store.reader import TrajectoryStore

_BLOCK_BYTES = 2**20  # bytes covered by one checksum
_CHECKSUM_BYTES = 4

Progress = Callable[[int, int], None]


def load_camera_frames(
    store: TrajectoryStore, cache_path: str | Path, progress: Progress | None = None
) -> dict[str, NDArray[np.uint8]]:
    """Every frame of every camera, as `load_frames` returns them.

    The cache of a single camera is `cache_path`, for example `frames.npy`. With several cameras, the camera's name
    precedes the suffix, as in `frames.top.npy` and `frames.wrist.npy`.
    """
    path, cameras = Path(cache_path), store.spec.camera_names
    places = {name: path if len(cameras) == 1 else path.with_suffix(f".{name}{path.suffix}") for name in cameras}
    return {name: load_frames(store, place, progress, camera=name) for name, place in places.items()}


def load_frames(
    store: TrajectoryStore, cache_path: str | Path, progress: Progress | None = None, *, camera: str | None = None
) -> NDArray[np.uint8]:
    """Every frame of one camera as a read-only memory map uint8 `[N, H, W, 3]` of the .npy file `cache_path`.

    The file is made on first use, and again if it is damaged or does not match the store's present content. Every
    episode's frames are compared with the store's checksums.

    Args:
        store: the store with the frames.
        cache_path: file of the decoded frames; its folder is made.
        progress: called with (frames done, frames in all) while decoding.
        camera: name of the camera; needed only if there are several.

    Raises:
        StoreError: when a chunk of the store is missing or damaged, or an episode differs from what was recorded.
        UserError: when the store is empty, it has no such camera or several and none is named, the disk has no room, or
            another process is making the same file.
    """
    cache_path = Path(cache_path)
    if not store.num_episodes:
        raise UserError(f"{store.name} holds no episode yet: record some with `python -m envs.collect`")
    if camera is not None and camera not in store.spec.camera_names:
        raise UserError(choices_message("camera", camera, store.spec.camera_names))
    chosen = store.spec.only_camera if camera is None else store.spec.camera(camera)
    cached = _open(store, cache_path, chosen)
    if cached is None:
        cache_path.parent.mkdir(parents=True, exist_ok=True)
        with WriterLock(cache_path):
            _build(store, cache_path, chosen, progress)
        cached = _open(store, cache_path, chosen)
    assert cached is not None
    return cached


def _open(store: TrajectoryStore, path: Path, camera: CameraSpec) -> NDArray[np.uint8] | None:
    shape = (store.num_rows, *camera.shape)
    try:
        open_file(path).close()  # refuses a pipe, on which numpy would wait
        frames = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return None
    if not isinstance(frames, np.memmap) or frames.shape != shape or frames.dtype != np.uint8:
        return None
    with path.open("rb") as file:
        file.seek(frames.offset)
        checksums = _Checksums()
        for left in range(frames.nbytes, 0, -_BLOCK_BYTES):
            checksums.add(file.read(min(left, _BLOCK_BYTES)))
        identity = _identity(store, camera)
        if file.read(len(identity)) != identity:
            return None
        return frames if file.read() == checksums.content else None


class _Checksums:
    """CRC-32C of every block of an array, whose bytes may arrive in pieces of any size."""

    def __init__(self) -> None:
        self._rest = bytearray()
        self._whole = bytearray()

    def add(self, content: bytes) -> None:
        if not self._rest and len(content) == _BLOCK_BYTES:
            self._note(content)
            return
        self._rest += content
        while len(self._rest) >= _BLOCK_BYTES:
            self._note(bytes(self._rest[:_BLOCK_BYTES]))
            del self._rest[:_BLOCK_BYTES]

    @property
    def content(self) -> bytes:
        """The checksums of all bytes so far, in the format of the file."""
        return bytes(self._whole) + (_crc(bytes(self._rest)) if self._rest else b"")

    def _note(self, block: bytes) -> None:
        self._whole += _crc(block)


def _crc(block: bytes) -> bytes:
    return int(google_crc32c.value(block)).to_bytes(_CHECKSUM_BYTES, "little")


def _build(store: TrajectoryStore, path: Path, camera: CameraSpec, progress: Progress | None) -> None:
    shape = (store.num_rows, *camera.shape)
    needed, free = int(np.prod(shape)), shutil.disk_usage(path.parent).free
    if needed > free:
        raise UserError(
            f"{path} needs {needed / 1e9:.1f} GB for {shape[0]} decoded frames, the disk has {free / 1e9:.1f} GB free"
        )
    with replacing(path, one_writer=True) as file:
        header = {"descr": np.lib.format.dtype_to_descr(np.dtype(np.uint8)), "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(file, header)
        _write_frames(file, store, camera, progress)


def _write_frames(file: BinaryIO, store: TrajectoryStore, camera: CameraSpec, progress: Progress | None) -> None:
    checksums, done = _Checksums(), 0
    for block in store.blocks(image_column(camera.name)):
        content = block.tobytes()
        file.write(content)
        checksums.add(content)
        done += len(block)
        if progress is not None:
            progress(done, store.num_rows)
    file.write(_identity(store, camera) + checksums.content)


def _identity(store: TrajectoryStore, camera: CameraSpec) -> bytes:
    """The identity of a cache's content."""
    return f"{store.identity} {camera.name}\n".encode()

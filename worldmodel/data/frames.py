"""All frames of a store, decoded once, for training at memory speed."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from worldmodel.core.errors import UserError
from worldmodel.core.files import replacing
from worldmodel.data.store.lock import WriterLock
from worldmodel.data.store.reader import TrajectoryStore

_BLOCK_ROWS = 512


def load_frames(
    store: TrajectoryStore, cache_path: str | Path, progress: Callable[[int, int], None] | None = None
) -> NDArray[np.uint8]:
    """Every frame of `store` as a read-only memory map uint8 `[N, H, W, 3]` of the .npy file `cache_path`.

    The file is made on first use and whenever it does not belong to this store as it is now: the store's identity
    stands behind the array's last byte, so that one rename publishes both.

    Args:
        store: where the frames come from.
        cache_path: where the decoded frames are kept; its folder is made.
        progress: called with (frames done, frames in all) while decoding.

    Raises:
        StoreError: when a chunk of the store is missing or damaged.
        UserError: when the store is empty, the disk has no room, or another process is making the same file.
    """
    cache_path = Path(cache_path)
    if not store.num_episodes:
        raise UserError(f"{store.name} holds no episode yet: record some with `python -m envs.collect`")
    cached = _open(store, cache_path)
    if cached is None:
        cache_path.parent.mkdir(parents=True, exist_ok=True)
        with WriterLock(cache_path):
            _build(store, cache_path, progress)
        cached = _open(store, cache_path)
    assert cached is not None
    return cached


def _open(store: TrajectoryStore, path: Path) -> NDArray[np.uint8] | None:
    identity = store.identity.encode()
    shape = _shape(store)
    try:
        frames = np.load(path, mmap_mode="r", allow_pickle=False)
    except (FileNotFoundError, ValueError, EOFError):
        return None
    if not isinstance(frames, np.memmap) or frames.shape != shape or frames.dtype != np.uint8:
        return None
    with path.open("rb") as file:
        file.seek(frames.offset + frames.nbytes)
        return frames if file.read() == identity else None


def _build(store: TrajectoryStore, path: Path, progress: Callable[[int, int], None] | None) -> None:
    shape = _shape(store)
    needed, free = int(np.prod(shape)), shutil.disk_usage(path.parent).free
    if needed > free:
        raise UserError(
            f"{path} needs {needed / 1e9:.1f} GB for {shape[0]} decoded frames, the disk has {free / 1e9:.1f} GB free"
        )
    with replacing(path, one_writer=True) as file:
        header = {"descr": np.lib.format.dtype_to_descr(np.dtype(np.uint8)), "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(file, header)
        for start in range(0, shape[0], _BLOCK_ROWS):
            stop = min(start + _BLOCK_ROWS, shape[0])
            file.write(store.read("pixels", start, stop).data)
            if progress is not None:
                progress(stop, shape[0])
        file.write(store.identity.encode())


def _shape(store: TrajectoryStore) -> tuple[int, int, int, int]:
    return store.num_rows, store.spec.only_camera.height, store.spec.only_camera.height, 3

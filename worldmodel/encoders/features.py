"""Frozen features, and a cache of them, so that the encoder runs once per frame rather than per step.

Shapes: `R` frames (rows of a store), `N` tokens of a frame, `D` width, `C` channels kept.
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from worldmodel.core.files import naming, write_json
from worldmodel.encoders.base import Encoder

_BLOCK = 512


@dataclasses.dataclass(frozen=True)
class FeatureCacheKey:
    """What the cached features depend on."""

    store: str
    encoder: str
    compression: str
    rows: int
    tokens: int
    channels: int

    @property
    def shape(self) -> tuple[int, int, int]:
        """(R, N, C)."""
        return self.rows, self.tokens, self.channels


def encode_frames(encoder: Encoder, frames: NDArray[np.uint8], rows: NDArray[np.int64], device: torch.device) -> Tensor:
    """Tokens `[R, N, D]` of `frames[rows]`, float32, on the CPU."""
    parts = []
    for block in np.array_split(rows, -(-len(rows) // _BLOCK)):
        with torch.no_grad(), torch.autocast(device.type, torch.bfloat16):
            tokens = encoder.encode_frames(torch.from_numpy(frames[block]).to(device))
        parts.append(tokens.float().cpu())
    return torch.cat(parts)


def encode_store(
    encoder: Encoder,
    compression: Callable[[Tensor], Tensor],
    frames: NDArray[np.uint8],
    key: FeatureCacheKey,
    path: Path,
    device: torch.device,
    progress: Callable[[int, int], None],
) -> NDArray[np.float16]:
    """Compressed tokens `[R, N, C]` of all `frames [R, H, W, 3]`: float16, a read-only memory map of the file `path`.

    A run that was killed goes on after the last block it noted; a file made for another `key` is made anew. Raises
    OSError where it cannot be written.
    """
    note = path.with_suffix(".json")
    done = _rows_done(note, path, key)
    if done == 0:
        path.parent.mkdir(parents=True, exist_ok=True)
        note.unlink(missing_ok=True)  # it would vouch for what is about to be overwritten
        with naming(path):
            np.lib.format.open_memmap(path, mode="w+", dtype=np.float16, shape=key.shape).flush()
    if done < key.rows:
        begin = np.lib.format.open_memmap(path, mode="r").offset
        # Not through a map of the file: one that the disk has no room for kills the process.
        with naming(path), path.open("r+b") as file:
            for start in range(done, key.rows, _BLOCK):
                stop = min(start + _BLOCK, key.rows)
                tokens = encode_frames(encoder, frames, np.arange(start, stop), device)
                block = compression(tokens).numpy().astype(np.float16)
                file.seek(begin + start * block[0].nbytes)
                file.write(block.tobytes())
                if (start // _BLOCK) % 16 == 15 or stop == key.rows:
                    file.flush()
                    os.fsync(file.fileno())
                    write_json({"key": dataclasses.asdict(key), "rows_done": stop}, note)
                progress(stop, key.rows)
    return np.load(path, mmap_mode="r")


def _rows_done(note: Path, path: Path, key: FeatureCacheKey) -> int:
    try:
        content = json.loads(note.read_text())
        fits = content["key"] == dataclasses.asdict(key) and np.load(path, mmap_mode="r").shape == key.shape
        return int(content["rows_done"]) if fits else 0
    except (OSError, ValueError, KeyError):
        return 0

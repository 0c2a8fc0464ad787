"""Frozen features and their cache. With the cache, the encoder runs once per frame instead of once per training step.

Shapes: `R` frames (rows of a store), `N` tokens of a frame, `D` width, `C` channels kept.
"""

from __future__ import annotations

import dataclasses
import json
import os
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from worldmodel.core.device import autocast, pick_precision
from worldmodel.core.files import naming, write_json
from worldmodel.encoders.base import Encoder

_BLOCK = 512


class Frames(Protocol):
    """Frames that are read, or made, when they are asked for."""

    def __getitem__(self, rows: NDArray[np.int64], /) -> NDArray[np.uint8]:
        """The frames at `rows [B]`, uint8 `[B, H, W, 3]`."""


@dataclasses.dataclass(frozen=True)
class FeatureCacheKey:
    """Everything that the cached features depend on."""

    store: str
    encoder: str
    compression: str
    rows: int
    tokens: int
    channels: int
    variation: str = ""
    precision: str = ""  # of the device that encodes, which `encode_store` fills in

    @property
    def shape(self) -> tuple[int, int, int]:
        """(R, N, C)."""
        return self.rows, self.tokens, self.channels


def encode_frames(encoder: Encoder, frames: Frames, rows: NDArray[np.int64], device: torch.device) -> Tensor:
    """Tokens `[R, N, D]` of `frames[rows]`, float32, on the CPU."""
    parts = []
    for block in np.array_split(rows, -(-len(rows) // _BLOCK)):
        images = torch.from_numpy(frames[block]).to(device)
        with torch.no_grad(), autocast("auto", device):
            tokens = encoder.encode_frames(images)
        parts.append(tokens.float().cpu())
    return torch.cat(parts)


def encode_store(
    encoder: Encoder,
    compression: Callable[[Tensor], Tensor],
    frames: Frames,
    key: FeatureCacheKey,
    path: Path,
    device: torch.device,
    progress: Callable[[int, int], None],
) -> NDArray[np.float16]:
    """Compressed tokens `[R, N, C]` of all `frames [R, H, W, 3]`, float16, as a read-only memory map of file `path`.

    After a killed run, encoding resumes after the last recorded block. A file for another `key` is replaced. A block
    that is not as it was written is encoded again, with all later blocks. Raises OSError if writing fails.
    """
    key = dataclasses.replace(key, precision=pick_precision("auto", device))
    note = path.with_suffix(".json")
    checksums = _intact_blocks(note, path, key)
    done = min(len(checksums) * _BLOCK, key.rows)
    if done == 0:
        path.parent.mkdir(parents=True, exist_ok=True)
        note.unlink(missing_ok=True)  # its checksums belong to the file that is overwritten now
        with naming(path):
            np.lib.format.open_memmap(path, mode="w+", dtype=np.float16, shape=key.shape).flush()
    if done < key.rows:
        begin = np.lib.format.open_memmap(path, mode="r").offset
        # Not through a memory map, since writing to a map kills the process if the disk is full.
        with naming(path), path.open("r+b") as file:
            for start in range(done, key.rows, _BLOCK):
                stop = min(start + _BLOCK, key.rows)
                tokens = encode_frames(encoder, frames, np.arange(start, stop), device)
                block = compression(tokens).numpy().astype(np.float16)
                file.seek(begin + start * block[0].nbytes)
                file.write(block.tobytes())
                checksums.append(zlib.crc32(block.tobytes()))
                if (start // _BLOCK) % 16 == 15 or stop == key.rows:
                    file.flush()
                    os.fsync(file.fileno())
                    write_json({"key": dataclasses.asdict(key), "block": _BLOCK, "checksums": checksums}, note)
                progress(stop, key.rows)
    return np.load(path, mmap_mode="r")


def _intact_blocks(note: Path, path: Path, key: FeatureCacheKey) -> list[int]:
    """Checksums of the intact blocks that were written for `key`, up to the first damaged one."""
    try:
        content = json.loads(note.read_text())
        features = np.load(path, mmap_mode="r")
        fits = content["key"] == dataclasses.asdict(key) and content["block"] == _BLOCK
        if not fits or features.shape != key.shape or features.dtype != np.float16:
            return []
        intact: list[int] = []
        for number, checksum in enumerate(content["checksums"]):
            block = features[number * _BLOCK : (number + 1) * _BLOCK]
            if not len(block) or zlib.crc32(block.tobytes()) != checksum:
                break
            intact.append(checksum)
        return intact
    except (OSError, EOFError, ValueError, KeyError, TypeError):
        return []

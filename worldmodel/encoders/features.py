"""Frozen features and their cache. With the cache, the encoder runs once per frame instead of once per training step.

Shapes: `R` frames (rows of a store), `N` tokens of a frame, `D` width, `C` channels kept.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from worldmodel.core.device import autocast, pick_precision
from worldmodel.core.row_cache import cached_rows
from worldmodel.core.threads import map_in_threads
from worldmodel.encoders.base import Encoder

# Frames that are encoded at once. On a CPU, the tensors of more are too large to be kept for the next ones
# (`worldmodel.core.machine.reuse_freed_memory`).
_AT_ONCE, _AT_ONCE_ON_CPU = 512, 128


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

    def encode(block: NDArray[np.int64]) -> Tensor:
        images = torch.from_numpy(frames[block]).to(device)
        with torch.no_grad(), autocast("auto", device):
            return encoder.encode_frames(images).float().cpu()

    most = _AT_ONCE_ON_CPU if device.type == "cpu" else _AT_ONCE
    return torch.cat(map_in_threads(encode, np.array_split(rows, -(-len(rows) // most)), device))


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

    `cached_rows` says how an interrupted run goes on. Raises OSError if writing fails.
    """
    key = dataclasses.replace(key, precision=pick_precision("auto", device))

    def encode(start: int, stop: int) -> NDArray[np.float16]:
        tokens = encode_frames(encoder, frames, np.arange(start, stop), device)
        return compression(tokens).numpy().astype(np.float16)

    return cached_rows(path, dataclasses.asdict(key), key.shape, np.float16, encode, progress)

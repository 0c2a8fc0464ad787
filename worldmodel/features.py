"""Frozen features: their normalisation, and a cache so that the encoder runs once per frame rather than per step.

Shapes: `R` frames (rows of a store), `N` tokens of a frame, `D` width, `P` proprioception, `A` action.
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from worldmodel.vit import VisionTransformer

_BLOCK = 512


class Normaliser(nn.Module):
    """Dataset statistics, kept with the model as buffers: `(value - mean) / std`.

    Features lose the mean of their position, so that what never changes in a scene weighs nothing, and are divided by
    one standard deviation per channel, pooled over positions: a place where nothing ever happens is not blown up.
    """

    feature_mean: Tensor
    feature_std: Tensor
    proprio_mean: Tensor
    proprio_std: Tensor
    action_mean: Tensor
    action_std: Tensor

    def __init__(self, num_tokens: int, token_size: int, proprio_size: int, action_size: int) -> None:
        super().__init__()
        self.register_buffer("feature_mean", torch.zeros(num_tokens, token_size))
        self.register_buffer("feature_std", torch.ones(token_size))
        for name, size in (("proprio", proprio_size), ("action", action_size)):
            self.register_buffer(f"{name}_mean", torch.zeros(size))
            self.register_buffer(f"{name}_std", torch.ones(size))

    def set_features(self, sample: Tensor) -> None:
        """Take the feature statistics of `sample [R, N, D]`."""
        mean = sample.mean(0)
        self.feature_mean.copy_(mean)
        self.feature_std.copy_((sample - mean).pow(2).mean((0, 1)).sqrt().clamp_min(1e-4))

    def features(self, raw: Tensor) -> Tensor:
        """Standardise `[..., N, D]`."""
        return (raw.float() - self.feature_mean) / self.feature_std

    def proprio(self, raw: Tensor) -> Tensor:
        """Standardise `[..., P]`."""
        return (raw - self.proprio_mean) / self.proprio_std

    def actions(self, raw: Tensor) -> Tensor:
        """Standardise `[..., A]`."""
        return (raw - self.action_mean) / self.action_std


@dataclasses.dataclass(frozen=True)
class FeatureCacheKey:
    """What the cached features depend on."""

    store: str
    encoder: str
    rows: int
    tokens: int
    width: int


def encode_store(
    encoder: VisionTransformer,
    frames: NDArray[np.uint8],
    key: FeatureCacheKey,
    path: Path,
    device: torch.device,
    progress: Callable[[int, int], None],
) -> NDArray[np.float16]:
    """Features `[R, N, D]` of all `frames [R, H, W, 3]`, float16, as a read-only memory map of the file `path`.

    A run that was killed goes on after the last whole block; a file made for another `key` is made anew.
    """
    note = path.with_suffix(".json")
    shape = (key.rows, key.tokens, key.width)
    done = _blocks_done(note, path, key)
    if done == 0:
        path.parent.mkdir(parents=True, exist_ok=True)
        note.unlink(missing_ok=True)  # it would vouch for what is about to be overwritten
        np.lib.format.open_memmap(path, mode="w+", dtype=np.float16, shape=shape).flush()
    if done < key.rows:
        cache = np.lib.format.open_memmap(path, mode="r+")
        for start in range(done, key.rows, _BLOCK):
            stop = min(start + _BLOCK, key.rows)
            pixels = torch.from_numpy(np.array(frames[start:stop])).to(device)
            with torch.no_grad(), torch.autocast(device.type, torch.bfloat16):
                encoded = encoder.encode_frames(pixels)
            cache[start:stop] = encoded.float().cpu().numpy().astype(np.float16)
            if (start // _BLOCK) % 16 == 15 or stop == key.rows:
                cache.flush()
                write_json({"key": dataclasses.asdict(key), "rows_done": stop}, note)
            progress(stop, key.rows)
        del cache
    return np.load(path, mmap_mode="r")


def _blocks_done(note: Path, path: Path, key: FeatureCacheKey) -> int:
    try:
        content = json.loads(note.read_text())
        fits = content["key"] == dataclasses.asdict(key) and np.load(path, mmap_mode="r").shape[0] == key.rows
        return int(content["rows_done"]) if fits else 0
    except (OSError, ValueError, KeyError):
        return 0


def write_json(content: Any, path: Path) -> None:
    """Write readable JSON; the old file or the new one is there, whatever happens."""
    temporary = path.with_name(path.name + ".tmp")
    with temporary.open("w") as file:
        json.dump(content, file, indent=2)
        file.write("\n")
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)

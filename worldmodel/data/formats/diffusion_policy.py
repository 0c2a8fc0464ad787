"""Diffusion Policy's replay buffer, which is a zarr group of format 2, as a folder or as `.zarr.zip`.

    data/<key>           [N, ...]   all episodes, one after the other
    meta/episode_ends    [E]        row after the last one of each episode

Row t holds the observation at t and the action taken then. The format has no field for the control rate. It is inferred
from `data/timestamp` [s], if that exists, as in recordings of real robots.

Layout: `diffusion_policy/common/replay_buffer.py` of https://github.com/real-stanford/diffusion_policy.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from worldmodel.data.clips import episode_starts
from worldmodel.data.formats import zarr2
from worldmodel.data.formats.images import holds_pictures
from worldmodel.data.formats.limits import MOST_COLUMNS, MOST_EPISODES, check_row, fingerprint, require
from worldmodel.data.formats.mapping import Choice
from worldmodel.data.formats.source import Facts, Feature, Length, Source

_ENDS, _TIME = "meta/episode_ends", "timestamp"
_BLOCK_BYTES = 32_000_000


class DiffusionPolicySource(Source):
    """A replay buffer. See the module's docstring."""

    def __init__(self, path: Path, fill_missing: bool = False) -> None:
        self._files = zarr2.Files(path)
        ends = zarr2.open_array(self._files, _ENDS, fill_missing)
        require(
            len(ends.shape) == 1 and ends.dtype.kind in "iu" and 0 < len(ends) <= MOST_EPISODES,
            f"{path}: {_ENDS} is {ends.dtype} {list(ends.shape)}: expected 1 to {MOST_EPISODES:,} whole numbers",
        )
        self._ends = ends.read(0, len(ends)).astype(np.int64)
        self._starts = episode_starts(self._ends)
        require(bool((self._ends > self._starts).all()), f"{path}: {_ENDS} does not increase")
        names = [name for name in self._files.names_under("data") if not name.startswith(".")]
        require(len(names) <= MOST_COLUMNS, f"{path}: data has {len(names)} arrays: at most {MOST_COLUMNS:,}")
        self._arrays = {name: zarr2.open_array(self._files, f"data/{name}", fill_missing) for name in names}
        for name, array in self._arrays.items():
            require(
                len(array) >= self._ends[-1],
                f"{path}: data/{name} has {len(array)} rows, {_ENDS} promises {self._ends[-1]}",
            )
        features = {name: _feature(name, array, path) for name, array in self._arrays.items() if name != _TIME}
        self._times = self._arrays.get(_TIME)
        if self._times is not None and len(self._times.shape) != 1:
            self._times = None
        name = path.name.removesuffix(".zip").removesuffix(".zarr")
        usual = {role: role for role in ("action", "state", "reward")}
        super().__init__(path, Facts("Diffusion Policy", name, usual=usual), features)
        self.facts = dataclasses.replace(self.facts, rate_hz=self._rate())

    def lengths(self, choice: Choice) -> list[Length]:
        return [Length(int(rows), int(rows)) for rows in self._ends - self._starts]

    def column(self, episode: int, name: str, rows: int) -> NDArray[Any]:
        start = int(self._starts[episode])
        return self._arrays[name].read(start, start + rows)

    def frames(self, episode: int, name: str, rows: int) -> Iterator[NDArray[Any]]:
        array, start = self._arrays[name], int(self._starts[episode])
        per_row = max(1, math.prod(array.shape[1:]) * array.dtype.itemsize)
        # A block is a multiple of chunks, so that no chunk is unpacked twice.
        block = max(1, _BLOCK_BYTES // per_row // array.chunks[0]) * array.chunks[0]
        low = start
        while low < start + rows:
            high = min(start + rows, low - low % block + block)
            yield from array.read(low, high)
            low = high

    def timestamps(self, episode: int, rows: int) -> NDArray[Any] | None:
        if self._times is None:
            return None
        start = int(self._starts[episode])
        return self._times.read(start, start + rows).astype(np.float64)

    def fingerprint(self) -> str:
        if self.path.is_file():
            return fingerprint(self.path.parent, [self.path], [self.path])
        files = [path for path in self.path.rglob("*") if path.is_file()]
        return fingerprint(self.path, files, [path for path in files if path.name == ".zarray"])

    def close(self) -> None:
        self._files.close()

    def _rate(self) -> float | None:
        """The rate of the first episode's median time step, rounded to three digits because clocks are not exact."""
        times = self.timestamps(0, int(self._ends[0]))
        if times is None or len(times) < 2:
            return None
        step = float(np.median(np.diff(times)))
        return float(f"{1 / step:.3g}") if step > 0 else None


def _feature(name: str, array: zarr2.Array2, path: Path) -> Feature:
    row = array.shape[1:]
    image = holds_pictures(row, array.dtype)
    check_row(row, image, f"{path}: data/{name}")
    return Feature(name, row, str(array.dtype), image)

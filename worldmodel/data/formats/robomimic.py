"""robomimic data sets, which are HDF5 files with one group per demonstration.

    data                 attributes `total` (steps in all), `env_args` (JSON: env_name, env_version, env_kwargs)
    data/demo_0          attribute `num_samples`, T
    data/demo_0/obs/<key>       [T, ...]
    data/demo_0/next_obs/<key>  [T, ...]    observations one step later; not in every file
    data/demo_0/actions         [T, A]
    data/demo_0/states          [T, S]      the simulator's states
    data/demo_0/rewards         [T]

`next_obs` ends with the observation that the last action led to. That observation is taken if all chosen columns have
it (`states` never does). Otherwise the last action is left out.

Layout: https://robomimic.github.io/docs/datasets/overview.html (read for v0.3 to v0.5, which do not differ in it).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from worldmodel.data.formats import hdf5
from worldmodel.data.formats.limits import MOST_EPISODES, MOST_ROWS, fingerprint, number, parse_json, require
from worldmodel.data.formats.mapping import Choice
from worldmodel.data.formats.source import Facts, FormatError, Length, Source

_DEMO = re.compile(r"demo_(\d{1,9})")
_OBS, _NEXT, _DONES = "obs/", "next_obs/", "dones"


class RobomimicSource(Source):
    """A robomimic data set. See the module's docstring."""

    def __init__(self, path: Path) -> None:
        self._file = hdf5.open_hdf5(path)
        self._data = hdf5.subgroup(self._file, "data", path)
        names = hdf5.names_in(self._data, MOST_EPISODES, path)
        numbers = sorted(int(match[1]) for name in names if (match := _DEMO.fullmatch(name)))
        require(bool(numbers), f"{path}: data has no demo_0, demo_1, ...: it is not a robomimic data set")
        self._demos = [f"demo_{index}" for index in numbers]
        first = hdf5.subgroup(self._data, self._demos[0], path)
        found = {feature.name: feature for feature in hdf5.features_in(first, "", path)}
        features = {name: f for name, f in found.items() if not name.startswith(_NEXT) and name != _DONES}
        super().__init__(path, _facts(self._data, path), features)
        self._final = False  # whether the last observation is taken from next_obs

    def lengths(self, choice: Choice) -> list[Length]:
        first = hdf5.subgroup(self._data, self._demos[0], self.path)
        following = [self._following(first, name) for name in choice.observed]
        self._final = all(isinstance(found, h5py.Dataset) for found in following)
        lengths = [self._length(demo, choice) for demo in self._demos]
        total = hdf5.whole_attribute(self._data, "total", self.path)
        steps = sum(length.actions for length in lengths)
        require(total in (None, steps), f"{self.path}: data says total {total}, its demonstrations have {steps} steps")
        return lengths

    def column(self, episode: int, name: str, rows: int) -> NDArray[Any]:
        group = hdf5.subgroup(self._data, self._demos[episode], self.path)
        data = hdf5.dataset(group, name, self.path)
        kept = hdf5.rows_of(data, 0, min(rows, len(data)), self.path)
        return kept if len(kept) == rows else np.concatenate([kept, [self._last(group, name)]])

    def frames(self, episode: int, name: str, rows: int) -> Iterator[NDArray[Any]]:
        group = hdf5.subgroup(self._data, self._demos[episode], self.path)
        data = hdf5.dataset(group, name, self.path)
        yield from hdf5.pictures_of(data, 0, min(rows, len(data)), self.path)
        if rows > len(data):
            yield self._last(group, name)

    def fingerprint(self) -> str:
        return fingerprint(self.path.parent, [self.path], [self.path])

    def close(self) -> None:
        self._file.close()

    def _length(self, demo: str, choice: Choice) -> Length:
        group = hdf5.subgroup(self._data, demo, self.path)
        rows = {name: len(hdf5.dataset(group, name, self.path)) for name in choice.observed}
        actions = {part.name: len(hdf5.dataset(group, part.name, self.path)) for part in choice.action}
        counts = rows | actions
        promised = hdf5.whole_attribute(group, "num_samples", self.path)
        require(
            len({*counts.values(), promised} - {None}) == 1,
            f"{self.path}: columns of {demo} have {counts} rows, its num_samples says {promised}",
        )
        count = next(iter(counts.values()))
        require(count <= MOST_ROWS, f"{self.path}: {demo} has {count:,} rows: at most {MOST_ROWS:,}")
        if not self._final or count == 0:
            return Length(count, count)
        for name in choice.observed:
            following = self._following(group, name)
            require(
                isinstance(following, h5py.Dataset) and len(following) == count,
                f"{self.path}: {demo} has no next_obs of {count} rows for {name}, as {self._demos[0]} has",
            )
        return Length(count + 1, count)

    def _following(self, group: h5py.Group, name: str) -> h5py.Group | h5py.Dataset | None:
        if not name.startswith(_OBS):
            return None
        return hdf5.member(group, _NEXT + name.removeprefix(_OBS), self.path)

    def _last(self, group: h5py.Group, name: str) -> NDArray[Any]:
        data = hdf5.dataset(group, _NEXT + name.removeprefix(_OBS), self.path)
        last: NDArray[Any] = hdf5.rows_of(data, len(data) - 1, len(data), self.path)[0]
        return last


def _facts(data: h5py.Group, path: Path) -> Facts:
    text = hdf5.text_attribute(data, "env_args", path)
    told = {} if text is None else parse_json(text, f"{path}: attribute env_args of data")
    if not isinstance(told, dict):
        raise FormatError(f"{path}: attribute env_args of data is not a JSON object")
    options = told.get("env_kwargs")
    rate = options.get("control_freq") if isinstance(options, dict) else None
    version = told.get("env_version")
    return Facts(
        format=f"robomimic ({version})" if isinstance(version, str) else "robomimic",
        env=told["env_name"] if isinstance(told.get("env_name"), str) else path.stem,
        rate_hz=None if rate is None else number(rate, 1e-3, 1e5, f"{path}: control_freq in env_args"),
        usual={"action": "actions", "state": "states", "reward": "rewards"},
        rows="one observation more than actions, where next_obs has all columns; else the last action is left out",
    )

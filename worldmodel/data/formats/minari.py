"""Minari data sets, which are folders with `data/main_data.hdf5` and `data/metadata.json`.

    episode_0                attributes `id`, `total_steps` (T), `seed`
    episode_0/observations   [T + 1, ...], or groups of them for Dict spaces (and `_index_0`, ... for Tuple spaces)
    episode_0/actions        [T, ...], or groups as for observations
    episode_0/rewards, terminations, truncations   [T]
    episode_0/infos/...      [T + 1, ...]

The metadata have the spaces (`observation_space`, `action_space` as JSON), `total_episodes` and `total_steps`. Images
are stored as arrays or, since Minari 0.5, as JPEG with one byte string per image.

Layout: https://minari.farama.org/content/dataset_standards/ and Minari's own `hdf5_storage.py`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from worldmodel.data.formats import hdf5
from worldmodel.data.formats.images import Layout, decode_picture
from worldmodel.data.formats.limits import (
    MOST_EPISODES,
    MOST_ROWS,
    fingerprint,
    inside,
    parse_json,
    read_json,
    require,
    whole_number,
)
from worldmodel.data.formats.mapping import Choice
from worldmodel.data.formats.source import UNKNOWN_SEED, Facts, Feature, FormatError, Length, Source

_OBSERVATIONS, _ACTIONS = "observations", "actions"
_REWARDS = "rewards"
_STEP_COLUMNS = ("terminations", "truncations")  # never an observation


class MinariSource(Source):
    """A Minari data set. See the module's docstring."""

    def __init__(self, path: Path) -> None:
        folder = path if (path / "metadata.json").is_file() else path / "data"
        self._metadata_path = inside(path, str((folder / "metadata.json").relative_to(path)), "metadata.json")
        told = read_json(self._metadata_path)
        if not isinstance(told, dict):
            raise FormatError(f"{self._metadata_path} is not a JSON object")
        kind = told.get("data_format", "hdf5")
        require(kind == "hdf5", f"{self._metadata_path} says data_format {kind!r}: only hdf5 is read")
        count = whole_number(told.get("total_episodes"), 1, MOST_EPISODES, f"{self._metadata_path}: total_episodes")
        self._steps = whole_number(told.get("total_steps"), 1, 2**53, f"{self._metadata_path}: total_steps")
        self._main_path = inside(path, str((folder / "main_data.hdf5").relative_to(path)), "main_data.hdf5")
        self._file = hdf5.open_hdf5(self._main_path)
        self._episodes = [f"episode_{index}" for index in range(count)]
        first = hdf5.subgroup(self._file, self._episodes[0], self._main_path)
        spaces = {name: _space(told, name, self._metadata_path) for name in ("observation_space", "action_space")}
        boxes = _boxes(spaces["observation_space"], _OBSERVATIONS) | _boxes(spaces["action_space"], _ACTIONS)
        features = {
            feature.name: _as_coded(feature, boxes.get(feature.name))
            for feature in hdf5.features_in(first, "", self._main_path)
            if feature.name not in _STEP_COLUMNS
        }
        super().__init__(path, _facts(told, path, boxes.get(_ACTIONS)), features)

    def lengths(self, choice: Choice) -> list[Length]:
        lengths = [self._length(episode, choice) for episode in self._episodes]
        steps = sum(length.actions for length in lengths)
        require(
            steps == self._steps, f"{self._metadata_path} says total_steps {self._steps}, its episodes have {steps}"
        )
        count = len(hdf5.names_in(self._file, MOST_EPISODES, self._main_path))
        require(
            count == len(self._episodes),
            f"{self._main_path} has {count} episodes, {self._metadata_path} says {len(self._episodes)}",
        )
        return lengths

    def column(self, episode: int, name: str, rows: int) -> NDArray[Any]:
        return hdf5.rows_of(self._dataset(episode, name), 0, rows, self._main_path)

    def frames(self, episode: int, name: str, rows: int) -> Iterator[NDArray[Any]]:
        stored = hdf5.pictures_of(self._dataset(episode, name), 0, rows, self._main_path)
        if self.features[name].dtype != "png/jpeg":
            yield from stored
            return
        for row, coded in enumerate(stored):
            where = f"row {row} of {name} in {self._episodes[episode]} of {self._main_path}"
            yield decode_picture(np.asarray(coded, np.uint8).tobytes(), where)

    def seed(self, episode: int) -> int:
        group = hdf5.subgroup(self._file, self._episodes[episode], self._main_path)
        value = hdf5.attribute(group, "seed", self._main_path)
        small = isinstance(value, np.integer | int) and 0 <= int(value) < 2**63
        return int(value) if small else UNKNOWN_SEED

    def fingerprint(self) -> str:
        files = [self._metadata_path, self._main_path]
        return fingerprint(self.path, files, files)

    def close(self) -> None:
        self._file.close()

    def _dataset(self, episode: int, name: str) -> h5py.Dataset:
        group = hdf5.subgroup(self._file, self._episodes[episode], self._main_path)
        return hdf5.dataset(group, name, self._main_path)

    def _length(self, episode: str, choice: Choice) -> Length:
        group = hdf5.subgroup(self._file, episode, self._main_path)
        actions = {part.name: len(hdf5.dataset(group, part.name, self._main_path)) for part in choice.action}
        steps = next(iter(actions.values()))
        promised = hdf5.whole_attribute(group, "total_steps", self._main_path)
        require(
            len({*actions.values(), promised} - {None}) == 1 and steps <= MOST_ROWS,
            f"{self._main_path}: actions of {episode} have {actions} rows, its total_steps says {promised}",
        )
        for name in choice.observed:
            rows = len(hdf5.dataset(group, name, self._main_path))
            require(
                rows == steps + 1,
                f"{self._main_path}: {name} of {episode} has {rows} rows: expected {steps + 1}, one more than actions",
            )
        return Length(steps + 1, steps)


def _facts(told: dict[str, Any], path: Path, action: dict[str, Any] | None) -> Facts:
    name = told.get("dataset_id")
    low, high = (_bounds(action, side) for side in ("low", "high"))
    known = low is not None and high is not None
    return Facts(
        format="Minari",
        env=name if isinstance(name, str) else path.name,
        action_low=low if known else None,
        action_high=high if known else None,
        usual={"action": _ACTIONS, "reward": _REWARDS},
        rows="one observation more than actions, as in the store",
    )


def _space(told: dict[str, Any], name: str, path: Path) -> dict[str, Any]:
    text = told.get(name)
    space = parse_json(text, f"{path}: {name}") if isinstance(text, str) else {}
    if not isinstance(space, dict):
        raise FormatError(f"{path}: {name} is not a JSON object")
    if name == "action_space":
        kind = space.get("type", "Box")
        require(kind in ("Box", "Dict", "Tuple"), f"{path}: actions are {kind}: only continuous actions are read")
    return space


def _boxes(space: dict[str, Any], name: str, deep: int = 4) -> dict[str, dict[str, Any]]:
    """Box spaces by the names of their columns."""
    if space.get("type") == "Box":
        return {name: space}
    inner = space.get("subspaces")
    if isinstance(inner, list):
        inner = {f"_index_{i}": part for i, part in enumerate(inner)}
    found: dict[str, dict[str, Any]] = {}
    if isinstance(inner, dict) and deep:
        for key, part in inner.items():
            if isinstance(part, dict):
                found |= _boxes(part, f"{name}/{key}", deep - 1)
    return found


def _bounds(box: dict[str, Any] | None, side: str) -> tuple[float, ...] | None:
    """Bounds of a Box; None if it has none or infinite ones."""
    values = np.asarray(box.get(side), dtype=object).reshape(-1).tolist() if box is not None else []
    plain = [v for v in values if isinstance(v, int | float) and not isinstance(v, bool) and abs(v) < 1e30]
    return tuple(float(v) for v in plain) if plain and len(plain) == len(values) else None


def _as_coded(feature: Feature, box: dict[str, Any] | None) -> Feature:
    """A column of JPEG images with the shape of its space, which the file does not have. Others are unchanged."""
    shape = box.get("shape") if box is not None else None
    picture = tuple(shape) if isinstance(shape, list) and all(isinstance(n, int) for n in shape) else ()
    if feature.dtype != "png/jpeg" and not (feature.dtype == "uint8" and len(feature.shape) == 1 < len(picture)):
        return feature
    return dataclasses.replace(
        feature, shape=picture, dtype="png/jpeg", is_image=not picture or Layout.of(picture) is not None
    )

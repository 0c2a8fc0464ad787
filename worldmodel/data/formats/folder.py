"""A folder of episodes, as plain files of images and numbers.

    run/episode_000/0001.png, 0002.png, ...     images (PNG or JPEG), in the order of the numbers in their names;
                                                or a folder of images per camera; or videos, camera.mp4
    run/episode_000/action.csv                  one row per action; a line of names above the numbers is optional
    run/episode_000/proprio.npy, state.csv      one row per observation, as .npy or .csv
    run/episode_000/reward.csv                  one number per action

    run/first.mp4, first.csv, first.proprio.npy   or each episode as a video, with its actions under the same name

An episode has as many observations as actions, or one more. If it has as many, its last action has no outcome.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from worldmodel.core.spec import CAMERA
from worldmodel.data.formats.images import decode_picture
from worldmodel.data.formats.limits import (
    MOST_CHUNK_BYTES,
    MOST_EPISODES,
    MOST_IMAGE_BYTES,
    MOST_ROWS,
    check_row,
    fingerprint,
    is_same_rate,
    natural,
    not_linked_out,
    read_text,
    require,
    require_file,
)
from worldmodel.data.formats.mapping import Choice
from worldmodel.data.formats.source import Facts, Feature, FormatError, Length, Source
from worldmodel.data.formats.video import VideoReader

_PICTURES, _NUMBERS, _VIDEO = (".png", ".jpg", ".jpeg"), (".csv", ".npy"), ".mp4"
# The meaning of these names is clear. If they were ignored, another file could be taken for the action or proprio.
_USUAL: Final = {"action": "action", "actions": "action", "proprio": "proprio", "state": "state"}
_OTHER_KINDS = (".npz", ".txt", ".tsv", ".json", ".h5", ".hdf5", ".parquet", ".pkl", ".pt")
_MOST_CSV_BYTES = 500_000_000
_ROWS = "one observation more than actions is all taken; where there are as many, the last action is left out"


class FolderSource(Source):
    """See the module's docstring."""

    def __init__(self, path: Path) -> None:
        require(path.is_dir(), f"{path} is not a folder")
        self._root = path
        self._episodes = _episodes(path)
        require(bool(self._episodes), f"{path} has no episode: expected sub-folders or videos (.mp4)")
        require(len(self._episodes) <= MOST_EPISODES, f"{path} has {len(self._episodes):,} episodes")
        features, rate = {}, None
        for name, place in self._episodes[0].items():
            if isinstance(place, list):
                features[name] = Feature(name, decode_picture(_bytes(place[0]), str(place[0])).shape, "png/jpeg", True)
            elif place.suffix == _VIDEO:
                video = VideoReader(place)
                features[name], rate = Feature(name, (video.height, video.width, 3), "video", True), video.rate_hz
                video.close()
            else:
                values = _read_numbers(place)
                features[name] = Feature(name, values.shape[1:], str(values.dtype), False, _heading(place))
        usual = {role: role for role in ("action", "proprio", "state", "reward")}
        if "actions" in features and "action" not in features:
            usual["action"] = "actions"
        super().__init__(path, Facts("folder", path.resolve().name, rate, usual=usual, rows=_ROWS), features)

    def lengths(self, choice: Choice) -> list[Length]:
        lengths = []
        for number in range(len(self._episodes)):
            where = f"episode {number} of {self.path}"
            rows = {name: self._count(number, name) for name in choice.observed}
            actions = {part.name: self._count(number, part.name) for part in choice.action}
            require(len({*rows.values()}) == 1 == len({*actions.values()}), f"{where} has {rows | actions} rows")
            count = next(iter(rows.values()))
            require(count <= MOST_ROWS, f"{where} has more than {MOST_ROWS:,} pictures")
            lengths.append(Length(count, next(iter(actions.values()))))
        return lengths

    def column(self, episode: int, name: str, rows: int) -> NDArray[Any]:
        values = _read_numbers(self._place(episode, name))
        require(len(values) >= rows, f"{self._place(episode, name)} has {len(values)} rows, not {rows}")
        return values[:rows]

    def frames(self, episode: int, name: str, rows: int) -> Iterator[NDArray[Any]]:
        place = self._episodes[episode].get(name)
        if isinstance(place, list):
            for picture in place[:rows]:
                yield decode_picture(_bytes(not_linked_out(self._root, picture)), str(picture))
            return
        video = VideoReader(self._place(episode, name))
        try:
            yield from video.frames(rows)
        finally:
            video.close()

    def fingerprint(self) -> str:
        files: list[Path] = []
        for episode in self._episodes:
            for place in episode.values():
                files += place if isinstance(place, list) else [place]
        numbers = [file for file in files if file.suffix in _NUMBERS]
        return fingerprint(self._root, files, numbers)

    def _place(self, episode: int, name: str) -> Path:
        place = self._episodes[episode].get(name)
        if not isinstance(place, Path):
            raise FormatError(f"episode {episode} of {self.path} has no {name}")
        return not_linked_out(self._root, place)

    def _count(self, episode: int, name: str) -> int:
        place = self._episodes[episode].get(name)
        if isinstance(place, list):
            return len(place)
        place = self._place(episode, name)
        if place.suffix != _VIDEO:
            return len(_read_numbers(place))
        video = VideoReader(place)
        try:
            rate = self.facts.rate_hz
            require(
                rate is None or is_same_rate(video.rate_hz, rate),
                f"{place} has {video.rate_hz:g} pictures per second, the first video has {rate or 0:g}: all have to be "
                "alike",
            )
            return video.count()
        finally:
            video.close()


def _episodes(root: Path) -> list[dict[str, Path | list[Path]]]:
    """The columns of each episode. A column is a file, or a camera's images in order."""
    entries = sorted((entry for entry in root.iterdir() if not entry.name.startswith(".")), key=natural)
    found: list[dict[str, Path | list[Path]]] = []
    for entry in entries:
        if entry.is_dir():
            found.append(_folder_columns(not_linked_out(root, entry)))
        elif entry.suffix.lower() == _VIDEO:
            columns: dict[str, Path | list[Path]] = {CAMERA: entry}
            for other in entries:
                name = other.stem.removeprefix(entry.stem).lstrip(".") or "action"
                if other.suffix.lower() in _NUMBERS and other.name.startswith(f"{entry.stem}."):
                    _add(columns, name, other)
                elif other.name.startswith(f"{entry.stem}."):
                    _require_kind(other, name)
            found.append(columns)
    return found


def _folder_columns(folder: Path) -> dict[str, Path | list[Path]]:
    columns: dict[str, Path | list[Path]] = {}
    entries = sorted((entry for entry in folder.iterdir() if not entry.name.startswith(".")), key=natural)
    if pictures := [entry for entry in entries if entry.suffix.lower() in _PICTURES]:
        columns[CAMERA] = pictures
    for entry in entries:
        if entry.is_dir():
            inner = sorted((e for e in entry.iterdir() if e.suffix.lower() in _PICTURES), key=natural)
            if inner:
                _add(columns, entry.name, inner)
        elif entry.suffix.lower() in (*_NUMBERS, _VIDEO):
            _add(columns, entry.stem, entry)
        else:
            _require_kind(entry, entry.stem)
    return columns


def _require_kind(file: Path, name: str) -> None:
    known = name not in _USUAL or file.suffix.lower() not in _OTHER_KINDS
    require(known, f"{file}: {_USUAL.get(name)} is read from {' or '.join(_NUMBERS)}, not from {file.suffix}")


def _add(columns: dict[str, Path | list[Path]], name: str, place: Path | list[Path]) -> None:
    require(name not in columns, f"two columns are called {name}: {columns.get(name)} and {place}")
    columns[name] = place


def _bytes(path: Path) -> bytes:
    try:
        size = path.stat().st_size
        require_file(path)
        require(size <= MOST_IMAGE_BYTES, f"{path} has {size:,} bytes: at most {MOST_IMAGE_BYTES:,}")
        return path.read_bytes()
    except OSError as error:
        raise FormatError(f"{path} cannot be read ({error})") from error


def _read_numbers(path: Path) -> NDArray[Any]:
    """Rows `[n, ...]` of a CSV or NPY file."""
    values = _read_csv(path) if path.suffix.lower() == ".csv" else _read_npy(path)
    require(values.ndim >= 1 and values.dtype.kind in "biuf", f"{path} holds {values.dtype} {list(values.shape)}")
    require(len(values) <= MOST_ROWS, f"{path} has {len(values):,} rows: at most {MOST_ROWS:,}")
    check_row(values.shape[1:], False, str(path))
    return values


def _read_npy(path: Path) -> NDArray[Any]:
    """Rows of an NPY file. Its header is checked first, since it may claim more data than the file has."""
    require_file(path)
    try:
        with path.open("rb") as file:
            version = npy.read_magic(file)
            read_header = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
            shape, _, dtype = read_header(file)
            require(not dtype.hasobject, f"{path} holds {dtype}: only numbers are read, never objects")
            needed = int(np.prod(shape, dtype=object)) * dtype.itemsize
            present = path.stat().st_size - file.tell()
            require(
                needed == present and needed <= MOST_CHUNK_BYTES,
                f"{path} says {list(shape)} of {dtype}, {needed:,} bytes: {present:,} are there",
            )
        values: NDArray[Any] = np.load(path, allow_pickle=False)
    except (OSError, EOFError, ValueError, SyntaxError, TypeError) as error:
        if isinstance(error, FormatError):
            raise
        raise FormatError(f"{path} is not an NPY file that can be read ({error})") from error
    return values


def _read_csv(path: Path) -> NDArray[np.float64]:
    try:
        rows = [row for row in csv.reader(io.StringIO(read_text(path, _MOST_CSV_BYTES))) if row]
    except csv.Error as error:
        raise FormatError(f"{path} is not CSV ({error})") from error
    if rows and not _are_numbers(rows[0]):
        rows = rows[1:]
    width = len(rows[0]) if rows else 0
    values = np.empty((len(rows), width))
    for index, row in enumerate(rows):
        require(len(row) == width, f"{path}: row {index} has {len(row)} numbers, the first has {width}")
        try:
            values[index] = [float(cell) for cell in row]
        except ValueError as error:
            raise FormatError(f"{path}: row {index} is not numbers ({error})") from error
    return values


def _heading(path: Path) -> tuple[str, ...]:
    """The line of names above the numbers of a CSV file; empty if there is none."""
    if path.suffix.lower() != ".csv":
        return ()
    first = next((row for row in csv.reader(io.StringIO(read_text(path, _MOST_CSV_BYTES))) if row), [])
    return () if _are_numbers(first) else tuple(cell.strip() for cell in first)


def _are_numbers(cells: list[str]) -> bool:
    try:
        return bool([float(cell) for cell in cells])
    except ValueError:
        return False

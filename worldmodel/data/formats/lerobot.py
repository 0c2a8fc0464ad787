"""LeRobotDataset, versions 2.x and 3.0.

    meta/info.json       codebase_version, fps, features (dtype, shape, names), path templates, totals
    v3.0   meta/episodes/chunk-000/file-000.parquet   length, dataset_from_index, and the place of each episode:
               data/chunk_index, data/file_index, videos/<key>/{chunk_index, file_index, from_timestamp}
           data/chunk-000/file-000.parquet            many episodes in one file
           videos/<key>/chunk-000/file-000.mp4        many episodes in one file
    v2.x   meta/episodes.jsonl                        episode_index, length
           data/chunk-000/episode_000000.parquet      one file for each episode
           videos/chunk-000/<key>/episode_000000.mp4  one file for each episode

Row t holds the observation at t and the action taken then. Frames are found by their times, with a tolerance of a
quarter of a step. Images may also be in the Parquet files, as PNG. The task of an episode's first row is its
instruction. Its text is in `meta/tasks.parquet`, or `meta/tasks.jsonl` in version 2.

Layout: https://huggingface.co/docs/lerobot/lerobot-dataset-v3 and LeRobot's own `datasets/utils.py`.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Generator, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from worldmodel.data.formats.images import decode_picture
from worldmodel.data.formats.limits import (
    MOST_COLUMNS,
    MOST_EPISODES,
    MOST_ROWS,
    check_row,
    fill_template,
    fingerprint,
    inside,
    number,
    parse_json,
    read_json,
    read_text,
    require,
    whole_number,
)
from worldmodel.data.formats.mapping import Choice
from worldmodel.data.formats.ours import DESCRIPTION, SEED, read_description
from worldmodel.data.formats.parquet import ParquetReader
from worldmodel.data.formats.source import UNKNOWN_SEED, Facts, Feature, FormatError, Length, Source
from worldmodel.data.formats.video import VideoReader

INFO: Final = "meta/info.json"
ACTION: Final = "action"
PROPRIO: Final = "observation.state"
STATE: Final = "observation.environment_state"
REWARD: Final = "next.reward"
TASKS: Final = "meta/tasks.parquet"
TASK: Final = "__index_level_0__"  # pandas' name for an index without a name
# Columns that LeRobot adds to every data set. They are never observations.
BOOKKEEPING: Final = ("timestamp", "frame_index", "episode_index", "index", "task_index")
_IMAGES = ("image", "video")
_NUMBERS = ("float16", "float32", "float64", "bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32")
_CHUNK_SIZE = 1000  # episodes per folder in version 2, unless the data set gives another number
_TOLERANCE = 0.25  # largest difference between the times of a row and its frame, as a fraction of a step


@dataclasses.dataclass(frozen=True)
class _Place:
    """The place of one episode.

    Attributes:
        rows: its number of rows.
        data: its Parquet file.
        videos: for each camera, the video file and the time in it at which the episode begins [s].
        seed: seed of the environment's reset.
    """

    rows: int
    data: Path
    videos: Mapping[str, tuple[Path, float]]
    seed: int = UNKNOWN_SEED


class LeRobotSource(Source):
    """See the module's docstring."""

    def __init__(self, path: Path) -> None:
        self._parquet = ParquetReader()
        info = read_json(inside(path, INFO, INFO))
        where = f"{path / INFO}"
        if not isinstance(info, dict):
            raise FormatError(f"{where} is not a JSON object")
        version = str(info.get("codebase_version"))
        require(
            version in ("v2.0", "v2.1", "v3.0"),
            f"{where} says codebase_version {version[:40]!r}: expected v2.0, v2.1 or v3.0",
        )
        features = _features(info, where)
        robot = info.get("robot_type")
        ours = read_description(path)
        self._untold = ours.untold
        facts = Facts(
            format=f"LeRobotDataset {version}",
            env=robot if isinstance(robot, str) and robot else path.resolve().name,
            rate_hz=number(info.get("fps"), 1e-3, 1e5, f"{where}: fps"),
            usual={"action": ACTION, "proprio": PROPRIO, "state": STATE, "reward": REWARD},
            spec=ours.spec,
        )
        super().__init__(path, facts, features)
        self._video: dict[str, VideoReader] = {}
        self._table: tuple[Path, dict[str, NDArray[Any]]] | None = None
        self._pictures: dict[str, tuple[Path, int, Generator[tuple[int, bytes], None, None]]] = {}
        try:
            self._find_episodes(version, info, where)
        except BaseException:
            self.close()
            raise

    def _find_episodes(self, version: str, info: dict[str, Any], where: str) -> None:
        cameras = [name for name, feature in self.features.items() if feature.dtype == "video"]
        if version == "v3.0":
            self._places = _places_3(self.path, info, cameras, self._parquet)
            self._tasks = _tasks_3(self.path, self._parquet)
        else:
            self._places = _places_2(self.path, info, cameras)
            self._tasks = _tasks_2(self.path)
        totals = {"total_episodes": len(self._places), "total_frames": sum(place.rows for place in self._places)}
        for key, found in totals.items():
            require(info.get(key) == found, f"{where} says {key} {info.get(key)!r}, its episodes have {found}")

    def lengths(self, choice: Choice) -> list[Length]:
        return [Length(place.rows, place.rows) for place in self._places]

    def column(self, episode: int, name: str, rows: int) -> NDArray[Any]:
        values = self._rows(episode)[name]
        require(len(values) >= rows, f"{name} of episode {episode} of {self.path} has {len(values)} rows, not {rows}")
        return values[:rows]

    def timestamps(self, episode: int, rows: int) -> NDArray[Any] | None:
        return self._rows(episode)["timestamp"][:rows].astype(np.float64)

    def frames(self, episode: int, name: str, rows: int) -> Iterator[NDArray[Any]]:
        if self.features[name].dtype == "video":
            path, begin = self._places[episode].videos[name]
            times = self._rows(episode)["timestamp"][:rows].astype(np.float64)
            assert self.facts.rate_hz is not None
            yield from self._open_video(name, path).frames_at(begin + times, _TOLERANCE / self.facts.rate_hz)
            return
        for row, coded in enumerate(self._coded(episode, name, rows)):
            yield decode_picture(coded, f"row {row} of {name} in episode {episode} of {self.path}")

    def seed(self, episode: int) -> int:
        return self._places[episode].seed

    def instruction(self, episode: int) -> str:
        if not self._tasks:
            return ""
        task = self._tasks.get(int(self._rows(episode)["task_index"][0]), "")
        return "" if task == self._untold else task

    def fingerprint(self) -> str:
        files = {place.data for place in self._places}
        files |= {path for place in self._places for path, _ in place.videos.values()}
        heads = [self.path / name for name in (INFO, DESCRIPTION) if (self.path / name).is_file()]
        return fingerprint(
            self.path, [*files, *heads], [*heads, *(path for path in files if path.suffix == ".parquet")]
        )

    def close(self) -> None:
        self._parquet.close()
        for video in self._video.values():
            video.close()
        self._video.clear()

    def _rows(self, episode: int) -> dict[str, NDArray[Any]]:
        """All columns of numbers of one episode. Its file's content is kept, as it may hold the next episode, too."""
        place = self._places[episode]
        names = [name for name, feature in self.features.items() if not feature.is_image]
        if self._table is None or self._table[0] != place.data:
            file = self._parquet.open(place.data)
            index = ["timestamp", "frame_index", "episode_index", *(["task_index"] if self._tasks else [])]
            self._table = (place.data, file.read([*names, *index]))
            for name in names:
                self._check_width(name, self._table[1][name], place.data)
        table = self._table[1]
        mine = np.flatnonzero(table["episode_index"].reshape(-1) == episode)
        require(
            len(mine) == place.rows and bool((np.diff(mine) == 1).all()),
            f"{place.data} has {len(mine)} rows of episode {episode}, {place.rows} are promised, one after the other",
        )
        rows = slice(int(mine[0]), int(mine[-1]) + 1) if len(mine) else slice(0, 0)
        require(
            bool((table["frame_index"][rows].reshape(-1) == np.arange(place.rows)).all()),
            f"{place.data}: frame_index of episode {episode} does not count from 0",
        )
        return {name: values[rows] if name in names else values[rows].reshape(-1) for name, values in table.items()}

    def _check_width(self, name: str, values: NDArray[Any], file: Path) -> None:
        said, found = math.prod(self.features[name].shape), math.prod(values.shape[1:])
        require(
            len(values) == 0 or said == found,
            f"{file}: rows of {name} have {found} numbers, {self.path / INFO} says {list(self.features[name].shape)}",
        )

    def _open_video(self, camera: str, path: Path) -> VideoReader:
        """The reader of a camera's video. One video per camera is open at a time."""
        found = self._video.get(camera)
        if found is not None and found.path == path:
            return found
        if found is not None:
            del self._video[camera]
            found.close()
        self._video[camera] = VideoReader(path)
        return self._video[camera]

    def _coded(self, episode: int, name: str, rows: int) -> Iterator[bytes]:
        """Encoded images from a Parquet file, which is read forward. Going back starts again from the beginning."""
        path = self._places[episode].data
        begun = self._pictures.get(name)
        if begun is not None and begun[0] == path and begun[1] < episode:
            stream = begun[2]
        else:
            if begun is not None:
                begun[2].close()
            stream = self._parquet.open(path).pictures(name)
        self._pictures[name] = (path, episode, stream)
        count = 0
        while count < rows:
            found = next(stream, None)
            require(found is not None, f"{path}: {name} of episode {episode} has {count} pictures, not {rows}")
            assert found is not None
            if found[0] == episode:
                yield found[1]
                count += 1


def _features(info: dict[str, Any], where: str) -> dict[str, Feature]:
    told = info.get("features")
    if not isinstance(told, dict) or not 0 < len(told) <= MOST_COLUMNS:
        raise FormatError(f"{where} has no features, or too many")
    features = {}
    for name, value in told.items():
        if not isinstance(value, dict) or not isinstance(value.get("shape"), list):
            raise FormatError(f"{where}: features.{name} has no shape")
        shape = tuple(whole_number(size, 1, 2**31, f"{where}: features.{name}.shape") for size in value["shape"])
        dtype = value.get("dtype")
        image = dtype in _IMAGES
        check_row(shape, image, f"{where}: features.{name}")
        beside = name in BOOKKEEPING or (name.startswith("next.") and name != REWARD)
        if beside or not (image or dtype in _NUMBERS):
            continue  # also texts
        names = () if image else _names(value.get("names"), math.prod(shape))
        features[name] = Feature(name, shape, "png/jpeg" if dtype == "image" else str(dtype), image, names)
    return features


def _names(told: object, size: int) -> tuple[str, ...]:
    """Names of a column's numbers, from a list or from version 2.0's `{"motors": [...]}`; empty for anything else."""
    while isinstance(told, dict) and len(told) == 1:
        (told,) = told.values()
    if isinstance(told, list) and len(told) == size and all(isinstance(name, str) for name in told):
        return tuple(told)
    return ()


def _tasks_2(path: Path) -> dict[int, str]:
    file = inside(path, "meta/tasks.jsonl", INFO)
    if not file.is_file():
        return {}
    tasks = {}
    for index, line in enumerate(read_text(file).splitlines()):
        told = parse_json(line, f"{file}: line {index + 1}")
        if isinstance(told, dict) and isinstance(told.get("task"), str) and isinstance(told.get("task_index"), int):
            tasks[told["task_index"]] = told["task"]
    return tasks


def _tasks_3(path: Path, parquet: ParquetReader) -> dict[int, str]:
    file = inside(path, TASKS, INFO)
    if not file.is_file():
        return {}
    opened = parquet.open(file)
    name = next((name for name in (TASK, "task") if name in opened.names), None)
    if name is None or "task_index" not in opened.names:
        return {}
    indices = opened.read(["task_index"])["task_index"].reshape(-1).tolist()
    return dict(zip(indices, opened.texts(name), strict=True))


def _places_2(path: Path, info: dict[str, Any], cameras: list[str]) -> list[_Place]:
    where, lines = path / INFO, read_text(inside(path, "meta/episodes.jsonl", INFO)).splitlines()
    require(len(lines) <= MOST_EPISODES, f"{path}/meta/episodes.jsonl has {len(lines):,} lines")
    per_chunk = whole_number(info.get("chunks_size", _CHUNK_SIZE), 1, 2**31, f"{where}: chunks_size")
    places = []
    for index, line in enumerate(lines):
        here = f"{path}/meta/episodes.jsonl: line {index + 1}"
        try:
            told = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise FormatError(f"{here} is not JSON ({error})") from error
        if not isinstance(told, dict) or told.get("episode_index") != index:
            raise FormatError(f"{here} is not episode {index}")
        rows = whole_number(told.get("length"), 0, MOST_ROWS, f"{here}: length")
        of = {"episode_chunk": index // per_chunk, "episode_index": index}
        data = _file(path, info, "data_path", of)
        videos = {key: (_file(path, info, "video_path", {**of, "video_key": key}), 0.0) for key in cameras}
        places.append(_Place(rows, data, videos))
    return places


def _places_3(path: Path, info: dict[str, Any], cameras: list[str], parquet: ParquetReader) -> list[_Place]:
    files = sorted((path / "meta/episodes").glob("chunk-*/file-*.parquet"))
    require(bool(files), f"{path}/meta/episodes has no chunk-000/file-000.parquet")
    names = ["episode_index", "length", "data/chunk_index", "data/file_index"]
    for key in cameras:
        names += [f"videos/{key}/{part}" for part in ("chunk_index", "file_index", "from_timestamp")]
    places: list[_Place] = []
    for name in files:
        file = parquet.open(inside(path, str(name.relative_to(path)), str(name)))
        require(len(places) + file.num_rows <= MOST_EPISODES, f"{path} has more than {MOST_EPISODES:,} episodes")
        with_seed = SEED in file.names
        columns = {key: values.tolist() for key, values in file.read([*names, *([SEED] if with_seed else [])]).items()}
        for row in range(file.num_rows):
            told = {key: values[row] for key, values in columns.items()}
            places.append(_place_3(path, info, cameras, told, f"{name}: episode {len(places)}", len(places)))
    return places


def _place_3(
    path: Path, info: dict[str, Any], cameras: list[str], told: dict[str, Any], where: str, index: int
) -> _Place:
    require(told["episode_index"] == index, f"{where} has episode_index {told['episode_index']}")
    rows = whole_number(told["length"], 0, MOST_ROWS, f"{where}: length")

    def numbers(of: str) -> dict[str, int]:
        parts = ("chunk_index", "file_index")
        return {part: whole_number(told[f"{of}/{part}"], 0, 10**9, f"{where}: {of}/{part}") for part in parts}

    videos = {}
    for key in cameras:
        begin = number(told[f"videos/{key}/from_timestamp"], 0, 1e9, f"{where}: videos/{key}/from_timestamp")
        videos[key] = (_file(path, info, "video_path", {**numbers(f"videos/{key}"), "video_key": key}), begin)
    seed = told.get(SEED, UNKNOWN_SEED)
    return _Place(rows, _file(path, info, "data_path", numbers("data")), videos, int(seed))


def _file(path: Path, info: dict[str, Any], key: str, values: Mapping[str, str | int]) -> Path:
    where = f"{path / INFO}: {key}"
    return inside(path, fill_template(info.get(key), where, **values), where)

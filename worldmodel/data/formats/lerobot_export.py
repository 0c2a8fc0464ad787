"""Exports a store as a LeRobotDataset of version 3.0. `lerobot` describes the layout.

    observation.images.<camera>    images, as video (H.264) or as lossless PNG in the Parquet files
    observation.state              proprio, float32
    observation.environment_state  state, float64
    action                         float32
    next.reward                    float32, if the store has rewards
    next.done                      true in the last row of an episode
    task                           the instruction of the episode

An episode of T actions becomes T + 1 rows, so that its last observation is included. **The last row's action is zero
and was never taken.** `next.done` marks that row. A later import restores numbers exactly, and images too if they are
PNG.

The target folder appears only when it is complete.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from worldmodel.core.errors import UserError
from worldmodel.core.files import output_folder, write_json
from worldmodel.data.formats import lerobot_video
from worldmodel.data.formats.exporting import ExportOptions
from worldmodel.data.formats.images import encode_png
from worldmodel.data.formats.lerobot import ACTION, INFO, PROPRIO, REWARD, STATE, TASKS
from worldmodel.data.formats.lerobot_layout import DONE, camera_key, features_of, schema_of, tasks_table
from worldmodel.data.formats.lerobot_statistics import Statistics, combine, of_numbers, of_pictures
from worldmodel.data.formats.lerobot_video import VIDEO, CameraVideos, Files
from worldmodel.data.formats.ours import DESCRIPTION, SEED, describe
from worldmodel.data.store.durable import WritingStopped
from worldmodel.data.store.lock import WriterLock
from worldmodel.data.store.reader import Episode, StoreError, TrajectoryStore
from worldmodel.data.store.verification import require_whole

_DATA = "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
_EPISODES = "meta/episodes/chunk-000/file-000.parquet"
_RATES = (1e-3, 1e5)  # rows per second that an import accepts
_DATA_MB = 100  # LeRobot's own limit for a file


def export_lerobot(
    store: TrajectoryStore, target: Path, options: ExportOptions, progress: Callable[[int, int], None]
) -> None:
    """Write all episodes of `store` to the new folder `target`. `progress` is called with (episodes done, in all).

    Raises:
        StoreError: when an episode is damaged.
        UserError: when the target exists already, or the store cannot be written in this format.
        WritingStopped: when the disk is full or fails. No error leaves anything behind.
    """
    if not store.num_episodes:
        raise UserError(f"{store.name} holds no episode yet")
    odd = [c for c in store.spec.cameras if c.height % 2 or c.width % 2]
    if options.images == "video" and odd:
        raise UserError(
            f"{store.name} has pictures of {odd[0].width} x {odd[0].height} ({odd[0].name}): video needs even numbers, "
            "--images png does not"
        )
    if not _RATES[0] <= 1 / store.spec.control_step_s <= _RATES[1]:
        raise UserError(
            f"{store.name} has a control_step_s of {store.spec.control_step_s:g} s: expected "
            f"{1 / _RATES[1]:g} to {1 / _RATES[0]:g}, or nobody could read it"
        )
    output_folder(target.parent, "TARGET")
    with WriterLock(target):
        if target.exists():
            raise UserError(f"{target} is there already: export to another place")
        draft = target.with_name(f"{target.name}.partial")
        if draft.exists():
            shutil.rmtree(draft)
        try:
            with _Writer(store, draft, options) as writer:
                for number in range(store.num_episodes):
                    require_whole(store, number)
                    writer.add(store.episode(number))
                    progress(number + 1, store.num_episodes)
            writer.finish()
            _sync(draft)
            draft.rename(target)
        except BaseException as error:
            shutil.rmtree(draft, ignore_errors=True)
            if isinstance(error, OSError):
                reason = error.strerror or error
                raise WritingStopped(f"{target} cannot be written to ({reason}): nothing is there") from error
            raise


class _Writer:
    def __init__(self, store: TrajectoryStore, root: Path, options: ExportOptions) -> None:
        self._store, self._root, self._options = store, root, options
        rate = 1 / store.spec.control_step_s
        # A rate that is whole but for rounding becomes a whole number, as in all of LeRobot's own data sets.
        self._rate: int | float = round(rate) if abs(rate - round(rate)) < 1e-6 * rate else rate
        video_rate = Fraction(self._rate).limit_denominator(100_000)
        self._features = features_of(store.spec, options.images, self._rate, store.layout.has_reward)
        self._schema = schema_of(self._features)
        self._data, self._data_path, self._data_files = None, root, Files()
        self._videos = {
            camera.name: CameraVideos(root, camera, video_rate, options.crf)
            for camera in store.spec.cameras
            if options.images == "video"
        }
        self._untold = options.task or store.spec.env
        self._tasks: dict[str, int] = {}
        self._num_rows = 0
        self._episodes: list[dict[str, Any]] = []
        self._statistics: list[dict[str, Statistics]] = []

    _data: pq.ParquetWriter | None

    def __enter__(self) -> _Writer:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        self._close_data()
        for videos in self._videos.values():
            videos.close(kind, error)

    def add(self, episode: Episode) -> None:
        """Write one episode."""
        rows, number = len(episode.action), len(self._episodes)
        row = np.arange(rows)
        task = episode.instruction or self._untold
        columns: dict[str, Any] = {
            ACTION: episode.action,
            PROPRIO: episode.proprio,
            STATE: episode.state,
            REWARD: episode.reward,
            "timestamp": (row / self._rate).astype(np.float32),
            "frame_index": row,
            "episode_index": np.full(rows, number),
            "index": self._num_rows + row,
            "task_index": np.full(rows, self._tasks.setdefault(task, len(self._tasks))),
            DONE: row == rows - 1,
        }
        columns = {name: values for name, values in columns.items() if name in self._features}
        pictures = {camera_key(name): values for name, values in episode.images.items()}
        place: dict[str, Any] = {f"data/{key}": value for key, value in self._write_rows(columns | pictures).items()}
        for name, videos in self._videos.items():
            found = videos.add(episode.images[name])
            place |= {f"videos/{camera_key(name)}/{key}": value for key, value in found.items()}
        statistics = {name: of_numbers(values) for name, values in columns.items()}
        statistics |= {name: of_pictures(values) for name, values in pictures.items()}
        self._statistics.append(statistics)
        self._episodes.append(
            {
                "episode_index": number,
                "tasks": [task],
                "length": rows,
                "dataset_from_index": self._num_rows,
                "dataset_to_index": self._num_rows + rows,
                "meta/episodes/chunk_index": 0,
                "meta/episodes/file_index": 0,
                SEED: episode.seed,
                **place,
                **{
                    f"stats/{name}/{key}": value.tolist()
                    for name, of in statistics.items()
                    for key, value in of.items()
                },
            }
        )
        self._num_rows += rows

    def finish(self) -> None:
        """Write all descriptions of the data set, with `info.json` last."""
        if (len(self._episodes), self._num_rows) != (self._store.num_episodes, self._store.num_rows):
            raise StoreError(f"{self._store.name} has {self._store.num_rows} rows, {self._num_rows} were written")
        path = self._root / _EPISODES
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.Table.from_pylist(self._episodes), path, compression="snappy")
        pq.write_table(tasks_table(list(self._tasks)), self._root / TASKS)
        together = combine(self._statistics)
        plain = {name: {key: value.tolist() for key, value in of.items()} for name, of in together.items()}
        write_json(plain, self._root / "meta/stats.json")
        write_json(describe(self._store.spec, self._store.recording, self._untold), self._root / DESCRIPTION)
        info = {
            "codebase_version": "v3.0",
            "robot_type": self._store.spec.env,
            "total_episodes": len(self._episodes),
            "total_frames": self._num_rows,
            "total_tasks": len(self._tasks),
            "chunks_size": lerobot_video.PER_CHUNK,
            "data_files_size_in_mb": _DATA_MB,
            "video_files_size_in_mb": lerobot_video.VIDEO_MB,
            "fps": self._rate,
            "splits": {"train": f"0:{len(self._episodes)}"},
            "data_path": _DATA,
            "video_path": VIDEO if self._options.images == "video" else None,
            "features": self._features,
        }
        write_json(info, self._root / INFO)

    def _write_rows(self, columns: dict[str, NDArray[Any]]) -> dict[str, int]:
        if self._data is None or self._data_path.stat().st_size >= _DATA_MB * 1_000_000:
            self._close_data()
            self._data_path = self._root / _DATA.format(**self._data_files.next())
            self._data_path.parent.mkdir(parents=True, exist_ok=True)
            self._data = pq.ParquetWriter(self._data_path, self._schema, compression="snappy")
        arrays = []
        for field in self._schema:
            values = columns[field.name]
            if pa.types.is_struct(field.type):
                coded = [{"bytes": encode_png(p), "path": f"frame-{row:06d}.png"} for row, p in enumerate(values)]
                arrays.append(pa.array(coded, field.type))
                continue
            flat = pa.array(np.ascontiguousarray(values).reshape(-1))
            wide = pa.types.is_fixed_size_list(field.type)
            arrays.append(pa.FixedSizeListArray.from_arrays(flat, field.type.list_size) if wide else flat)
        self._data.write_table(pa.Table.from_arrays(arrays, schema=self._schema))
        return self._data_files.place

    def _close_data(self) -> None:
        if self._data is not None:
            self._data.close()
            self._data = None


def _sync(root: Path) -> None:
    for path in (*root.rglob("*"), root):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

"""A LeRobotDataset that is damaged, or a trap, ends in one line that names what is wrong."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from worldmodel.data import TrajectoryStore
from worldmodel.data.formats.exporting import ExportOptions
from worldmodel.data.formats.lerobot_export import export_lerobot
from worldmodel.data.formats.lerobot_layout import camera_key
from worldmodel.data.formats.source import FormatError
from worldmodel.data.formats.video import VideoWriter

CAMERA = camera_key("camera")


@pytest.fixture(scope="module")
def exports(_pristine_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Exports with images and with videos, to be copied."""
    folder, store = tmp_path_factory.mktemp("exports"), TrajectoryStore.open(_pristine_store)
    export_lerobot(store, folder / "png", ExportOptions(images="png"), quiet)
    export_lerobot(store, folder / "video", ExportOptions(), quiet)
    return folder


def quiet(done: int, total: int) -> None:
    assert 0 < done <= total


def change(root: Path, **values: object) -> None:
    path = root / "meta/info.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def reshape(root: Path, name: str, shape: list[int]) -> None:
    features = json.loads((root / "meta/info.json").read_text())["features"]
    features[name]["shape"] = shape
    change(root, features=features)


def rewrite(path: Path, edit: Callable[[dict], None]) -> None:
    """Columns as lists, edited and written back with their types."""
    table = pq.read_table(path)
    columns = table.to_pydict()
    edit(columns)
    pq.write_table(pa.table(columns, schema=table.schema), path)


def set_value(column: str, row: int, value: object) -> Callable[[Path], None]:
    def damage(root: Path) -> None:
        rewrite(root / "data/chunk-000/file-000.parquet", lambda c: c[column].__setitem__(row, value))

    return damage


def set_episode(column: str, row: int, value: object) -> Callable[[Path], None]:
    def damage(root: Path) -> None:
        rewrite(root / "meta/episodes/chunk-000/file-000.parquet", lambda c: c[column].__setitem__(row, value))

    return damage


def as_text(root: Path) -> None:
    path = root / "data/chunk-000/file-000.parquet"
    table = pq.read_table(path)
    index = table.column_names.index("action")
    pq.write_table(table.set_column(index, "action", pa.array(["x"] * len(table))), path)


def link_out(root: Path) -> None:
    path = root / "data/chunk-000/file-000.parquet"
    path.rename(root.parent / "elsewhere.parquet")
    path.symlink_to("../../../elsewhere.parquet")


def foreign_spec(root: Path, **values: object) -> None:
    path = root / "meta/trajectory_store.json"
    told = json.loads(path.read_text())
    path.write_text(json.dumps({"environment": told["environment"] | values}))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda r: change(r, codebase_version="v1.6"), r"codebase_version 'v1\.6': expected v2\.0, v2\.1 or v3\.0"),
        (lambda r: change(r, data_path="../../{chunk_index}.parquet"), "data_path leads out of"),
        (lambda r: change(r, data_path="/etc/{chunk_index}"), "data_path leads out of"),
        (lambda r: change(r, data_path="{chunk_index.__class__}"), "data_path is .*: expected a path template"),
        (lambda r: change(r, fps=0), "fps is 0: expected a number"),
        (lambda r: change(r, fps="10"), "fps is '10': expected a number"),
        (lambda r: change(r, features={}), "has no features"),
        (lambda r: change(r, features={"action": {"dtype": "float32", "shape": [10**9]}}), "features.action has rows"),
        (lambda r: reshape(r, "action", [3]), r"rows of action have 2 numbers, .*info\.json says \[3\]"),
        (lambda r: change(r, total_frames=105), "says total_frames 105, its episodes have 106"),
        (lambda r: change(r, total_episodes=6), "says total_episodes 6, its episodes have 5"),
        (lambda r: (r / "meta/info.json").write_text("{"), r"info\.json is not JSON"),
        (lambda r: (r / "meta/info.json").unlink(), r"info\.json is not there"),
        (lambda r: (r / "data/chunk-000/file-000.parquet").unlink(), r"file-000\.parquet is not there"),
        (lambda r: (r / "data/chunk-000/file-000.parquet").write_bytes(b"PAR1"), r"not a Parquet file"),
        (link_out, "is a link that leads out of"),
        (as_text, "action holds string: expected numbers"),
        (set_value("action", 30, [None, 1.0]), "action has rows without a value"),
        (set_value("action", 30, [float("nan"), 1.0]), "action in episode 2 .* not finite, in row 1"),
        (set_value("timestamp", 25, 0.45), r"row 4 of episode 1 .* is 0\.50 steps from where its rate of 10 Hz"),
        (set_value("frame_index", 25, 3), "frame_index of episode 1 does not count from 0"),
        (set_value("episode_index", 3, 1), "has 20 rows of episode 0, 21 are promised, one after the other"),
        (set_value("episode_index", 25, 2), "has 7 rows of episode 1, 8 are promised"),
        (set_value(CAMERA, 25, {"bytes": None, "path": "/etc/passwd"}), "pictures outside this file"),
        (set_value(CAMERA, 25, {"bytes": b"no PNG", "path": None}), "row 4 of .* in episode 1 of .* not a PNG or JPEG"),
        (set_episode("length", 1, 10**9), "episode 1: length is 1000000000: expected a whole number"),
        (set_episode("data/file_index", 1, -1), "episode 1: data/file_index is -1"),
        (set_episode("episode_index", 1, 7), "episode 1 has episode_index 7"),
        (lambda r: foreign_spec(r, action={"low": ["x"], "high": [1.0], "units": [""]}), "low of the action is"),
        (lambda r: foreign_spec(r, action={"low": [1.0], "high": [2.0] * 2, "units": [""] * 2}), "have 1, 2 and 2"),
        (lambda r: foreign_spec(r, cameras=[{"name": "a", "height": "8", "width": 8}]), "height of camera a is '8'"),
        (lambda r: foreign_spec(r, more=1), "environment description has keys"),
    ],
)  # fmt: skip
def test_damage_and_traps_are_named(tmp_path: Path, exports: Path, import_from, damage: Callable, message: str) -> None:
    shutil.copytree(exports / "png", tmp_path / "exported")
    damage(tmp_path / "exported")
    with pytest.raises(FormatError, match=message):
        import_from("lerobot", tmp_path / "exported", tmp_path / "out.zarr")


def video_of(root: Path) -> Path:
    return root / f"videos/{CAMERA}/chunk-000/file-000.mp4"


def shorter(root: Path) -> None:
    with VideoWriter(video_of(root), 10, 8, 8, crf=18) as video:
        for picture in np.zeros((50, 8, 8, 3), np.uint8):
            video.add(picture)


def playlist(root: Path) -> None:
    """FFmpeg follows such a file wherever it leads, if it is let."""
    (root.parent / "secret.mp4").write_bytes(video_of(root).read_bytes())
    video_of(root).write_text(f"ffconcat version 1.0\nfile '{root.parent}/secret.mp4'\n")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda r: video_of(r).unlink(), r"file-000\.mp4 is not there"),
        (lambda r: video_of(r).write_bytes(b"no video"), r"file-000\.mp4 is not an MP4"),
        (lambda r: video_of(r).write_bytes(video_of(r).read_bytes()[:3000]), r"file-000\.mp4"),
        (shorter, r"file-000\.mp4 has no frame at 5\.0000 s"),
        (playlist, r"file-000\.mp4 is not an MP4"),
    ],
)
def test_broken_videos_are_named(tmp_path: Path, exports: Path, import_from, damage: Callable, message: str) -> None:
    shutil.copytree(exports / "video", tmp_path / "exported")
    damage(tmp_path / "exported")
    with pytest.raises(FormatError, match=message):
        import_from("lerobot", tmp_path / "exported", tmp_path / "out.zarr")

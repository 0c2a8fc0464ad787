"""LeRobotDataset with several cameras of different shapes, named actions, rewards and tasks, there and back."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from worldmodel.core.errors import UserError
from worldmodel.core.spec import ActionSpec, CameraSpec
from worldmodel.data import EnvironmentSpec, Episode, EpisodeWriter, TrajectoryStore
from worldmodel.data.__main__ import main
from worldmodel.data.formats.exporting import ExportOptions
from worldmodel.data.formats.lerobot_export import export_lerobot

TASKS = ("pick the cube", "", "place the cube", "pick the cube")
SPEC = EnvironmentSpec(
    env="arm",
    cameras=(CameraSpec("front", 48, 64), CameraSpec("wrist", 32, 32)),
    control_step_s=0.1,
    action=ActionSpec(
        low=(-2.0, -2.0, 0.0),
        high=(2.0, 2.0, 1.0),
        units=("rad", "rad", ""),
        names=("shoulder.pos", "elbow.pos", "gripper.pos"),
        rest=("hold", "hold", "hold"),
        kinds=("continuous", "continuous", "binary"),
        max_rate=(3.0, 3.0, None),
        hold_from=(0, 1, None),
    ),
    proprio_size=2,
    state_size=0,
    simulator="none",
)


def quiet(done: int, total: int) -> None:
    assert 0 < done <= total


@pytest.fixture
def arm(tmp_path: Path) -> TrajectoryStore:
    rng = np.random.default_rng(0)
    with EpisodeWriter(tmp_path / "arm.zarr", SPEC, reward=True) as writer:
        for number, task in enumerate(TASKS):
            rows = 12 + number
            joints = np.cumsum(rng.uniform(-0.1, 0.1, (rows + 1, 2)), 0)
            action = np.column_stack([joints[1:], rng.integers(0, 2, rows)]).astype(np.float32)
            action[-1] = 0
            reward = rng.standard_normal(rows).astype(np.float32)
            reward[-1] = 0
            images = {c.name: rng.integers(0, 256, (rows, *c.shape), np.uint8) for c in SPEC.cameras}
            proprio = joints[:-1].astype(np.float32)
            writer.append(Episode(images, action, proprio, np.zeros((rows, 0)), number, reward, task))
    return TrajectoryStore.open(tmp_path / "arm.zarr")


@pytest.mark.parametrize("images", ["png", "video"])
def test_there_and_back(tmp_path: Path, arm: TrajectoryStore, import_from: Callable, images: str) -> None:
    export_lerobot(arm, tmp_path / "exported", ExportOptions(images, task="move"), quiet)
    back = import_from("lerobot", tmp_path / "exported", tmp_path / "back.zarr")
    assert back.spec == arm.spec
    for number in range(4):
        found, wanted = back.episode(number), arm.episode(number)
        assert (found.instruction, found.seed) == (TASKS[number], number)
        for name, values in wanted.columns.items():
            if images == "png" or not name.startswith("images/"):
                np.testing.assert_array_equal(found.columns[name], values)
    if images == "png":
        assert (back.records == arm.records).all()


def test_what_lerobot_finds(tmp_path: Path, arm: TrajectoryStore) -> None:
    root = tmp_path / "exported"
    export_lerobot(arm, root, ExportOptions("video", task="move"), quiet)
    info = json.loads((root / "meta/info.json").read_text())
    features = info["features"]
    assert features["observation.images.front"]["shape"] == [48, 64, 3]
    assert features["observation.images.wrist"]["shape"] == [32, 32, 3]
    assert features["action"]["names"] == ["shoulder.pos", "elbow.pos", "gripper.pos"]
    assert features["next.reward"] == {"dtype": "float32", "shape": [1], "names": None}
    assert info["total_tasks"] == 3
    tasks = pq.read_table(root / "meta/tasks.parquet").to_pydict()
    assert tasks == {"task_index": [0, 1, 2], "__index_level_0__": ["pick the cube", "move", "place the cube"]}
    data = pq.read_table(root / "data/chunk-000/file-000.parquet").to_pydict()
    assert [data["task_index"][row] for row in (0, 12, 25, 39)] == [0, 1, 2, 0]
    np.testing.assert_array_equal(np.float32(data["next.reward"][:12]), arm.episode(0).reward)
    episodes = pq.read_table(root / "meta/episodes/chunk-000/file-000.parquet").to_pylist()
    for camera in ("front", "wrist"):
        key = f"videos/observation.images.{camera}"
        assert episodes[1][f"{key}/from_timestamp"] == pytest.approx(1.2)
        assert (root / f"{key}/chunk-000/file-000.mp4").is_file()
        assert len(episodes[0][f"stats/observation.images.{camera}/mean"]) == 3


def test_as_if_from_elsewhere(tmp_path: Path, arm: TrajectoryStore, import_from: Callable, capsys) -> None:
    """Without our own description: cameras are chosen and renamed, the rest rule is found out and told."""
    root = tmp_path / "exported"
    export_lerobot(arm, root, ExportOptions("png"), quiet)
    (root / "meta/trajectory_store.json").unlink()
    features = json.loads((root / "meta/info.json").read_text())["features"]
    features["observation.state"]["names"] = ["shoulder.pos", "elbow.pos"]
    info = root / "meta/info.json"
    info.write_text(json.dumps(json.loads(info.read_text()) | {"features": features}))
    with pytest.raises(UserError, match=r"several columns can be --camera: observation\.images\.front, .*or several"):
        import_from("lerobot", root, tmp_path / "out.zarr")
    cameras = ["observation.images.wrist", "scene=observation.images.front"]
    store = import_from("lerobot", root, tmp_path / "out.zarr", camera=cameras, fit="keep", size=[24])
    assert store.spec.cameras == (CameraSpec("wrist", 24, 24), CameraSpec("scene", 24, 32))
    assert store.spec.action.names == SPEC.action.names
    assert store.spec.action.rest == ("hold", "hold", "hold")
    assert store.spec.action.hold_from == (0, 1, None)
    assert store.spec.action.kinds == SPEC.action.kinds
    assert [store.episode(i).instruction for i in range(4)] == [
        "pick the cube",
        "arm",
        "place the cube",
        "pick the cube",
    ]
    np.testing.assert_array_equal(store.episode(0).reward, arm.episode(0).reward)
    given = ["import", "lerobot", str(root), str(tmp_path / "dry.zarr"), "--dry-run", "--camera", *cameras]
    assert main([*given, "--size", "24", "48", "--fit", "letterbox", "--rest", "hold", "hold", "zero"]) == 0
    told = " ".join(capsys.readouterr().out.split())
    for expected in (
        "camera scene",
        "images/scene 24 x 48 x 3",
        "with black borders to 96 x 48, resized to 48 x 24",
        "shoulder.pos -0.2151 0.2815 hold continuous given",
        "zero binary given, takes two values only",
        "instruction of the first episode: pick the cube",
        "reward 1 float32 next.reward",
    ):
        assert expected in told, told


def test_odd_sides_need_png(tmp_path: Path, make_episode: Callable, spec: EnvironmentSpec) -> None:
    odd = dataclasses.replace(spec, cameras=(CameraSpec("top", 8, 9),))
    with EpisodeWriter(tmp_path / "odd.zarr", odd) as writer:
        writer.append(make_episode(1, 5, odd))
    store = TrajectoryStore.open(tmp_path / "odd.zarr")
    with pytest.raises(UserError, match=r"pictures of 9 x 8 \(top\): video needs even numbers, --images png does not"):
        export_lerobot(store, tmp_path / "exported", ExportOptions(), quiet)
    export_lerobot(store, tmp_path / "exported", ExportOptions("png"), quiet)

"""LeRobotDataset: version 3 there and back, version 2.1 as it is published, and whatever is neither."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from unittest import mock

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from worldmodel.core.errors import UserError
from worldmodel.core.spec import ActionSpec, one_camera
from worldmodel.data import EnvironmentSpec, Episode, EpisodeWriter, TrajectoryStore
from worldmodel.data.formats import lerobot_export, lerobot_video
from worldmodel.data.formats.exporting import ExportOptions
from worldmodel.data.formats.images import encode_png
from worldmodel.data.formats.lerobot_export import export_lerobot
from worldmodel.data.formats.lerobot_layout import camera_key
from worldmodel.data.formats.video import VideoWriter
from worldmodel.data.store.reader import StoreError

CAMERA = camera_key("camera")
PNG = ExportOptions(images="png")


def quiet(done: int, total: int) -> None:
    assert 0 < done <= total


def assert_same_numbers(found: TrajectoryStore, wanted: TrajectoryStore) -> None:
    assert found.spec == wanted.spec
    assert found.episode_ends.tolist() == wanted.episode_ends.tolist()
    assert found.episode_seeds.tolist() == wanted.episode_seeds.tolist()
    for name in ("action", "proprio", "state"):
        both = [s.read(name, 0, s.num_rows) for s in (found, wanted)]
        assert both[0].tobytes() == both[1].tobytes(), name


@pytest.fixture(params=["png", "video"])
def exported(request, tmp_path: Path, store: TrajectoryStore) -> Path:
    """The five toy episodes of 20, 7, 33, 1 and 40 actions."""
    export_lerobot(store, tmp_path / "exported", ExportOptions(images=request.param), quiet)
    return tmp_path / "exported"


def test_there_and_back(tmp_path: Path, store: TrajectoryStore, exported: Path, import_from) -> None:
    back = import_from("lerobot", exported, tmp_path / "back.zarr")
    assert_same_numbers(back, store)
    info = json.loads((exported / "meta/info.json").read_text())
    if info["features"][CAMERA]["dtype"] == "image":
        np.testing.assert_array_equal(back.read("images/camera", 0, 106), store.read("images/camera", 0, 106))


def test_through_several_files(tmp_path: Path, store, import_from, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lerobot_export, "_DATA_MB", 0)
    monkeypatch.setattr(lerobot_video, "VIDEO_MB", 0)
    monkeypatch.setattr(lerobot_video, "PER_CHUNK", 2)
    export_lerobot(store, tmp_path / "exported", ExportOptions(), quiet)
    files = sorted(str(path.relative_to(tmp_path / "exported")) for path in tmp_path.rglob("*-00*/*.mp4"))
    assert files[0] == f"videos/{CAMERA}/chunk-000/file-000.mp4"
    assert files[-1] == f"videos/{CAMERA}/chunk-002/file-000.mp4"
    assert_same_numbers(import_from("lerobot", tmp_path / "exported", tmp_path / "back.zarr"), store)


_FLOATS = st.floats(allow_nan=False, allow_infinity=False, width=32)


@st.composite
def recordings(draw: st.DrawFn) -> tuple[EnvironmentSpec, list[Episode]]:
    size, actions, proprio, state = draw(st.tuples(*[st.integers(a, b) for a, b in ((8, 10), (1, 3), (0, 2), (0, 2))]))
    rate = draw(st.sampled_from([0.1, 0.02, 1 / 30, 0.03, 1 / 7]))
    spec = EnvironmentSpec(
        "any",
        one_camera(size),
        rate,
        ActionSpec((-1.0,) * actions, (1.0,) * actions, ("N",) * actions),
        proprio,
        state,
        "none",
        {"a": [1]},
    )
    episodes = []
    for _ in range(draw(st.integers(1, 3))):
        rows = draw(st.integers(2, 5))
        action = draw(hnp.arrays(np.float32, (rows, actions), elements=st.floats(-1, 1, width=32)))
        action[-1] = 0
        pixels = draw(hnp.arrays(np.uint8, (rows, size, size, 3), elements=st.integers(0, 255), fill=st.just(7)))
        episodes.append(
            Episode(
                {spec.only_camera.name: pixels},
                action,
                draw(hnp.arrays(np.float32, (rows, proprio), elements=_FLOATS)),
                draw(hnp.arrays(np.float64, (rows, state), elements=st.floats(allow_nan=False, allow_infinity=False))),
                draw(st.integers(-1, 2**62)),
            )
        )
    return spec, episodes


@settings(max_examples=6)  # each writes two stores
@given(recordings())
def test_nothing_is_lost_with_png(tmp_path_factory, import_from, recording) -> None:
    spec, episodes = recording
    folder = tmp_path_factory.mktemp("any")
    with mock.patch("os.fsync", lambda _: None):  # not what is tested here, and slow
        with EpisodeWriter(folder / "data.zarr", spec, {"seed": 3}) as writer:
            for episode in episodes:
                writer.append(episode)
        store = TrajectoryStore.open(folder / "data.zarr")
        export_lerobot(store, folder / "exported", PNG, quiet)
        back = import_from("lerobot", folder / "exported", folder / "back.zarr")
    assert_same_numbers(back, store)
    np.testing.assert_array_equal(
        back.read("images/camera", 0, back.num_rows), store.read("images/camera", 0, store.num_rows)
    )


def moving(rows: int, size: int = 64) -> np.ndarray:
    """A red square that moves two pixels a step over a soft ground."""
    y, x = np.mgrid[:size, :size]
    pixels = np.repeat(np.stack([x * 2, y * 3, 0 * x + 60], axis=2)[None].astype(np.uint8), rows, 0)
    for row, picture in enumerate(pixels):
        picture[20:32, 2 * row % 50 : 2 * row % 50 + 12] = (200, 40, 40)
    return pixels


def test_video_is_close_and_every_frame_is_where_it_was(tmp_path: Path, spec, import_from) -> None:
    spec = dataclasses.replace(spec, cameras=one_camera(64))
    with EpisodeWriter(tmp_path / "data.zarr", spec) as writer:
        for rows in (9, 25):
            zeros = [np.zeros((rows, n), t) for n, t in ((2, "f4"), (3, "f4"), (5, "f8"))]
            writer.append(Episode({"camera": moving(rows)}, *zeros, seed=0))
    store = TrajectoryStore.open(tmp_path / "data.zarr")
    export_lerobot(store, tmp_path / "exported", ExportOptions(), quiet)
    back = (
        import_from("lerobot", tmp_path / "exported", tmp_path / "back.zarr").read("images/camera", 0, 34).astype(float)
    )
    wanted = store.read("images/camera", 0, 34).astype(float)
    assert 10 * np.log10(255**2 / ((back - wanted) ** 2).mean()) > 36  # dB, at the default quality
    nearest = [int(np.argmin([np.abs(found - other).mean() for other in wanted[:9]])) for found in back[:9]]
    assert nearest == list(range(9))


def test_what_lerobot_finds(tmp_path: Path, store: TrajectoryStore) -> None:
    """Layout and statistics, as its own version 0.4.4 reads them."""
    export_lerobot(store, tmp_path / "exported", ExportOptions(images="png", task="push it"), quiet)
    root = tmp_path / "exported"
    info = json.loads((root / "meta/info.json").read_text())
    assert (info["codebase_version"], info["fps"], info["total_frames"]) == ("v3.0", 10, 106)
    data = pq.read_table(root / "data/chunk-000/file-000.parquet")
    assert set(data.column_names) == set(info["features"])
    assert data.column("index").to_pylist() == list(range(106))
    np.testing.assert_array_equal(data.column("timestamp").to_numpy()[:21], (np.arange(21) / 10).astype(np.float32))
    assert np.flatnonzero(data.column("next.done").to_numpy(zero_copy_only=False)).tolist() == [20, 28, 62, 64, 105]
    tasks = pq.read_table(root / "meta/tasks.parquet")
    assert tasks.to_pydict() == {"task_index": [0], "__index_level_0__": ["push it"]}
    assert json.loads(tasks.schema.metadata[b"pandas"])["index_columns"] == ["__index_level_0__"]
    episodes = pq.read_table(root / "meta/episodes/chunk-000/file-000.parquet").to_pylist()
    assert [(e["dataset_from_index"], e["dataset_to_index"], e["tasks"]) for e in episodes[:2]] == [
        (0, 21, ["push it"]),
        (21, 29, ["push it"]),
    ]
    stats = json.loads((root / "meta/stats.json").read_text())
    proprio = store.read("proprio", 0, 106).astype(np.float64)
    for name, value in (("mean", proprio.mean(0)), ("std", proprio.std(0)), ("min", proprio.min(0))):
        np.testing.assert_allclose(stats["observation.state"][name], value, rtol=1e-9)
    assert np.shape(stats[CAMERA]["mean"]) == (3, 1, 1)
    pixels = store.read("images/camera", 0, 106) / 255  # of every episode all pictures are looked at
    np.testing.assert_allclose(np.ravel(stats[CAMERA]["std"]), pixels.std((0, 1, 2)), rtol=1e-9)


def test_an_export_appears_whole_or_not_at_all(tmp_path: Path, store: TrajectoryStore) -> None:
    def stop(done: int, total: int) -> None:
        if done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        export_lerobot(store, tmp_path / "exported", ExportOptions(), stop)
    assert not (tmp_path / "exported").exists()
    export_lerobot(store, tmp_path / "exported", ExportOptions(), quiet)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data.zarr", "exported"]
    with pytest.raises(UserError, match="exported is there already"):
        export_lerobot(store, tmp_path / "exported", ExportOptions(), quiet)


def test_a_rate_that_nobody_could_read_is_not_exported(tmp_path: Path, spec, make_episode) -> None:
    with EpisodeWriter(tmp_path / "data.zarr", dataclasses.replace(spec, control_step_s=1e-308)) as writer:
        writer.append(make_episode(0))
    with pytest.raises(UserError, match=r"has a control_step_s of 1e-308 s: expected 1e-05 to 1000"):
        export_lerobot(TrajectoryStore.open(tmp_path / "data.zarr"), tmp_path / "exported", PNG, quiet)
    assert [path.name for path in tmp_path.iterdir()] == ["data.zarr"]


def test_damage_is_not_exported(tmp_path: Path, store: TrajectoryStore) -> None:
    (store.path / "data/images/camera/c.3.0.0.0").unlink()
    with pytest.raises(StoreError, match=r"data/images/camera is missing .*in episode 2: .*worldmodel\.data recover"):
        export_lerobot(store, tmp_path / "exported", PNG, quiet)
    assert not (tmp_path / "exported").exists()


# --- as others write it ----------------------------------------------------------------------------------------------


def write_2_1(root: Path, episodes: list, images: str) -> Path:
    """Version 2.1 as published: one file for each episode, lists without a fixed length, int64 indices."""
    features: dict = {"observation.images.top": {"dtype": images, "shape": [12, 16, 3], "names": ["h", "w", "c"]}}
    for name, size in (("observation.state", 3), ("action", 2)):
        features[name] = {"dtype": "float32", "shape": [size], "names": None}
    for name in ("timestamp", "frame_index", "episode_index", "index", "task_index"):
        features[name] = {"dtype": "float32" if name == "timestamp" else "int64", "shape": [1], "names": None}
    features["next.reward"] = {"dtype": "float32", "shape": [1], "names": None}
    (root / "meta").mkdir(parents=True)
    lines, first = [], 0
    for number, episode in enumerate(episodes):
        rows = len(episode.action)
        row = np.arange(rows)
        table = {
            "observation.state": pa.array(list(episode.proprio[:-1])),
            "action": pa.array(list(episode.action.astype(np.float32))),
            "timestamp": pa.array((row / 30).astype(np.float32)),
            "frame_index": row,
            "episode_index": np.full(rows, number),
            "index": first + row,
            "task_index": np.zeros(rows, np.int64),
            "next.reward": np.zeros(rows, np.float32),
        }
        if images == "image":
            coded = [{"bytes": encode_png(picture), "path": None} for picture in episode.pixels[:-1]]
            table["observation.images.top"] = pa.array(
                coded, pa.struct([("bytes", pa.binary()), ("path", pa.string())])
            )
        else:
            path = root / f"videos/chunk-{number // 2:03d}/observation.images.top/episode_{number:06d}.mp4"
            path.parent.mkdir(parents=True, exist_ok=True)
            with VideoWriter(path, 30, 12, 16, crf=0) as video:
                for picture in episode.pixels[:-1]:
                    video.add(picture)
        path = root / f"data/chunk-{number // 2:03d}/episode_{number:06d}.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.table(table), path)
        lines.append(json.dumps({"episode_index": number, "tasks": ["push"], "length": rows}))
        first += rows
    (root / "meta/episodes.jsonl").write_text("\n".join(lines) + "\n")
    (root / "meta/tasks.jsonl").write_text('{"task_index": 0, "task": "push"}\n')
    info = {
        "codebase_version": "v2.1",
        "robot_type": "so100",
        "total_episodes": len(episodes),
        "total_frames": first,
        "chunks_size": 2,
        "fps": 30,
        "data_path": "data/chunk-{episode_chunk:03d}/episode_{episode_index:06d}.parquet",
        "video_path": "videos/chunk-{episode_chunk:03d}/{video_key}/episode_{episode_index:06d}.mp4",
        "features": features,
    }
    (root / "meta/info.json").write_text(json.dumps(info))
    return root


def test_version_2_1_with_pictures(tmp_path: Path, recorded, import_from, assert_holds) -> None:
    store = import_from("lerobot", write_2_1(tmp_path / "old", recorded, "image"), tmp_path / "out.zarr")
    assert_holds(store, recorded, fewer=1)
    assert (store.spec.env, store.spec.control_step_s, store.spec.state_size) == ("so100", 1 / 30, 0)


def test_version_2_1_with_videos(tmp_path: Path, recorded, import_from) -> None:
    smooth = [
        type(e)(np.repeat(moving(len(e.pixels), 16)[:, :12], 1, 0), e.action, e.proprio, e.state) for e in recorded
    ]
    store = import_from("lerobot", write_2_1(tmp_path / "old", smooth, "video"), tmp_path / "out.zarr")
    for index, episode in enumerate(smooth):
        found, wanted = store.episode(index).images["top"].astype(float), episode.pixels[:-1, :, 2:14]
        assert np.abs(found - wanted).mean() < 12  # colours are kept at half the resolution
        np.testing.assert_array_equal(store.episode(index).proprio, episode.proprio[:-1])

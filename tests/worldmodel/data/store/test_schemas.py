"""Stores of older schemas are read as they are, and upgraded without changing a frame.

`tests/golden/schema_1.zarr` and `schema_2.zarr` were made by the programs of their time.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import numcodecs
import numpy as np
import pytest

from benchmarks.store.faults import snapshot
from worldmodel.core.errors import UserError
from worldmodel.core.spec import ActionSpec, EnvironmentSpec, one_camera
from worldmodel.data import EpisodeWriter, StoreError, TrajectoryStore, compute_statistics, load_frames
from worldmodel.data.__main__ import main
from worldmodel.data.store.integrity import description_checksum
from worldmodel.data.store.recovery import recover
from worldmodel.data.store.rewriting import merge, pack, split, upgrade
from worldmodel.data.store.verification import verify

GOLDEN = Path(__file__).parents[3] / "golden"
SPEC = EnvironmentSpec(
    env="toy",
    cameras=one_camera(6),
    control_step_s=0.1,
    action=ActionSpec((-1.0, -2.0), (1.0, 2.0), ("m/s", "rad/s")),
    proprio_size=3,
    state_size=2,
    simulator="none 1.0",
    options={"distractors": False},
)
LENGTHS = (8, 11, 5)


def recorded(index: int) -> dict[str, np.ndarray]:
    """What was written into the golden stores."""
    rng, rows = np.random.default_rng(index), LENGTHS[index] + 1
    action = rng.uniform(-1, 1, (rows, 2)).astype(np.float32)
    action[-1] = 0
    return {
        "images/camera": rng.integers(0, 256, (rows, 6, 6, 3), dtype=np.uint8),
        "action": action,
        "proprio": rng.uniform(-1, 1, (rows, 3)).astype(np.float32),
        "state": rng.uniform(-1, 1, (rows, 2)),
    }


def quiet(done: int, total: int) -> None:
    assert 0 < done <= total


def assert_holds(store: TrajectoryStore, episodes: tuple[int, ...] = (0, 1, 2), camera: str = "camera") -> None:
    assert store.episode_seeds.tolist() == [100 + i for i in episodes]
    assert verify(store, quiet) == []
    for position, index in enumerate(episodes):
        episode, wanted = store.episode(position), recorded(index)
        wanted[f"images/{camera}"] = wanted.pop("images/camera")
        assert episode.columns.keys() == wanted.keys()
        for name, values in wanted.items():
            assert episode.columns[name].dtype == values.dtype
            np.testing.assert_array_equal(episode.columns[name], values)
        assert episode.reward is None and episode.instruction == ""


@pytest.fixture(params=[1, 2])
def old(request: pytest.FixtureRequest, tmp_path: Path) -> TrajectoryStore:
    return TrajectoryStore.open(shutil.copytree(GOLDEN / f"schema_{request.param}.zarr", tmp_path / "old.zarr"))


def test_an_old_store_is_read_as_it_is(old: TrajectoryStore, tmp_path: Path) -> None:
    before = snapshot(old.path)
    assert old.spec == SPEC and old.recording == {"seed": 0}
    assert_holds(old)
    frames = load_frames(old, tmp_path / "frames.npy")
    np.testing.assert_array_equal(frames, old.column("images/camera"))
    actions = np.concatenate([recorded(i)["action"][:-1] for i in range(3)])
    statistics = compute_statistics(old, np.arange(3))
    np.testing.assert_allclose(statistics.action_mean, actions.mean(0), atol=1e-6)
    assert snapshot(old.path) == before


def test_an_old_store_is_upgraded_without_changing_a_frame(old: TrajectoryStore, tmp_path: Path, capsys) -> None:
    before = snapshot(old.path)
    assert main(["upgrade", str(old.path), str(tmp_path / "new.zarr"), "--camera", "top"]) == 0
    assert f"3 episodes, 27 rows, as recorded; schema 3 instead of {old.layout.version}" in " ".join(
        capsys.readouterr().out.split()
    )
    new = TrajectoryStore.open(tmp_path / "new.zarr")
    assert new.layout.version == 3 and new.spec.camera_names == ("top",)
    assert_holds(new, camera="top")
    assert snapshot(old.path) == before
    with EpisodeWriter(new.path, new.spec, new.recording) as writer:  # it can be added to
        writer.append(new.episode(1))
    assert main(["verify", str(new.path)]) == 0


def test_an_interrupted_upgrade_goes_on(old: TrajectoryStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("worldmodel.data.store.rewriting._COMMIT_BYTES", 1)

    def stop(done: int, total: int) -> None:
        if done == 2:
            raise RuntimeError

    with pytest.raises(RuntimeError):
        upgrade(old, tmp_path / "new.zarr", old.spec, stop)
    seen: list[int] = []
    assert_holds(upgrade(old, tmp_path / "new.zarr", old.spec, lambda done, _: seen.append(done)))
    assert seen == [3]


def test_what_is_of_the_present_schema_is_not_upgraded(store: TrajectoryStore, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is of schema 3 already"):
        upgrade(store, tmp_path / "new.zarr", store.spec, quiet)
    assert not (tmp_path / "new.zarr").exists()


def test_an_old_store_is_not_added_to_and_says_what_helps(old: TrajectoryStore) -> None:
    before = snapshot(old.path)
    message = rf"schema {old.layout.version}, which is read and not added to: .*data upgrade .*old\.zarr NEW"
    with pytest.raises(UserError, match=message) as refused:
        EpisodeWriter(old.path, SPEC, {"seed": 0}).__enter__()
    assert "\n" not in str(refused.value)
    assert snapshot(old.path) == before


def test_old_stores_are_packed_split_and_merged(old: TrajectoryStore, tmp_path: Path) -> None:
    assert_holds(pack(old, tmp_path / "packed.zarr", quiet))
    parts = split(old, [tmp_path / "a.zarr", tmp_path / "b.zarr"], [0.34, 0.66], 0, quiet)
    assert sorted(s for part in parts for s in part.episode_seeds.tolist()) == [100, 101, 102]
    upgraded = upgrade(old, tmp_path / "new.zarr", old.spec, quiet)
    assert_holds(merge([old, upgraded], tmp_path / "both.zarr", quiet), (0, 1, 2, 0, 1, 2))


def test_old_stores_are_inspected_viewed_and_recovered(old: TrajectoryStore, tmp_path: Path, capsys) -> None:
    assert main(["inspect", str(old.path), "--sheet", str(tmp_path / "sheet.png")]) == 0
    assert f"schema {old.layout.version}, {'with' if old.records is not None else 'without'} checksums" in " ".join(
        capsys.readouterr().out.split()
    )
    assert main(["view", str(old.path), "--out", str(tmp_path / "episode.mp4")]) == 0
    before = snapshot(old.path)
    assert main(["recover", str(old.path)]) == 0
    assert snapshot(old.path) == before  # whole: it stays what it is


def test_a_damaged_old_store_is_recovered_into_the_present_schema(old: TrajectoryStore) -> None:
    (old.path / "data/pixels/c.1.0.0.0").unlink()  # rows 16 to 26: the second and the third episode
    done = recover(old.path, quiet)
    assert (done.kept, done.lost) == (1, (1, 2))
    assert TrajectoryStore.open(old.path).layout.version == 3
    assert_holds(TrajectoryStore.open(old.path), (0,))


def test_another_recording_of_schema_1_has_another_identity(old: TrajectoryStore) -> None:
    """It has no checksums: the identity is that of its bytes."""
    assert TrajectoryStore.open(old.path).identity == old.identity
    if old.layout.has_checksums:
        return
    chunk = old.path / "data/state/c.0.0"
    values = np.frombuffer(numcodecs.Zstd().decode(chunk.read_bytes()), np.float64).copy()
    values[0] += 1
    chunk.write_bytes(numcodecs.Zstd(level=1, checksum=True).encode(values))
    assert TrajectoryStore.open(old.path).identity != old.identity


@pytest.mark.parametrize("version", [1, 2])
def test_a_new_description_under_an_old_number_is_damaged(store: TrajectoryStore, version: int) -> None:
    file = store.path / "zarr.json"
    content = json.loads(file.read_text())
    content["attributes"]["schema_version"] = version
    content["attributes"]["checksum"] = description_checksum(content["attributes"])
    file.write_text(json.dumps(content))
    with pytest.raises(StoreError, match=f"a store of schema {version} has an image_size, and no cameras"):
        TrajectoryStore.open(store.path)


def test_an_upgrade_can_say_more_of_the_actions(old: TrajectoryStore, tmp_path: Path) -> None:
    held = dataclasses.replace(old.spec, action=dataclasses.replace(old.spec.action, rest=("hold", 0.5)))
    assert upgrade(old, tmp_path / "new.zarr", held, quiet).spec.action.rest == ("hold", 0.5)

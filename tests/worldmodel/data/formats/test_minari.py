"""Data sets that Minari's own library writes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import gymnasium as gym
import h5py
import numpy as np
import pytest
from minari.data_collector import EpisodeBuffer
from minari.dataset.minari_storage import MinariStorage

from worldmodel.core.errors import UserError
from worldmodel.data.formats.actions import ActionOptions
from worldmodel.data.formats.source import FormatError

BOX = gym.spaces.Box
ARM = BOX(np.array([-1.0, -2.0], np.float32), np.array([1.0, 2.0], np.float32), dtype=np.float32)


def write(folder: Path, episodes: list, side: tuple[int, int] = (12, 16), action: gym.Space = ARM, **options) -> Path:
    """`side` of 32 pixels and more makes Minari keep pictures as JPEG."""
    observation = gym.spaces.Dict(
        {"camera": BOX(0, 255, (*side, 3), np.uint8), "arm": gym.spaces.Dict({"joints": BOX(-9, 9, (3,), np.float32)})}
    )
    (folder / "data").mkdir(parents=True)
    storage = MinariStorage.new(
        folder / "data", observation_space=observation, action_space=action, data_format="hdf5", **options
    )
    buffers = []
    for index, episode in enumerate(episodes):
        steps = len(episode.action)
        pixels = np.stack([np.kron(p, np.ones((side[0] // 12, side[1] // 16, 1), np.uint8)) for p in episode.pixels])
        buffers.append(
            EpisodeBuffer(
                id=index,
                seed=40 + index,
                observations={"camera": pixels, "arm": {"joints": episode.proprio}},
                actions=episode.action.astype(np.float32),
                rewards=[0.5 * step for step in range(steps)],
                terminations=[False] * steps,
                truncations=[False] * steps,
                infos={"qpos": episode.state},
            )
        )
    storage.update_episodes(buffers)
    storage.update_metadata({"dataset_id": "arm/push-v0"})
    return folder


def test_everything_is_taken(tmp_path: Path, recorded, import_from, assert_holds) -> None:
    source = write(tmp_path / "push-v0", recorded)
    options = {"rate_hz": 10.0, "proprio": ["observations/arm/joints"], "state": ["infos/qpos"]}
    store = import_from("minari", source, tmp_path / "out.zarr", **options)
    assert_holds(store, recorded)
    assert store.episode_seeds.tolist() == [40, 41, 42]
    np.testing.assert_array_equal(store.episode(1).reward, np.array([0, 0.5, 1, 0], np.float32))
    assert (store.spec.env, store.spec.action.low, store.spec.action.high) == ("arm/push-v0", (-1, -2), (1, 2))
    inner = import_from("minari", source / "data", tmp_path / "inner.zarr", **options)
    assert_holds(inner, recorded)


def test_actions_outside_the_action_space_are_refused(tmp_path: Path, recorded, import_from) -> None:
    source = write(tmp_path / "push-v0", recorded, action=BOX(-0.01, 0.01, (2,), np.float32))
    options = {"rate_hz": 10.0, "proprio": ["none"]}
    with pytest.raises(
        FormatError, match=r"action\[0\] of .* goes from .*, outside the bounds -0\.01 to 0\.01 of the data"
    ):
        import_from("minari", source, tmp_path / "out.zarr", **options)
    store = import_from("minari", source, tmp_path / "out.zarr", control=ActionOptions([-1.0], [1.0]), **options)
    assert store.spec.action.low == (-1.0, -1.0)


def test_pictures_that_minari_keeps_as_jpeg(tmp_path: Path, recorded, import_from) -> None:
    """As its own library reads them."""
    source = write(tmp_path / "jpeg-v0", recorded, side=(36, 48))
    with h5py.File(source / "data/main_data.hdf5") as file:
        assert h5py.check_vlen_dtype(file["episode_0/observations/camera"].dtype) == np.uint8
    store = import_from("minari", source, tmp_path / "out.zarr", rate_hz=10.0, proprio=["none"], size=[36])
    wanted = [
        episode["observations"]["camera"] for episode in MinariStorage.read(source / "data").get_episodes(range(3))
    ]
    for index, pixels in enumerate(wanted):
        np.testing.assert_array_equal(store.episode(index).images["camera"], pixels[:, :, 6:42])


def test_pictures_of_equal_length_as_jpeg(tmp_path: Path, recorded, import_from) -> None:
    black = [type(e)(np.zeros_like(e.pixels), e.action, e.proprio, e.state) for e in recorded]
    source = write(tmp_path / "black-v0", black, side=(36, 48))
    with h5py.File(source / "data/main_data.hdf5") as file:
        assert file["episode_0/observations/camera"].ndim == 2
    store = import_from("minari", source, tmp_path / "out.zarr", rate_hz=10.0, proprio=["none"])
    assert not store.read("images/camera", 0, store.num_rows).any()
    assert store.spec.only_camera.height == 36


def test_discrete_actions_are_refused(tmp_path: Path, recorded, import_from) -> None:
    source = write(tmp_path / "grid-v0", recorded, action=gym.spaces.Discrete(4))
    with pytest.raises(FormatError, match="actions are Discrete: only continuous actions are read"):
        import_from("minari", source, tmp_path / "out.zarr", rate_hz=10.0)


def test_what_there_is_to_choose_from(tmp_path: Path, recorded, import_from) -> None:
    source = write(tmp_path / "push-v0", recorded)
    with pytest.raises(UserError, match="--proprio: infos/qpos, observations/arm/joints, none"):
        import_from("minari", source, tmp_path / "out.zarr", rate_hz=10.0)


def edit(source: Path, **changes: object) -> None:
    path = source / "data/metadata.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_actions_without_bounds_have_those_that_were_taken(tmp_path: Path, recorded, import_from) -> None:
    endless = BOX(-np.inf, np.inf, (2,), np.float32)
    source = write(tmp_path / "push-v0", recorded, action=endless)
    store = import_from("minari", source, tmp_path / "out.zarr", rate_hz=10.0, proprio=["none"])
    assert store.spec.action.high == tuple(np.concatenate([e.action for e in recorded]).max(0))


def _observation_missing(source: Path) -> None:
    with h5py.File(source / "data/main_data.hdf5", "r+") as file:
        pictures = file["episode_1/observations/camera"][:-1]
        del file["episode_1/observations/camera"]
        file["episode_1/observations"].create_dataset("camera", data=pictures)


def _episode_missing(source: Path) -> None:
    with h5py.File(source / "data/main_data.hdf5", "r+") as file:
        del file["episode_1"]


def _picture_broken(source: Path) -> None:
    with h5py.File(source / "data/main_data.hdf5", "r+") as file:
        file["episode_1/observations/camera"][2] = np.frombuffer(b"no JPEG", np.uint8)


@pytest.mark.parametrize(
    ("damage", "side", "message"),
    [
        (_observation_missing, 12, r"camera of episode_1 has 3 rows: expected 4, one more than actions"),
        (_episode_missing, 12, r"episode_1 is not there"),
        (_picture_broken, 36, r"row 2 of observations/camera in episode_1 of .* is not a PNG or JPEG"),
        (lambda s: edit(s, total_steps=17), 12, "says total_steps 17, its episodes have 18"),
        (lambda s: edit(s, total_episodes=2, total_steps=9), 12, "has 3 episodes, .* says 2"),
        (lambda s: edit(s, total_episodes=10**12), 12, "total_episodes is 1000000000000"),
        (lambda s: edit(s, data_format="arrow"), 12, "data_format 'arrow': only hdf5 is read"),
        (lambda s: edit(s, action_space="["), 12, "action_space is not JSON"),
    ],
)
def test_damage_is_named(tmp_path: Path, recorded, import_from, damage: Callable, side: int, message: str) -> None:
    source = write(tmp_path / "push-v0", recorded, side=(side, side // 3 * 4))
    damage(source)
    with pytest.raises(FormatError, match=message):
        import_from("minari", source, tmp_path / "out.zarr", rate_hz=10.0, proprio=["none"])

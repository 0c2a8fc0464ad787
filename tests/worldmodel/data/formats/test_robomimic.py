"""Files laid out as robomimic's documentation has them, written by h5py."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest

from worldmodel.core.errors import UserError
from worldmodel.data.formats.source import FormatError

CAMERA, JOINTS = "obs/agentview_image", "obs/robot0_joint_pos"


def write(path: Path, episodes: list, following: bool = True, freq: float | None = 20.0) -> Path:
    """Demonstrations of T steps; `following` adds `next_obs`."""
    with h5py.File(path, "w") as file:
        data = file.create_group("data")
        env = {"env_name": "Lift", "env_version": "1.4.1", "type": 1, "env_kwargs": {"control_freq": freq}}
        data.attrs["env_args"] = json.dumps(env)
        data.attrs["total"] = sum(len(e.action) for e in episodes)
        for index, episode in enumerate(episodes):
            demo = data.create_group(f"demo_{index}")
            demo.attrs["num_samples"] = len(episode.action)
            demo.create_dataset("actions", data=episode.action)
            demo.create_dataset("states", data=episode.state[:-1])
            demo.create_dataset("rewards", data=index + np.arange(len(episode.action)))
            demo.create_dataset("dones", data=np.zeros(len(episode.action), np.int64))
            for name, rows in (("obs", slice(0, -1)), ("next_obs", slice(1, None)))[: 2 if following else 1]:
                group = demo.create_group(name)
                group.create_dataset("agentview_image", data=episode.pixels[rows], compression="gzip")
                group.create_dataset("robot0_joint_pos", data=episode.proprio[rows].astype(np.float64))
        file.create_group("mask").create_dataset("train", data=np.array([b"demo_0"]))
    return path


def test_without_next_obs_the_last_action_is_left_out(tmp_path: Path, recorded, import_from, assert_holds) -> None:
    source = write(tmp_path / "low.hdf5", recorded, following=False)
    store = import_from("robomimic", source, tmp_path / "out.zarr", proprio=[JOINTS])
    assert_holds(store, recorded, fewer=1)
    assert store.spec.env == "Lift"
    assert store.spec.control_step_s == 0.05
    assert (store.spec.only_camera.height, store.spec.proprio_size, store.spec.state_size) == (12, 3, 4)


def test_next_obs_gives_the_last_observation(tmp_path: Path, recorded, import_from, assert_holds) -> None:
    source = write(tmp_path / "image.hdf5", recorded)
    store = import_from("robomimic", source, tmp_path / "out.zarr", proprio=[JOINTS], state=["none"])
    assert_holds(store, recorded)
    for index, episode in enumerate(recorded):
        wanted = [*(index + np.arange(len(episode.action))), 0]
        np.testing.assert_array_equal(store.episode(index).reward, np.array(wanted, np.float32))
    # States are never there one step later, so with them the last action goes.
    store = import_from("robomimic", source, tmp_path / "states.zarr", proprio=[JOINTS])
    assert_holds(store, recorded, fewer=1)


def test_demonstrations_are_in_the_order_of_their_numbers(tmp_path: Path, recorded, import_from) -> None:
    many = [recorded[i % 3] for i in range(12)]  # demo_10 and demo_11 come after demo_9
    store = import_from("robomimic", write(tmp_path / "many.hdf5", many), tmp_path / "out.zarr", proprio=["none"])
    for index, episode in enumerate(many):
        np.testing.assert_array_equal(store.episode(index).images["agentview_image"][0], episode.pixels[0, :, 2:14])


def test_bounds_are_those_of_the_actions_that_are_written(tmp_path: Path, recorded, import_from) -> None:
    source = write(tmp_path / "image.hdf5", recorded, following=False)
    store = import_from("robomimic", source, tmp_path / "out.zarr", proprio=["none"])
    taken = np.concatenate([episode.action[:-1] for episode in recorded])
    assert store.spec.action.low == tuple(taken.min(0))
    assert store.spec.action.high == tuple(taken.max(0))


def test_columns_are_listed_when_there_is_a_choice(tmp_path: Path, recorded, import_from) -> None:
    source = write(tmp_path / "image.hdf5", recorded)
    with h5py.File(source, "a") as file:
        for demo in file["data"].values():
            demo["obs/robot0_eef_pos"] = demo[JOINTS][:]
    with pytest.raises(UserError, match=f"several columns can be --proprio: obs/robot0_eef_pos, {JOINTS}, none"):
        import_from("robomimic", source, tmp_path / "out.zarr")
    assert not (tmp_path / "out.zarr").exists()


def test_a_file_that_does_not_say_its_rate(tmp_path: Path, recorded, import_from) -> None:
    source = write(tmp_path / "image.hdf5", recorded, freq=None)
    with pytest.raises(UserError, match="does not say how many steps a second has: give --rate"):
        import_from("robomimic", source, tmp_path / "out.zarr", proprio=["none"])
    store = import_from("robomimic", source, tmp_path / "out.zarr", proprio=["none"], rate_hz=50.0)
    assert store.spec.control_step_s == 0.02


def _object(file: h5py.File) -> None:
    del file["data/demo_1/actions"]
    file["data/demo_1"].create_dataset("actions", data=np.array(["x"], object), dtype=h5py.string_dtype())


def _external_link(file: h5py.File) -> None:
    del file["data/demo_1/actions"]
    file["data/demo_1/actions"] = h5py.ExternalLink("/etc/other.hdf5", "/actions")


def _soft_link(file: h5py.File) -> None:
    del file["data/demo_1"]
    file["data/demo_1"] = h5py.SoftLink("/data/demo_0")


def _external_storage(file: h5py.File) -> None:
    del file["data/demo_1/actions"]
    file["data/demo_1"].create_dataset("actions", (3, 2), "f8", external=[("/etc/passwd", 0, 48)])


def _virtual(file: h5py.File) -> None:
    layout = h5py.VirtualLayout((3, 2), "f8")
    layout[:] = h5py.VirtualSource("/etc/other.hdf5", "actions", (3, 2))
    del file["data/demo_1/actions"]
    file["data/demo_1"].create_virtual_dataset("actions", layout)


def _never_written(file: h5py.File) -> None:
    del file["data/demo_1/actions"]
    file["data/demo_1"].create_dataset("actions", (3, 2), "f8")


def _chunk_never_written(file: h5py.File) -> None:
    del file["data/demo_2/obs/agentview_image"]
    pictures = file["data/demo_2/obs"].create_dataset("agentview_image", (9, 12, 16, 3), "u1", chunks=(4, 12, 16, 3))
    pictures[:4] = 1


def _huge(file: h5py.File) -> None:
    del file["data/demo_1/actions"]
    file["data/demo_1"].create_dataset("actions", (10**12, 2), "f8", chunks=(10**9, 2))


def _too_wide(file: h5py.File) -> None:
    del file["data/demo_1/actions"]
    file["data/demo_1"].create_dataset("actions", data=np.zeros((3, 5000)))


def _uneven(file: h5py.File) -> None:
    del file["data/demo_1/actions"]
    file["data/demo_1"].create_dataset("actions", data=np.zeros((5, 2)))


def _missing(file: h5py.File) -> None:
    del file["data/demo_1/obs/agentview_image"]


def _infinite(file: h5py.File) -> None:
    file["data/demo_1/actions"][1, 0] = np.inf


def _wrong_total(file: h5py.File) -> None:
    file["data"].attrs["total"] = 19


def _broken_json(file: h5py.File) -> None:
    file["data"].attrs["env_args"] = "{"


def _nothing(file: h5py.File) -> None:
    del file["data"]
    file.create_group("data")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (_object, r"/data/demo_1/actions holds object: only numbers are read, never objects"),
        (_external_link, r"/data/demo_1/actions is a link, which is not followed"),
        (_soft_link, r"/data/demo_1 is a link, which is not followed"),
        (_external_storage, r"/data/demo_1/actions is kept in other files, which are not followed"),
        (_virtual, r"/data/demo_1/actions is kept in other files, which are not followed"),
        (_never_written, r"/data/demo_1/actions was never written: it would be read as zeros"),
        (
            _chunk_never_written,
            r"/data/demo_2/obs/agentview_image has 1 of 3 chunks: the others would be read as zeros",
        ),
        (_huge, r"/data/demo_1/actions has chunks of 16,000,000,000 bytes: at most"),
        (_too_wide, r"/data/demo_1/actions has rows \[5000\]: at most 4,096 numbers"),
        (_uneven, r"columns of demo_1 have .*'actions': 5.* rows, its num_samples says 3"),
        (_missing, r"/data/demo_1/obs/agentview_image is not there"),
        (_infinite, r"actions in episode 1 .* has a number that is not finite, in row 1"),
        (_wrong_total, r"data says total 19, its demonstrations have 18 steps"),
        (_broken_json, r"env_args of data is not JSON"),
        (_nothing, r"data has no demo_0"),
    ],
    ids=lambda value: value.__name__ if callable(value) else "",
)
def test_damage_and_traps_are_named(tmp_path: Path, recorded, import_from, damage: Callable, message: str) -> None:
    source = write(tmp_path / "image.hdf5", recorded)
    with h5py.File(source, "r+") as file:
        damage(file)
    with pytest.raises(FormatError, match=message):
        import_from("robomimic", source, tmp_path / "out.zarr", proprio=[JOINTS], state=["none"])


@pytest.mark.parametrize("cut", [0, 10, 0.5, 0.9])
def test_a_truncated_file_is_an_error(tmp_path: Path, recorded, import_from, cut: float) -> None:
    source = write(tmp_path / "image.hdf5", recorded)
    content = source.read_bytes()
    source.write_bytes(content[: int(cut * len(content)) if cut < 1 else int(cut)])
    with pytest.raises(FormatError, match=r"image\.hdf5"):
        import_from("robomimic", source, tmp_path / "out.zarr", proprio=[JOINTS])

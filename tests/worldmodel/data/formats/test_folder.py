"""Pictures or videos, and numbers as CSV or NPY."""

from __future__ import annotations

import io
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from worldmodel.core.errors import UserError
from worldmodel.data.formats.source import FormatError
from worldmodel.data.formats.video import VideoWriter


def write(root: Path, episodes: list, fewer: int = 0) -> Path:
    """Sub-folders with PNG files numbered from 8, action as CSV with a heading, proprioception as CSV without, state as
    NPY; `fewer` leaves out observations at the end."""
    for number, episode in enumerate(episodes):
        folder = root / f"episode_{number + 9}"
        folder.mkdir(parents=True)
        rows = len(episode.pixels) - fewer
        for row in range(rows):
            Image.fromarray(episode.pixels[row]).save(folder / f"{row + 8}.png")
        np.savetxt(folder / "action.csv", episode.action, delimiter=",", header="vx,vy", comments="")
        np.savetxt(folder / "proprio.csv", episode.proprio[:rows], delimiter=",", fmt="%.9g")
        np.save(folder / "state.npy", episode.state[:rows])
    return root


def test_one_observation_more_than_actions(tmp_path: Path, recorded, import_from, assert_holds) -> None:
    store = import_from("folder", write(tmp_path / "run", recorded), tmp_path / "out.zarr", rate_hz=25.0)
    assert_holds(store, recorded)
    assert (store.spec.env, store.spec.control_step_s) == ("run", 0.04)


def test_as_many_observations_as_actions(tmp_path: Path, recorded, import_from, assert_holds) -> None:
    source = write(tmp_path / "run", recorded, fewer=1)
    assert_holds(import_from("folder", source, tmp_path / "out.zarr", rate_hz=25.0), recorded, fewer=1)


def test_two_observations_fewer_than_actions_are_an_error(tmp_path: Path, recorded, import_from) -> None:
    source = write(tmp_path / "run", recorded, fewer=2)
    with pytest.raises(
        FormatError, match=r"episode 0 of .* has 6 actions and 5 observations: expected as many, or one"
    ):
        import_from("folder", source, tmp_path / "out.zarr", rate_hz=25.0)


def test_a_folder_for_each_camera(tmp_path: Path, recorded, import_from, assert_holds) -> None:
    source = write(tmp_path / "run", recorded)
    for episode in source.iterdir():
        (episode / "top").mkdir()
        for picture in episode.glob("*.png"):
            picture.rename(episode / "top" / picture.name)
        (episode / "wrist").mkdir()
        for picture in (episode / "top").iterdir():
            Image.new("RGB", (16, 12)).save(episode / "wrist" / f"{picture.stem}.jpg")
    with pytest.raises(UserError, match="several columns can be --camera: top, wrist"):
        import_from("folder", source, tmp_path / "out.zarr", rate_hz=25.0)
    assert_holds(import_from("folder", source, tmp_path / "out.zarr", rate_hz=25.0, camera=["top"]), recorded)


def film(path: Path, rows: int, number: int, rate: int = 20) -> None:
    path.parent.mkdir(exist_ok=True)
    with VideoWriter(path, rate, 48, 64, crf=10) as video:
        for row in range(rows):
            video.add(np.full((48, 64, 3), 20 * row + 5 * number, np.uint8))


@pytest.mark.parametrize("beside", [True, False])
def test_videos(tmp_path: Path, recorded, import_from, beside: bool) -> None:
    """Beside their numbers, or in a folder with them; their rate is the recording's."""
    root = tmp_path / "run"
    for number, episode in enumerate(recorded):
        folder = root if beside else root / f"e{number}"
        folder.mkdir(parents=True, exist_ok=True)
        film(folder / (f"e{number}.mp4" if beside else "top.mp4"), len(episode.pixels), number)
        np.save(folder / (f"e{number}.npy" if beside else "actions.npy"), episode.action)
        np.save(folder / (f"e{number}.proprio.npy" if beside else "proprio.npy"), episode.proprio)
    store = import_from("folder", root, tmp_path / "out.zarr", size=[24])
    assert store.spec.control_step_s == pytest.approx(0.05)
    for number, episode in enumerate(recorded):
        found = store.episode(number)
        brightness = next(iter(found.images.values())).mean((1, 2, 3))
        np.testing.assert_allclose(brightness, 20 * np.arange(len(episode.pixels)) + 5 * number, atol=3)
        np.testing.assert_array_equal(found.action[:-1], episode.action)
        np.testing.assert_array_equal(found.proprio, episode.proprio)


def save_object(path: Path) -> None:
    np.save(path, np.array([{"a": 1}], object), allow_pickle=True)


def claim(path: Path, shape: tuple[int, ...]) -> None:
    """A header, and next to nothing behind it."""
    with path.open("wb") as file:
        header = {"descr": "<f8", "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(file, header)
        file.write(bytes(64))


def swap_picture(path: Path, content: bytes) -> None:
    path.write_bytes(content)


def gif() -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (16, 12)).save(file, format="GIF")
    return file.getvalue()


def link_out(path: Path) -> None:
    path.unlink()
    path.symlink_to("/etc/passwd")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda e: save_object(e / "state.npy"), r"state\.npy holds object: only numbers are read, never objects"),
        (lambda e: claim(e / "state.npy", (10**12, 4)), r"state\.npy says \[1000000000000, 4\] of float64"),
        (lambda e: claim(e / "state.npy", (2**62, 2**62)), r"state\.npy says"),
        (lambda e: (e / "state.npy").write_bytes(b"\x93NUMPY"), r"state\.npy is not an NPY file"),
        (lambda e: np.save(e / "state.npy", np.zeros((4, 5000))), r"state\.npy has rows \[5000\]"),
        (lambda e: np.save(e / "state.npy", np.full((4, 4), np.nan)), "state in episode 1 .* not finite, in row 0"),
        (lambda e: (e / "action.csv").write_text("1,2\n3\n"), r"action\.csv: row 1 has 1 numbers, the first has 2"),
        (lambda e: (e / "action.csv").write_text("1,2\nx,4\n"), r"action\.csv: row 1 is not numbers"),
        (lambda e: (e / "action.csv").write_text('"' * 200_001), r"action\.csv"),
        (lambda e: (e / "action.csv").unlink(), "episode 1 of .* has no action"),
        (lambda e: (e / "9.png").unlink(), "episode 1 of .* has .*'camera': 3"),
        (lambda e: (e / "9.png").write_bytes(gif()), r"9\.png is not a PNG or JPEG"),
        (lambda e: link_out(e / "9.png"), r"9\.png is a link that leads out of"),
        (lambda e: link_out(e / "state.npy"), r"state\.npy is a link that leads out of"),
        (lambda e: np.save(e / "action.npy", np.zeros((3, 2))), "two columns are called action"),
    ],
)
def test_damage_and_traps_are_named(tmp_path: Path, recorded, import_from, damage: Callable, message: str) -> None:
    source = write(tmp_path / "run", recorded)
    damage(source / "episode_10")
    with pytest.raises(FormatError, match=message):
        import_from("folder", source, tmp_path / "out.zarr", rate_hz=25.0)


def test_a_video_that_is_cut_short(tmp_path: Path, recorded, import_from) -> None:
    source = write(tmp_path / "run", recorded)
    for episode in source.iterdir():
        for picture in episode.glob("*.png"):
            picture.unlink()
    for number, episode in enumerate(recorded):
        film(source / f"episode_{number + 9}" / "top.mp4", len(episode.pixels) - (number == 1), number)
    with pytest.raises(FormatError, match=r"episode 1 of .* has \{'top': 3"):
        import_from("folder", source, tmp_path / "out.zarr")


def rename_action(root: Path) -> None:
    for folder in root.iterdir():
        np.savez(folder / "action.npz", np.loadtxt(folder / "action.csv", delimiter=",", skiprows=1))
        (folder / "action.csv").unlink()


def test_proprioception_is_not_taken_for_the_action(tmp_path: Path, recorded, import_from) -> None:
    source = write(tmp_path / "run", recorded)
    rename_action(source)
    with pytest.raises(FormatError, match=r"action\.npz: action is read from \.csv or \.npy, not from \.npz"):
        import_from("folder", source, tmp_path / "out.zarr", rate_hz=25.0)
    for folder in source.iterdir():
        (folder / "action.npz").unlink()
        (folder / "state.npy").unlink()
    for given in ({}, {"proprio": ["proprio"]}, {"proprio": ["proprio[0:2]"]}):
        with pytest.raises(UserError, match="nothing in it can be --action: it has proprio"):
            import_from("folder", source, tmp_path / "out.zarr", rate_hz=25.0, **given)
    for folder in source.iterdir():
        (folder / "proprio.csv").rename(folder / "joints.csv")
    for given in (["joints"], ["joints[0:2]"]):
        with pytest.raises(UserError, match="nothing in it can be --action: it has joints"):
            import_from("folder", source, tmp_path / "out.zarr", rate_hz=25.0, proprio=given)


def test_pictures_alone_are_no_recording(tmp_path: Path, recorded, import_from) -> None:
    source = write(tmp_path / "run", recorded)
    for file in [*source.rglob("*.csv"), *source.rglob("*.npy")]:
        file.unlink()
    for given in ({}, {"action": ["action"]}):
        with pytest.raises(UserError, match="it has no column of numbers"):
            import_from("folder", source, tmp_path / "out.zarr", rate_hz=25.0, **given)


def test_videos_of_two_rates_are_refused(tmp_path: Path, recorded, import_from) -> None:
    for number, episode in enumerate(recorded):
        film(tmp_path / "run" / f"e{number}.mp4", len(episode.pixels), number, rate=30 if number else 24)
        np.save(tmp_path / "run" / f"e{number}.npy", episode.action)
    with pytest.raises(FormatError, match=r"e1\.mp4 has 30 pictures per second, the first video has 24"):
        import_from("folder", tmp_path / "run", tmp_path / "out.zarr")


@pytest.mark.parametrize("name", ["action.npy", "9.png", "action.csv", "top.mp4", "unused.npy"])
def test_pipes_are_refused_at_once(tmp_path: Path, recorded, import_from, name: str) -> None:
    """In the first episode and in a later one; also where nobody asked for the column."""
    for number in (9, 10):
        source = write(tmp_path / f"run{number}", recorded)
        for suffix in ("csv", "npy"):
            if name == f"action.{suffix}":
                (source / f"episode_{number}" / "action.csv").unlink()
        (source / f"episode_{number}" / name).unlink(missing_ok=True)
        os.mkfifo(source / f"episode_{number}" / name)
        with pytest.raises(
            UserError, match=rf"{name} is not there, or not a file|has no action|several columns|'camera'"
        ):
            import_from("folder", source, tmp_path / f"out{number}.zarr", rate_hz=25.0, camera=["camera"])


def test_nothing_to_read(tmp_path: Path, import_from) -> None:
    (tmp_path / "run").mkdir()
    with pytest.raises(FormatError, match="has no episode: expected sub-folders or videos"):
        import_from("folder", tmp_path / "run", tmp_path / "out.zarr")

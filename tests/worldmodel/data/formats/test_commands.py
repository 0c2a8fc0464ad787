"""Import and export as they are typed."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from worldmodel.core import registry
from worldmodel.data import TrajectoryStore
from worldmodel.data.__main__ import main
from worldmodel.data.formats import lerobot_export
from worldmodel.data.formats.mapping import Choice
from worldmodel.data.formats.registry import OURS
from worldmodel.data.formats.source import Facts, Feature, Length, Source


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two episodes of three pictures and two actions."""
    for number in range(2):
        place = tmp_path / "run" / f"e{number}"
        place.mkdir(parents=True)
        for row in range(3):
            Image.new("RGB", (16, 12), (50 * row, 0, 0)).save(place / f"{row}.png")
        np.save(place / "action.npy", np.array([[0.5], [-0.5]]))
    return tmp_path / "run"


def test_a_dry_run_tells_everything_and_writes_nothing(folder: Path, capsys: pytest.CaptureFixture) -> None:
    out = folder.parent / "out.zarr"
    given = ["import", "folder", str(folder), str(out), "--rate", "10", "--fit", "letterbox", "--size", "8"]
    assert main([*given, "--dry-run"]) == 0
    told = " ".join(capsys.readouterr().out.split())
    for expected in (
        "camera 12 x 16 x 3 png/jpeg camera camera",
        "action 1 float64 action",
        "with black borders to 16 x 16, resized to 8 x 8",
        "2 episodes, 6 observations, 4 steps at 10 per second",
        "action; bounds: smallest and largest that was taken",
        "action_0 -0.5 0.5 zero continuous",
        "nothing was written",
    ):
        assert expected in told
    assert [path.name for path in folder.parent.iterdir()] == ["run"]
    assert main(given) == 0
    assert "2 episodes, 6 observations and 4 steps" in capsys.readouterr().out
    assert TrajectoryStore.open(out).spec.only_camera.height == 8


class Ramp(Source):
    """A format from elsewhere: two episodes of three pictures that grow brighter."""

    def __init__(self, path: Path) -> None:
        features = {"view": Feature("view", (8, 8, 3), "uint8", True), "action": Feature("action", (1,), "f4", False)}
        super().__init__(path, Facts("ramp", "ramp", rate_hz=5.0, usual={"action": "action"}), features)

    def lengths(self, choice: Choice) -> list[Length]:
        return [Length(3, 2)] * 2

    def column(self, episode: int, name: str, rows: int) -> np.ndarray:
        return np.linspace(-1, 1, rows)[:, None] + episode

    def frames(self, episode: int, name: str, rows: int) -> Iterator[np.ndarray]:
        yield from (np.full((8, 8, 3), 9 * row, np.uint8) for row in range(rows))

    def fingerprint(self) -> str:
        return "ramp"


def test_a_format_of_a_plug_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(registry._registered, "format", {})
    registry.register("format", "ramp", Ramp)
    assert main(["import", "ramp", str(tmp_path), str(tmp_path / "out.zarr")]) == 0
    store = TrajectoryStore.open(tmp_path / "out.zarr")
    assert (store.num_episodes, store.spec.camera_names, store.spec.control_step_s) == (2, ("view",), 0.2)


def test_there_and_back(store: TrajectoryStore, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    exported, back = str(tmp_path / "exported"), tmp_path / "back.zarr"
    assert main(["export", "lerobot", str(store.path), exported, "--images", "png", "--task", "push"]) == 0
    assert "5 episodes, 106 rows" in capsys.readouterr().out
    assert main(["import", "lerobot", exported, str(back)]) == 0
    copied = TrajectoryStore.open(back)
    assert copied.records is not None
    assert store.records is not None
    assert (copied.records == store.records).all()


def test_an_interrupted_export_says_so(
    store: TrajectoryStore, tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(lerobot_export, "encode_png", interrupt)
    target = tmp_path / "exported"
    assert main(["export", "lerobot", str(store.path), str(target), "--images", "png"]) == 130
    assert f"nothing is at {target} yet; the same command begins anew" in capsys.readouterr().out
    assert [path.name for path in tmp_path.iterdir()] == ["data.zarr"]


def test_an_export_to_a_full_disk_leaves_nothing(store: TrajectoryStore, tmp_path: Path, capsys, monkeypatch) -> None:
    def fill(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(lerobot_export, "encode_png", fill)
    with pytest.raises(SystemExit, match="1"):
        main(["export", "lerobot", str(store.path), str(tmp_path / "out"), "--images", "png"])
    assert "cannot be written to (No space left on device): nothing is there" in capsys.readouterr().out
    assert [path.name for path in tmp_path.iterdir()] == ["data.zarr"]


def test_an_export_to_no_place_is_refused(store: TrajectoryStore, capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["export", "lerobot", str(store.path), str(store.path / "zarr.json" / "out")])
    assert ended.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "TARGET" in line and "cannot be written to" in line


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["import"], "are required"),
        (["import", "hdf6", "a", "b"], "unknown format 'hdf6': choose from diffusion_policy, folder, lerobot, minari"),
        (["import", "folder", ".", "b", "--fill-missing"], "only the format diffusion_policy has it, not folder"),
        (["export", "minari", "a", "b"], "choose from 'lerobot'"),
        (["import", "minari", "nowhere", "b"], "nothing is at nowhere: expected a data set of the format minari"),
        (["import", "lerobot", ".", "b"], "meta/info.json is not there"),
        (["import", "robomimic", ".", "b"], "is not there, or not a file"),
        (["import", "folder", "/dev/null", "b"], "/dev/null is not a folder"),
        (["import", "diffusion_policy", "/dev/null", "b"], "/dev/null is not there, or not a file"),
        (["import", "folder", ".", "b", "--fit", "stretch"], "choose from 'crop', 'letterbox'"),
        (["export", "lerobot", "nowhere.zarr", "b"], "no recording at nowhere.zarr"),
        (["export", "lerobot", "a", "b", "--crf", "52"], "--crf 52: expected 0 to 51"),
    ],
)
def test_what_cannot_be_used_ends_in_one_line(
    arguments: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    assert message in line
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("format_name", "library"),
    [
        ("lerobot", "pyarrow"),
        ("robomimic", "h5py"),
        ("minari", "h5py"),
        ("folder", "av"),
    ],
)
def test_a_missing_library_is_named_with_its_extra(
    format_name: str, library: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    for name in [name for name in sys.modules if name.startswith("worldmodel.data.formats.")]:
        if name.rpartition(".")[2] in (*OURS, "hdf5", "parquet", "video", "zarr2"):
            monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(SystemExit) as ended:
        main(["import", format_name, str(tmp_path), str(tmp_path / "out.zarr")])
    assert ended.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert f"needs {library}, which is not installed: pip install -c constraints.txt -e '.[formats]'" in line

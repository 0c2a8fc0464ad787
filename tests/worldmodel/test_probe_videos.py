"""`python -m worldmodel.probe` on videos with classes."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from envs.clips import write_clip
from tests.commands import Ended, assert_refused, type_in
from tests.worldmodel.toy import draw

SHAPE = ("encoder.width=32", "encoder.depth=1", "encoder.heads=2", "device=cpu", "labelled.workers=1")
CLIP = ("labelled.frames=4", "labelled.stride=1", "labelled.size=32")
GRID = ("grid.epochs=30", "grid.batch_size=16", "grid.learning_rates=[0.01,0.001]", "grid.weight_decays=[0.01]")
COUNTS = {"train": 32, "val": 12, "test": 16}


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A square that moves to the right in the upper or lower half, with its corner as the point."""
    folder = tmp_path_factory.mktemp("clips")
    rng = np.random.default_rng(0)
    for split, count in COUNTS.items():
        lines = ["path,frame,x,y,visible"]
        for number in range(count):
            label = ("upper", "lower")[number % 2]
            start = np.array([rng.uniform(0, 12), rng.uniform(0, 8) + 16 * (number % 2)])
            places = start + np.arange(4)[:, None] * [3, 0]
            path = folder / split / label / f"{number}.mp4"
            path.parent.mkdir(parents=True, exist_ok=True)
            write_clip(path, np.stack([draw(place) for place in places]), 8)
            lines += [f"{label}/{number}.mp4,{t},{x / 32},{y / 32},1" for t, (x, y) in enumerate(places)]
        (folder / split / "points.csv").write_text("\n".join(lines))
    return folder


def probed(folder: Path, clips: Path, *options: str) -> tuple[Ended, dict]:
    given = (f"data={clips}", "features=f", "out=probe.json", *SHAPE, *CLIP, *GRID, *options)
    ended = type_in(folder, "worldmodel.probe", *given)
    assert (ended.code, ended.err) == (0, ""), ended
    return ended, json.loads((folder / "probe.json").read_text())


def test_classes_are_read_by_both_probes(tmp_path: Path, clips: Path) -> None:
    ended, figures = probed(tmp_path, clips, "encoder_from=random", "grid.depth=2")
    assert figures["clips"] == COUNTS and figures["classes"] == ["lower", "upper"] and figures["chance"] == 0.5
    assert set(figures["data"]) == set(COUNTS)
    assert figures["probes"]["attentive"]["accuracy"] > 0.8
    for result in figures["probes"].values():
        assert len(result["right"]) == 16 and np.mean(result["right"]) == pytest.approx(result["accuracy"])
        assert result["low"] <= result["accuracy"] <= result["high"]
    for words in ("classes of 16 clips", "accuracy in %", "most frequent class", "learning rate"):
        assert words in ended.out
    files = sorted(path.name for path in (tmp_path / "f").glob("clips.*.npy"))
    assert len(files) == 3
    _, again = probed(tmp_path, clips, "encoder_from=random", "grid.depth=2")
    assert again == figures
    assert sorted(path.name for path in (tmp_path / "f").glob("clips.*.npy")) == files


def test_points_are_read_off_pixels(tmp_path: Path, clips: Path) -> None:
    ended, figures = probed(tmp_path, clips, "encoder_from=pixels", "read=points", "probes=[linear]", "grid.epochs=80")
    found = figures["probes"]["linear"]
    assert found["error"] < 0.5 * found["reference_error"] and found["hidden_error"] is None
    assert len(found["errors"]) == 16 and "error in pixels" in ended.out


def test_clips_of_another_class_stand_out(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for number in range(40):
        frames = np.stack([draw(place) for place in rng.uniform(0, 12, 2) + np.arange(4)[:, None] * [3, 0]])
        path = tmp_path / "data" / ("usual", "odd")[number % 2] / f"{number}.mp4"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_clip(path, 255 - frames if number % 2 else frames, 8)
    options = ("encoder_from=random", "read=anomalies", "normal=usual", "val_fraction=0.3")
    ended, figures = probed(tmp_path, tmp_path / "data", *options)
    assert set(figures["probes"]) == {"gaussian", "nearest"} and "AUROC" in ended.out
    assert max(result["auroc"] for result in figures["probes"].values()) > 0.7


@pytest.mark.slow
def test_splits_are_taken_from_one_folder(tmp_path: Path, clips: Path) -> None:
    options = ("encoder_from=pixels", "probes=[linear]", "val_fraction=0.25")
    _, figures = probed(tmp_path, clips / "train", *options)
    assert figures["clips"] == {"train": 18, "val": 8, "test": 6}
    lines = [f"{path} {int(path.parent.name == 'upper')}" for path in sorted((clips / "train").rglob("*.mp4"))]
    (tmp_path / "list.csv").write_text("\n".join(lines))
    _, listed = probed(tmp_path, tmp_path / "list.csv", *options, f"test_data={tmp_path / 'list.csv'}")
    assert listed["classes"] == ["0", "1"] and listed["clips"] == {"train": 24, "val": 8, "test": 32}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("read=state",), "read=state with videos as data: expected classes, points, anomalies"),
        (("read=clases",), "did you mean classes?"),
        (("probes=[linar]",), "did you mean linear?"),
        (("read=anomalies",), "read=anomalies needs normal=CLASS"),
        (("normal=upper",), "read=anomalies needs normal=CLASS"),
        (("val_fraction=0.9",), "val_fraction 0.9: expected a number between 0 and 0.5"),
        (("read=points", "labelled.segments=2"), "labelled.segments 2 with read=points: expected 1"),
        (("encoder_from=random", "labelled.frames=3"), "expected a multiple of the encoder's 2 tubelet frames"),
        (("encoder_from=nowhere",), "no encoder at nowhere"),
        (("grid.learning_rates=[]",), "learning_rates []: expected numbers from 0"),
        (("test_data=nowhere/",), "nothing is at nowhere"),
    ],
)
def test_what_cannot_be_probed(tmp_path: Path, clips: Path, options: tuple[str, ...], message: str) -> None:
    given = (f"data={clips}", "features=f", "encoder_from=pixels", *SHAPE, *CLIP, *options)
    assert_refused(type_in(tmp_path, "worldmodel.probe", *given), message)
    assert list(tmp_path.iterdir()) == []


def test_a_class_that_does_not_exist_is_refused(tmp_path: Path, clips: Path) -> None:
    given = (f"data={clips}", "features=f", "encoder_from=pixels", *SHAPE, *CLIP, "read=anomalies", "normal=uper")
    assert_refused(type_in(tmp_path, "worldmodel.probe", *given), "did you mean upper?")

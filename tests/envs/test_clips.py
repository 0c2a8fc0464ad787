"""`python -m envs.clips`: the files of a set of labelled clips."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import av
import numpy as np
import pytest
from numpy.typing import NDArray

from envs.motion.motions import draw_motion
from envs.motion.scene import ClipScene
from tests.commands import Ended, assert_refused, type_in

COUNTS = ("train=6", "val=2", "test=4")
FEW = (*COUNTS, "size=32", "frames=6", "out=set")


def make(folder: Path, *options: str) -> Ended:
    ended = type_in(folder, "envs.clips", *FEW, *options)
    assert (ended.code, ended.err) == (0, ""), ended
    return ended


def pictures(path: Path) -> NDArray[np.uint8]:
    with av.open(str(path)) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_a_set_has_a_folder_for_every_class_and_loses_no_pixel(tmp_path: Path) -> None:
    ended = make(tmp_path, "task=occlusion")
    assert "Does it come out as it went in? same, changed · 6 train, 2 val, 4 test" in ended.out
    assert "next: python -m worldmodel.probe data=set encoder_from=..." in ended.out
    names = [f"{split}/{label}/{number:06d}.mp4" for split, count in (("test", 4), ("train", 6), ("val", 2))
             for number in range(count) for label in (("same", "changed")[number % 2],)]  # fmt: skip
    found = files(tmp_path / "set")
    assert sorted(found) == sorted([*names, "clips.json", *(f"{s}/points.csv" for s in ("train", "val", "test"))])
    rng, scene = np.random.default_rng([0, 2, 3]), ClipScene(32)
    motion = draw_motion("occlusion", 3, 6, rng)
    scenery = int(rng.integers(1, 2**31))
    try:
        np.testing.assert_array_equal(pictures(tmp_path / "set/test/changed/000003.mp4"), scene.render(motion, scenery))
        points = scene.points(motion, scenery) / 32
    finally:
        scene.close()
    with (tmp_path / "set/test/points.csv").open(newline="") as lines:
        rows = [row for row in csv.DictReader(lines) if row["path"] == "changed/000003.mp4"]
    np.testing.assert_allclose([[float(row["x"]), float(row["y"])] for row in rows], points, atol=1e-4)
    assert [int(row["visible"]) for row in rows] == motion.visible()[:, 0].astype(int).tolist()
    different = {content for name, content in found.items() if name.endswith(".mp4")}
    assert len(different) == 12, "no clip is in two splits"


def test_the_same_command_goes_on_and_a_set_may_grow(tmp_path: Path) -> None:
    make(tmp_path, "task=order")
    whole = files(tmp_path / "set")
    (tmp_path / "set/train/disc_first/000002.mp4").unlink()
    make(tmp_path, "task=order")
    assert files(tmp_path / "set") == whole
    make(tmp_path, "task=order", "train=8")
    grown = files(tmp_path / "set")
    assert len(grown) == len(whole) + 2
    assert all(grown[name] == content for name, content in whole.items() if name.endswith(".mp4"))
    for change, message in (("seed=1", "seed=0, this command asks for 1"), ("train=7", "train=8")):
        assert_refused(type_in(tmp_path, "envs.clips", *FEW, "task=order", "train=8", change), message)
    assert files(tmp_path / "set") == grown


def test_discs_that_meet_have_no_points(tmp_path: Path) -> None:
    make(tmp_path, "task=collision", "distractors=false")
    assert not list((tmp_path / "set").rglob("points.csv"))
    assert json.loads((tmp_path / "set/clips.json").read_text())["task"] == "collision"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("task=spead",), "did you mean speed?"),
        (("frames=2",), "frames 2: expected a whole number from 4"),
        (("size=33",), "size 33: expected an even number"),
        (("train=0",), "train 0: expected a whole number from 1"),
        (("out=",), "out is"),
    ],
)
def test_other_sets_are_refused(tmp_path: Path, options: tuple[str, ...], message: str) -> None:
    assert_refused(type_in(tmp_path, "envs.clips", *options), message)
    assert list(tmp_path.iterdir()) == []


def test_files_of_others_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "set" / "train").mkdir(parents=True)
    assert_refused(type_in(tmp_path, "envs.clips", *FEW), "set has other files in train, val, test")

"""`python -m worldmodel.pretrain data=<videos>`: what it leaves, how it goes on, and how it refuses."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path

import pytest

from tests.worldmodel.commands import TOY, TOY_ENV, finish, run, start
from tests.worldmodel.data.videos.making import write_hostile, write_video
from worldmodel.core.errors import UserError
from worldmodel.core.spec import one_camera
from worldmodel.data import TrajectoryStore
from worldmodel.encoders.registry import load_encoder

PRETRAIN = "worldmodel.pretrain"
FEW = ("device=cpu", *TOY[PRETRAIN], "trainer.steps=12", "trainer.evaluate_every=6", "videos.size=32", "cache=c/f.npy")
FAST = ("trainer.checkpoint_every_s=0", "videos.workers=1", "out=run")


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("videos")
    write_video(folder / "a.mp4", seed=1)
    write_video(folder / "b.webm", codec="libvpx", size=(64, 64), seed=2)
    write_video(folder / "c" / "d.avi", codec="mpeg4", rate=25, seed=3)
    write_hostile(folder / "hostile")
    return folder


@pytest.fixture(scope="module")
def unbroken(videos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("unbroken")
    result = run(PRETRAIN, (*FEW, *FAST, f"data={videos}"), folder)
    assert result.exit_code == 0, result
    assert "3 videos of 0.00 hours; 10 of 13 files are left out (is no file: 2, " in " ".join(result.stdout.split())
    assert "next: python -m worldmodel.train env=robot env.name=toy encoder_from=run" in result.stdout
    return folder


def test_videos_leave_an_encoder_for_images_of_their_size_and_of_no_environment(unbroken: Path, videos: Path) -> None:
    folder = unbroken / "run"
    assert load_encoder(folder, one_camera(32)).config.width == 32
    with pytest.raises(UserError, match="was made for pictures of 32 x 32, camera camera has 64 x 64"):
        load_encoder(folder, one_camera(64))
    config = json.loads((folder / "config.json").read_text())
    assert "environment" not in config and config["cameras"] == [{"name": "camera", "height": 32, "width": 32}]
    assert len(json.loads((folder / "run.json").read_text())["files"]) == 64
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    assert all(line["files_skipped"] == 0 and 0 <= line["clips_waited"] <= 1 for line in lines if "loss" in line)
    assert {"spread", "effective_rank"} <= set(lines[-1])
    assert [path.name[:7] for path in (unbroken / "c").iterdir()] == ["videos."]


@pytest.mark.parametrize("number", [signal.SIGKILL, pytest.param(signal.SIGINT, marks=pytest.mark.slow)])
def test_a_broken_training_ends_like_an_unbroken_one(
    number: signal.Signals, unbroken: Path, videos: Path, tmp_path: Path
) -> None:
    given = (*FEW, *FAST, f"data={videos}")
    process = start(PRETRAIN, given, tmp_path)
    while process.is_alive() and not (tmp_path / "run" / "training.pt").exists():
        time.sleep(0.005)
    assert process.pid is not None
    os.kill(process.pid, number)
    process.join(60)
    result = finish(process, tmp_path)
    if number == signal.SIGINT:
        assert result.exit_code == 130, result
        assert "interrupted: what was finished is kept; the same command goes on from there" in result.stdout
    assert not (tmp_path / "run" / "config.json").exists()
    result = run(PRETRAIN, given, tmp_path)
    assert result.exit_code == 0, result
    mine, theirs = (folder / "run" / "model.safetensors" for folder in (tmp_path, unbroken))
    assert mine.read_bytes() == theirs.read_bytes()


def test_other_videos_in_the_same_place_are_another_run(unbroken: Path, videos: Path) -> None:
    write_video(videos / "more.mp4")
    try:
        result = run(PRETRAIN, (*FEW, *FAST, f"data={videos}"), unbroken)
    finally:
        (videos / "more.mp4").unlink()
    assert result.exit_code == 2
    assert "run holds a run on other videos, or on these before files were added" in result.stderr


def test_a_recording_without_a_cache_trains_the_same_encoder(toy_store: TrajectoryStore, tmp_path: Path) -> None:
    """The clips are read in bounded memory, and they are the same."""
    few = ("device=cpu", *TOY[PRETRAIN], "trainer.steps=6", f"data={toy_store.path}")
    for out, cache in (("cached", "frames.npy"), ("bounded", "null")):
        result = run(PRETRAIN, (*few, f"out={out}", f"cache={cache}"), tmp_path)
        assert result.exit_code == 0, result
    cached, bounded = ((tmp_path / out / "model.safetensors").read_bytes() for out in ("cached", "bounded"))
    assert cached == bounded
    assert [path.name for path in tmp_path.glob("*.npy")] == ["frames.npy"]


def test_a_mix_of_videos_a_list_and_a_recording(toy_store: TrajectoryStore, videos: Path, tmp_path: Path) -> None:
    (tmp_path / "list.csv").write_text(f"{videos}/a.mp4 0\n{videos}/c/d.avi 1\n")
    data = (f"data=[{videos},list.csv,{toy_store.path}]", "data_weights=[1,1,2]", "clips.strides_s=[0.1,0.2]")
    result = run(PRETRAIN, (*FEW, *FAST, *data, "augmentation.hue=0.1"), tmp_path)
    assert result.exit_code == 0, result
    assert (tmp_path / "run" / "config.json").exists()
    shown = " ".join(result.stdout.split())
    assert "list.csv: 2 videos of 0.00 hours" in shown


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (("data=[]",), "data is an empty list: expected folders or lists of videos, or trajectory stores"),
        (("data=gone.csv",), "nothing is at gone.csv: expected a folder of videos"),
        (("data=empty",), "empty has no video: expected files of .avi, .gif,"),
        (("data=hostile",), "files of hostile is a video that can be read: "),
        (
            ("data=[hostile,hostile]", "data_weights=[1]"),
            "data_weights [1]: expected one number of at least 0 for each",
        ),
        (("data=hostile", "canonical_data=x.zarr"), "canonical_data needs a single recording as data"),
        (("data=hostile", "videos.size=20"), "20 x 20, are not cut whole by patch_size 8"),
        (("data=hostile", "videos.short=pad"), "videos: short 'pad' is unknown: choose from repeat, skip"),
        (("data=hostile", "augmentation.hue=1.0"), "augmentation: hue 1.0: expected a number from 0 to 0.5"),
        (
            ("data=a.zarr", "augmentation.hue=0.1"),
            "'augmentation.hue=0.1' has no effect on a single recording: data=[a.zarr] crops",
        ),
        (("data=hostile", "clips.strides_s=3"), "clips option strides_s is 3: expected a list of numbers or null"),
    ],
)
def test_mistakes_are_refused_in_one_line(tmp_path: Path, overrides: tuple[str, ...], expected: str) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "hostile").mkdir()
    (tmp_path / "hostile" / "text.mp4").write_text("no video")
    result = run(PRETRAIN, ("device=cpu", *TOY_ENV, *overrides), tmp_path)
    assert result.exit_code == 2, result
    assert expected in result.stderr and len(result.stderr.splitlines()) == 1
    assert not list(tmp_path.rglob("run.json"))

"""SIGKILL at any moment: the same command goes on, and ends bit for bit where the unbroken run ends."""

from __future__ import annotations

import dataclasses
import random
import time
from pathlib import Path

import pytest

from tests.worldmodel.commands import TOY, finish, run, start
from worldmodel.data import TrajectoryStore

COMMANDS = ("worldmodel.pretrain", "worldmodel.train")


@dataclasses.dataclass(frozen=True)
class Unbroken:
    """The run that nothing disturbed: its options, its checkpoint's folder, and how long it took [s]."""

    overrides: tuple[str, ...]
    checkpoint: Path
    seconds: float


@pytest.fixture(scope="module", params=COMMANDS)
def command(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def unbroken(command: str, toy_store: TrajectoryStore, tmp_path_factory: pytest.TempPathFactory) -> Unbroken:
    folder = tmp_path_factory.mktemp("unbroken")
    overrides = (
        "device=cpu",
        f"data={toy_store.path}",
        "cache=frames.npy",
        "out=run",
        "trainer.checkpoint_every_s=0",
        *TOY[command],
        *(("encoder_from=random",) if command == "worldmodel.train" else ()),
    )
    run(command, ("device=none",), folder)  # refused; the first process of all waits for torch
    began = time.monotonic()
    result = run(command, overrides, folder)
    assert result.exit_code == 0, result
    return Unbroken(overrides, folder / "run", time.monotonic() - began)


def test_a_killed_training_ends_like_an_unbroken_one(command: str, unbroken: Unbroken, tmp_path: Path) -> None:
    # First for certain in the middle of training, then wherever chance has it.
    process = start(command, unbroken.overrides, tmp_path)
    while process.is_alive() and not (tmp_path / "run" / "training.pt").exists():
        time.sleep(0.005)
    assert finish(process, tmp_path).exit_code == -9
    assert not (tmp_path / "run" / "config.json").exists()
    rng = random.Random(0)
    for _ in range(3):
        process = start(command, unbroken.overrides, tmp_path)
        process.join(timeout=rng.uniform(0, unbroken.seconds))
        finish(process, tmp_path)
    result = run(command, unbroken.overrides, tmp_path)
    assert result.exit_code == 0, result
    for name in ("model.safetensors", "config.json"):
        assert (tmp_path / "run" / name).read_bytes() == (unbroken.checkpoint / name).read_bytes(), name


def test_a_finished_training_is_left_as_it_is(command: str, unbroken: Unbroken) -> None:
    folder = unbroken.checkpoint
    before = {path.name: path.stat().st_mtime_ns for path in folder.iterdir() if path.is_file()}
    result = run(command, unbroken.overrides, folder.parent)
    assert result.exit_code == 0
    assert "already finished: run" in result.stdout
    assert {path.name: path.stat().st_mtime_ns for path in folder.iterdir() if path.is_file()} == before

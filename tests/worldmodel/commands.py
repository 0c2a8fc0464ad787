"""Runs the training commands in processes of their own, which can be killed, without importing torch anew for each."""

from __future__ import annotations

import dataclasses
import importlib
import multiprocessing
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.process import BaseProcess
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parents[2]
# torch's optimisers import torch._dynamo, which takes two seconds, when they are first used.
MODULES = ["worldmodel.pretrain", "worldmodel.train", "torch._dynamo"]

# The toy world is nobody's simulation: a robot, as far as the commands are concerned.
TOY_ENV = ("env=robot", "env.name=toy")
TOY_ENCODER = ("encoder.width=32", "encoder.depth=1", "encoder.heads=2")
TOY_TRAINER = ("trainer.steps=30", "trainer.batch_size=4", "trainer.log_every=5", "trainer.evaluate_every=15")
TOY_OPTIONS = {
    "worldmodel.pretrain": (
        *TOY_ENCODER,
        *TOY_TRAINER,
        "clips.frames=4",
        "jepa.predictor_width=16",
        "jepa.predictor_depth=1",
        "jepa.predictor_heads=2",
        "pretrain.probe_frames=60",
    ),
    "worldmodel.train": (
        *TOY_ENCODER,
        *TOY_TRAINER,
        "held_out_sequences=16",
        "compression.channels=8",
        "compression.fit_frames=200",
        "state.keypoints=3",
        "state.hidden=16",
        "state.embedding_width=16",
        "robot_trainer.batch_size=4",
        "robot_trainer.log_every=1",
        "state_trainer.steps=20",
        "state_trainer.batch_size=4",
        "state_trainer.log_every=5",
        "state_trainer.evaluate_every=10",
        "appearance_training.group=4",
        "appearance_trainer.steps=20",
        "appearance_trainer.batch_size=16",
        "appearance_trainer.log_every=5",
        "appearance_trainer.evaluate_every=10",
        "predictor.width=32",
        "predictor.hidden_width=32",
        "predictor.depth=1",
        "prediction.rollout_steps=3",
    ),
}
TOY = {module: (*TOY_ENV, *options) for module, options in TOY_OPTIONS.items()}


@dataclasses.dataclass(frozen=True)
class Result:
    """How a command ended: its exit code (negative: the signal that killed it) and what it printed."""

    exit_code: int
    stdout: str
    stderr: str


@contextmanager
def importing_from_here() -> Iterator[None]:
    """A context in which a forkserver may begin. It imports its modules before it knows our `sys.path`."""
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = str(ROOT) if before is None else f"{ROOT}{os.pathsep}{before}"
    try:
        yield
    finally:
        if before is None:
            del os.environ["PYTHONPATH"]
        else:
            os.environ["PYTHONPATH"] = before


def start(module: str, overrides: tuple[str, ...], folder: Path) -> BaseProcess:
    """Begin `python -m <module> <overrides>` with `folder` as its working directory."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(MODULES)
    folder.mkdir(parents=True, exist_ok=True)
    process = context.Process(target=_run, args=(module, overrides, folder))
    with importing_from_here():
        process.start()
    return process


def run(module: str, overrides: tuple[str, ...], folder: Path) -> Result:
    """The same, to its end."""
    process = start(module, overrides, folder)
    process.join(timeout=120)
    return finish(process, folder)


def finish(process: BaseProcess, folder: Path) -> Result:
    """What became of a process; one that still runs is killed."""
    process.kill()
    process.join()
    assert process.exitcode is not None
    return Result(process.exitcode, (folder / "stdout").read_text(), (folder / "stderr").read_text())


def _run(module: str, overrides: tuple[str, ...], folder: Path) -> None:
    os.chdir(folder)
    for number, name in ((1, "stdout"), (2, "stderr")):
        os.dup2(os.open(name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
    torch.set_num_threads(1)
    sys.argv = [module, *overrides]
    importlib.import_module(module).main()

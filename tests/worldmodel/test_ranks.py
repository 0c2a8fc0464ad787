"""The training commands in two processes, as torchrun starts them: one result, one voice, one end."""

from __future__ import annotations

import json
import os
import signal
import time
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest
from safetensors.torch import load_file

from tests.worldmodel import commands, ranks
from tests.worldmodel.commands import TOY, Result
from worldmodel.data import TrajectoryStore

PRETRAIN, TRAIN = "worldmodel.pretrain", "worldmodel.train"


def _type(module: str, overrides: tuple[str, ...], folder: Path) -> None:
    place = folder / f"rank {os.environ['RANK']}"
    place.mkdir(parents=True, exist_ok=True)
    commands._run(module, overrides, place)


def start(module: str, overrides: tuple[str, ...], folder: Path) -> list[BaseProcess]:
    return ranks.start_ranks(2, _type, module, overrides, folder)


def finish(processes: list[BaseProcess], folder: Path) -> list[Result]:
    codes = ranks.finish(processes)
    places = [folder / f"rank {number}" for number in range(len(codes))]
    told = [((place / "stdout").read_text(), (place / "stderr").read_text()) for place in places]
    return [Result(code or 0, *texts) for code, texts in zip(codes, told, strict=True)]


def options(module: str, store: TrajectoryStore, folder: Path, *more: str) -> tuple[str, ...]:
    files = (f"data={store.path}", f"cache={folder / 'frames.npy'}", f"out={folder / 'run'}")
    encoder = ("encoder_from=random",) if module == TRAIN else ()
    short = ("trainer.steps=12", "trainer.log_every=3", "trainer.evaluate_every=6", "trainer.precision=fp32")
    return (*TOY[module], "device=cpu", *short, *files, *encoder, *more)


def losses(folder: Path) -> dict[int, float]:
    lines = [json.loads(line) for line in (folder / "run" / "log.jsonl").read_text().splitlines()]
    return {line["step"]: line["loss"] for line in lines if "loss" in line}


def wait_for(path: Path) -> None:
    until = time.monotonic() + 60
    while not path.exists() and time.monotonic() < until:
        time.sleep(0.01)


@pytest.fixture(scope="module")
def alone(toy_store: TrajectoryStore, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pretraining in one process."""
    folder = tmp_path_factory.mktemp("alone")
    result = commands.run(PRETRAIN, options(PRETRAIN, toy_store, folder), folder)
    assert result.exit_code == 0, result
    return folder


def test_two_ranks_write_what_one_process_writes(alone: Path, toy_store: TrajectoryStore, tmp_path: Path) -> None:
    given = options(PRETRAIN, toy_store, tmp_path)
    first, second = finish(start(PRETRAIN, given, tmp_path), tmp_path)
    assert (first.exit_code, second.exit_code) == (0, 0), (first, second)
    assert first.stdout.startswith("2 ranks train together\n") and "next: " in first.stdout
    assert second.stdout == ""
    one, two = ({p.relative_to(f / "run") for p in (f / "run").rglob("*.*") if "tensorboard" not in p.parts}
                for f in (alone, tmp_path))  # fmt: skip
    assert one == two
    assert json.loads((alone / "run" / "run.json").read_text()) | {"cache": 0} == json.loads(
        (tmp_path / "run" / "run.json").read_text()
    ) | {"cache": 0}
    assert losses(tmp_path) == pytest.approx(losses(alone), abs=2e-6)
    mine, theirs = (load_file(folder / "run" / "model.safetensors") for folder in (tmp_path, alone))
    assert max(float((mine[name] - theirs[name]).abs().max()) for name in theirs) < 1e-5
    again = commands.run(PRETRAIN, given, tmp_path)
    assert "already finished" in again.stdout, "the number of ranks is not part of the run"


def test_a_killed_rank_ends_the_other_in_one_line_that_names_it(
    alone: Path, toy_store: TrajectoryStore, tmp_path: Path
) -> None:
    given = options(PRETRAIN, toy_store, tmp_path, "trainer.checkpoint_every_s=0")
    both = start(PRETRAIN, given, tmp_path)
    wait_for(tmp_path / "run" / "training.pt")
    both[1].kill()
    first, second = finish(both, tmp_path)
    assert (first.exit_code, second.exit_code) == (1, -9), (first, second)
    (line,) = (line for line in first.stdout.splitlines() if line.startswith("stopped: "))
    assert line.startswith(f"stopped: rank 1 of 2 (process {both[1].pid} on ")
    assert line.endswith("the same command goes on from there")
    assert "Traceback" not in first.stdout + first.stderr
    assert commands.run(PRETRAIN, given, tmp_path).exit_code == 0, "one process goes on"
    assert losses(tmp_path) == pytest.approx(losses(alone), abs=1e-5)


def test_ctrl_c_ends_all_ranks_and_the_same_command_goes_on(
    alone: Path, toy_store: TrajectoryStore, tmp_path: Path
) -> None:
    given = options(PRETRAIN, toy_store, tmp_path, "trainer.checkpoint_every_s=0")
    both = start(PRETRAIN, given, tmp_path)
    wait_for(tmp_path / "run" / "training.pt")
    for process in both:
        assert process.pid is not None
        os.kill(process.pid, signal.SIGINT)
    first, second = finish(both, tmp_path)
    assert (first.exit_code, second.exit_code) == (130, 130), (first, second)
    assert first.stdout.splitlines()[-1].startswith("interrupted: ") and second.stdout == ""
    first, second = finish(start(PRETRAIN, given, tmp_path), tmp_path)
    assert "going on at step" in first.stdout
    assert losses(tmp_path) == pytest.approx(losses(alone), abs=1e-5)


def test_a_mistake_is_told_by_the_first_rank_alone(toy_store: TrajectoryStore, tmp_path: Path) -> None:
    given = options(PRETRAIN, toy_store, tmp_path, "trainer.batch_size=3")
    first, second = finish(start(PRETRAIN, given, tmp_path), tmp_path)
    assert (first.exit_code, second.exit_code) == (2, 2), (first, second)
    assert first.stderr == "error: trainer.batch_size 3 cannot be divided among 2 ranks: expected a multiple of 2\n"
    assert second.stderr == second.stdout == ""
    assert not (tmp_path / "run").exists()


def test_a_world_model_is_trained_by_two_ranks(toy_store: TrajectoryStore, tmp_path: Path) -> None:
    given = options(TRAIN, toy_store, tmp_path, "state_trainer.batch_size=8")
    first, second = finish(start(TRAIN, given, tmp_path), tmp_path)
    assert (first.exit_code, second.exit_code) == (0, 0), (first, second)
    assert "world model: " in first.stdout and second.stdout == ""
    assert (tmp_path / "run" / "model.safetensors").exists() and losses(tmp_path)


def test_other_commands_run_in_one_process(tmp_path: Path) -> None:
    first, second = finish(start(PRETRAIN.replace("pretrain", "probe"), (), tmp_path), tmp_path)
    assert (first.exit_code, second.exit_code) == (2, 2)
    assert first.stderr.startswith("error: 2 processes of this command: expected one") and second.stderr == ""

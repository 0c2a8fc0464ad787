"""Checkpoints in parts: what is left after a kill at any moment, damage, and what goes on from them."""

from __future__ import annotations

import os
import pickle
import shutil
from pathlib import Path
from traceback import StackSummary

import pytest
import torch
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException

from tests.worldmodel.ranks import finish, start_ranks
from tests.worldmodel.training.divided import STEPS, STOP, VARIANTS, run, run_in_parts
from worldmodel.core.errors import UserError
from worldmodel.training import parts
from worldmodel.training.parallel import DDP, FSDP
from worldmodel.training.runs import COMPLETE, PARTS, WHOLE, newest_in_parts, open_run, step_of
from worldmodel.training.trainer import _groups


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    ranks = start_ranks(2, run_in_parts, folder)
    run("sharded", folder / "alone, stopped", stop_at=STOP)
    shutil.copytree(folder / "alone, stopped", folder / "alone")
    run("sharded", folder / "alone")
    assert finish(ranks) == [0, 0]
    return folder


@pytest.fixture
def stopped(runs: Path, tmp_path: Path) -> Path:
    """A run that two ranks have stopped."""
    return shutil.copytree(runs / "stopped", tmp_path / "run")


def losses(folder: Path, rank: int = 0) -> dict[int, float]:
    steps = torch.load(folder / f"steps.{rank}.pt", weights_only=True)
    return {step: found["loss"] for step, found in steps.items()}


def test_every_rank_writes_a_part_and_the_last_checkpoint_alone_is_kept(stopped: Path) -> None:
    (path,) = (stopped / PARTS).iterdir()
    assert newest_in_parts(stopped) == path and step_of(path) == STOP
    written = {file.name: file.stat().st_size for file in path.glob("*.distcp")}
    assert len(written) == 2 and min(written.values()) > 0.3 * max(written.values())
    assert not (stopped / WHOLE).exists()


@pytest.mark.parametrize("resumed", [FSDP, DDP, "alone"])
def test_a_training_goes_on_from_parts(runs: Path, stopped: Path, resumed: str) -> None:
    if resumed == "alone":
        run("sharded", stopped)
        found = losses(stopped)
        assert (stopped / WHOLE).exists() and not (stopped / PARTS).exists()
    else:
        found = {step: (loss + losses(runs / resumed, 1)[step]) / 2 for step, loss in losses(runs / resumed).items()}
        assert (runs / resumed / WHOLE).exists() == (resumed == DDP) != (runs / resumed / PARTS).exists()
    assert list(found) == list(range(STOP, STEPS))
    alone = losses(runs / "alone")
    assert all(loss == pytest.approx(alone[step], abs=1e-5) for step, loss in found.items())


def test_the_optimiser_goes_on_with_its_averages(runs: Path, stopped: Path) -> None:
    averages: list[dict[str, Tensor]] = []
    for folder in (stopped, runs / "alone, stopped"):
        task = VARIANTS["sharded"].make()
        module, optimiser = task.module, torch.optim.AdamW([p for p in task.module.parameters() if p.requires_grad])
        path = newest_in_parts(folder)
        if path is not None:
            optimiser = torch.optim.AdamW(_groups(list(optimiser.param_groups[0]["params"])))
            parts.load(path, module, optimiser)
            states = [optimiser.state[p] for group in optimiser.param_groups for p in group["params"]]
        else:
            states = list(torch.load(folder / WHOLE, weights_only=True)["optimiser"]["state"].values())
        averages.append({f"{n}.{key}": value for n, state in enumerate(states) for key, value in state.items()})
    first, second = averages
    assert first.keys() == second.keys() and len(first) > 30
    assert all(value.shape == second[key].shape for key, value in first.items())
    assert max(float((value - second[key]).abs().max()) for key, value in first.items()) < 1e-6


def test_a_checkpoint_that_a_kill_left_unfinished_does_not_count(stopped: Path) -> None:
    shutil.copytree(stopped / PARTS / f"{STOP:09d}", later := stopped / PARTS / f"{STOP + 1:09d}")
    (later / ".metadata").unlink()
    (later / "notes").touch()
    assert step_of(newest_in_parts(stopped) or later) == STOP
    run("sharded", stopped)
    assert list(losses(stopped)) == list(range(STOP, STEPS))


def test_of_two_checkpoints_the_later_one_counts(runs: Path, stopped: Path, tmp_path: Path) -> None:
    # One process has written its own, and was killed before it removed the parts; and the other way round.
    shutil.copy(runs / "alone" / WHOLE, stopped / WHOLE)
    run("sharded", stopped)
    assert losses(stopped) == {}, "which had come to the end"
    other = shutil.copytree(runs / "stopped", tmp_path / "other")
    state = torch.load(runs / "alone" / WHOLE, weights_only=True)
    torch.save({**state, "step": STOP - 1}, other / WHOLE)
    run("sharded", other)
    assert list(losses(other)) == list(range(STOP, STEPS))


@pytest.mark.parametrize("how", ["cut", "lost", "another model", "metadata", "code"])
def test_damage_is_reported_in_one_line(stopped: Path, how: str) -> None:
    path = newest_in_parts(stopped)
    assert path is not None
    if how == "another model":
        with pytest.raises(
            UserError, match=r"training.parts/0+2 cannot be resumed \(it has other tensors: .*\); remove"
        ):
            run("whitened", stopped)
        return
    if how in ("metadata", "code"):
        written = (path / COMPLETE).read_bytes()
        (path / COMPLETE).write_bytes(written[:99] if how == "metadata" else pickle.dumps(os.getcwd))
        with pytest.raises(UserError, match=r"cannot be resumed \(.metadata is damaged: .*\); remove .* to start over"):
            run("sharded", stopped)
        return
    part = max(path.glob("*.distcp"), key=lambda file: file.stat().st_size)
    part.write_bytes(part.read_bytes()[: part.stat().st_size // 2]) if how == "cut" else part.unlink()
    with pytest.raises(UserError, match=r"cannot be resumed \(.+\); remove .* to start over"):
        run("sharded", stopped)


def test_a_run_with_parts_has_begun(stopped: Path, tmp_path: Path) -> None:
    for folder in (stopped, tmp_path / "fresh"):
        (folder / PARTS / "000000009").mkdir(parents=True)
        (folder / "run.json").write_text('{"rate": 1}')
    with pytest.raises(UserError, match="holds a run with rate=1, this command asks for 2"):
        open_run(stopped, {"rate": 2})
    open_run(tmp_path / "fresh", {"rate": 2})


@pytest.mark.parametrize(
    ("failed", "expected", "message"),
    [
        (OSError(28, "No space left on device", "part"), OSError, "No space left on device: 'part'"),
        (KeyError("module.weight"), RuntimeError, "KeyError: 'module.weight'"),
    ],
)
def test_what_failed_on_a_rank_is_an_error_like_others(failed: Exception, expected: type, message: str) -> None:
    with pytest.raises(expected, match=message), parts._as_usual_errors():
        raise CheckpointException("save", {1: (failed, StackSummary())})

"""Checkpoints in parts: what is left after a kill at any moment, damage, and what goes on from them."""

from __future__ import annotations

import shutil
from pathlib import Path
from traceback import StackSummary

import pytest
import torch
from torch.distributed.checkpoint.api import CheckpointException

from tests.worldmodel.ranks import finish, start_ranks
from tests.worldmodel.training.divided import STEPS, STOP, run, run_in_parts
from worldmodel.core.errors import UserError
from worldmodel.training import parts
from worldmodel.training.runs import PARTS, WHOLE, newest_in_parts, open_run, step_of


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    ranks = start_ranks(2, run_in_parts, folder)
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


@pytest.mark.parametrize("resumed", ["again", "run"])
def test_a_training_goes_on_from_parts(runs: Path, stopped: Path, resumed: str) -> None:
    if resumed == "run":
        run("sharded", stopped)
        found = losses(stopped)
        assert (stopped / WHOLE).exists() and not (stopped / PARTS).exists()
    else:
        found = {step: (loss + losses(runs / "again", 1)[step]) / 2 for step, loss in losses(runs / "again").items()}
    assert list(found) == list(range(STOP, STEPS))
    alone = losses(runs / "alone")
    assert all(loss == pytest.approx(alone[step], abs=1e-5) for step, loss in found.items())


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


@pytest.mark.parametrize("how", ["cut", "lost", "another model"])
def test_damage_is_reported_in_one_line(stopped: Path, how: str) -> None:
    path = newest_in_parts(stopped)
    assert path is not None
    if how == "another model":
        with pytest.raises(UserError, match=r"cannot be resumed \(its tensors are others: .*\); remove"):
            run("whitened", stopped)
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

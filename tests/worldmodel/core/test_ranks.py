"""Processes that train together: who has which rows, what they agree on, and how one ends all of them."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.worldmodel.ranks import finish, start_ranks
from worldmodel.core.errors import UserError
from worldmodel.core.ranks import ALONE, Rank, agreed, here, in_turn, launched, together

VARIABLES = {"RANK": "1", "WORLD_SIZE": "4", "LOCAL_RANK": "0", "MASTER_ADDR": "a", "MASTER_PORT": "1"}


@given(count=st.integers(1, 6), parts=st.integers(1, 4), each=st.integers(1, 3))
def test_part_p_of_all_ranks_is_part_p_of_the_batch(count: int, parts: int, each: int) -> None:
    batch = np.arange(count * parts * each)
    shares = [Rank(number, count).share(batch) for number in range(count)]
    for part in range(parts):
        together = np.concatenate([share[part * each : (part + 1) * each] for share in shares])
        assert sorted(together) == list(batch[part * each * count : (part + 1) * each * count])


@given(count=st.integers(1, 4), groups=st.integers(1, 3), together=st.integers(1, 4))
def test_rows_that_belong_together_stay_on_one_rank(count: int, groups: int, together: int) -> None:
    batch = torch.arange(count * groups * together)[:, None].expand(-1, 2)
    shares = [Rank(number, count).share(batch, together) for number in range(count)]
    assert all(share.shape == (groups * together, 2) for share in shares)
    assert all(
        (share[:, 0].view(-1, together) // together == share[::together, :1] // together).all() for share in shares
    )
    assert torch.cat(shares)[:, 0].sort().values.tolist() == list(range(len(batch)))


def test_alone_a_batch_stays_the_same_object() -> None:
    batch = np.arange(7)
    assert ALONE.share(batch, 3) is batch
    assert here() is ALONE and agreed(lambda: 3) == in_turn(lambda: 3) == 3
    with together(print) as rank:
        assert rank is ALONE


def test_a_batch_that_cannot_be_divided_is_refused() -> None:
    with pytest.raises(UserError, match=r"batch_size 6 cannot be divided among 4 ranks: expected a multiple of 4"):
        Rank(0, 4).require_divisible("batch_size", 6)
    with pytest.raises(UserError, match="4 ranks of 2 each: expected a multiple of 8"):
        Rank(0, 4).share(np.arange(12), 2)


def test_what_torchrun_tells() -> None:
    assert launched(VARIABLES) == Rank(1, 4, 0)
    assert launched({"RANK": "1", "WORLD_SIZE": "4"}) == ALONE, "another program's variables"
    for wrong in ({"RANK": "4"}, {"RANK": "first"}, {"WORLD_SIZE": "0"}, {"LOCAL_RANK": "-1"}):
        with pytest.raises(UserError, match="expected numbers as torchrun sets them"):
            launched({**VARIABLES, **wrong})


# --- with several processes ------------------------------------------------------------------------------------------


def _told(folder: Path, run: Callable[[], None], patience_s: float = 20) -> None:
    """Run as a rank. Everything that would be printed, and how it ended, goes to a file of the rank."""
    number = int(os.environ["RANK"])
    (folder / "pids").mkdir(exist_ok=True)

    def lost(message: str) -> None:
        (folder / f"{number}").write_text(f"lost: {message}")
        os._exit(1)

    (folder / "pids" / f"{number}").write_text(str(os.getpid()))
    try:
        with together(lost, patience_s):
            run()
        told = "finished"
    except SystemExit as error:
        told = f"silent {error.code}"
    except BaseException as error:
        told = f"{type(error).__name__}: {error}"
    (folder / f"{number}").write_text(told)
    sys.exit(0)


def _meet(folder: Path) -> None:
    def work() -> int:
        time.sleep(0.2)
        with (folder / "order").open("a") as file:
            file.write(f"{here().number}")
        return here().number

    assert in_turn(work) == here().number
    value = agreed(lambda: {"by": here().number, "text": "é"})
    assert value == {"by": 0, "text": "é"}


def _fail_on_second(folder: Path) -> None:
    _meet(folder)
    if here().number == 1:
        raise UserError("there is no disk")
    _wait_for_others()


def _fail_alike(folder: Path) -> None:
    raise UserError("no such option")


def _wait_for_others() -> None:
    while True:
        torch.distributed.barrier()
        time.sleep(0.05)


def _work_for_ever(folder: Path) -> None:
    (folder / f"begun {here().number}").touch()
    _wait_for_others()


def _wait_in_turn(folder: Path) -> None:
    """The first rank is busy for ever, and the other waits for its turn."""
    (folder / f"begun {here().number}").touch()
    in_turn(lambda: time.sleep(60))


def _as_told(scenario: Callable[[Path], None], folder: Path, patience_s: float = 20) -> None:
    _told(folder, lambda: scenario(folder), patience_s)


def _run(scenario: Callable[[Path], None], folder: Path, harm: int | None = None, patience_s: float = 20) -> list[str]:
    """What two ranks said at the end. `harm` is a signal that rank 1 gets once both have begun."""
    ranks = start_ranks(2, _as_told, scenario, folder, patience_s)
    if harm is not None:
        until = time.monotonic() + 60
        while not ((folder / "begun 0").exists() and (folder / "begun 1").exists()) and time.monotonic() < until:
            time.sleep(0.02)
        time.sleep(1.2)  # the first signs of life have been heard
        os.kill(int((folder / "pids" / "1").read_text()), harm)
        finish(ranks[:1], 30)
        ranks[1].kill()
    finish(ranks, 30)
    return [(folder / f"{n}").read_text() if (folder / f"{n}").exists() else "" for n in range(2)]


def test_ranks_agree_and_take_turns(tmp_path: Path) -> None:
    assert _run(_meet, tmp_path) == ["finished", "finished"]
    assert (tmp_path / "order").read_text() == "01"


def test_an_error_of_one_rank_is_told_once_and_ends_all(tmp_path: Path) -> None:
    first, second = _run(_fail_on_second, tmp_path)
    assert second == "UserError: rank 1 of 2: there is no disk"
    assert first in ("silent 1", "lost: ")


@pytest.mark.slow
def test_an_error_of_all_ranks_is_told_by_the_first(tmp_path: Path) -> None:
    assert _run(_fail_alike, tmp_path) == ["UserError: no such option", "silent 2"]


@pytest.mark.parametrize("scenario", [pytest.param(_work_for_ever, marks=pytest.mark.slow), _wait_in_turn])
def test_a_killed_rank_is_named(tmp_path: Path, scenario: Callable[[Path], None]) -> None:
    first, second = _run(scenario, tmp_path, signal.SIGKILL, patience_s=3)
    pid = (tmp_path / "pids" / "1").read_text()
    assert f"rank 1 of 2 (process {pid} on " in first and first.endswith("or a machine that is down"), first
    assert second == ""


@pytest.mark.slow
def test_a_rank_that_hangs_is_named(tmp_path: Path) -> None:
    first, _ = _run(_work_for_ever, tmp_path, signal.SIGSTOP, patience_s=3)
    assert first.startswith("lost: rank 1 of 2 (process "), "from a thread, since the main one waits for ever"

"""Faults at some of the calls that a recording makes; `python -m benchmarks.store.durability` tries every one."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks.store import faults as store_faults
from benchmarks.store import power as store_power
from benchmarks.store import sweeps as store_sweeps
from benchmarks.store.faults import Fault, Tally, check_readable, check_recovery, make_store
from worldmodel.core.errors import UserError
from worldmodel.data.store.durable import DurableLocalStore


def assert_clean(tally: Tally, least: int) -> None:
    assert tally.failures == 0, tally.examples
    assert tally.counts["faults"] >= least, tally.counts


@pytest.mark.parametrize(
    ("what", "present", "step"),
    [
        ("kill", 2, 13),
        pytest.param("kill", 0, 31, marks=pytest.mark.slow),
        pytest.param("tear", 2, 5, marks=pytest.mark.slow),
        pytest.param("interrupt", 2, 29, marks=pytest.mark.slow),
        pytest.param("ENOSPC", 2, 29, marks=pytest.mark.slow),
        pytest.param("EIO", 2, 31, marks=pytest.mark.slow),
    ],
)
def test_a_fault_at_any_call_loses_nothing_and_recording_goes_on(what: str, present: int, step: int) -> None:
    assert_clean(store_sweeps.every_call(what, present, step), least=3)


@pytest.mark.parametrize("what", ["ENOSPC", pytest.param("EIO", marks=pytest.mark.slow)])
def test_a_disk_that_stays_full_or_broken_stops_the_recording(what: str) -> None:
    tally = store_sweeps.every_call(what, 2, step=29, lasting=True)
    assert_clean(tally, least=3)
    assert tally.counts["ended: stopped"] >= tally.counts["faults"] - 1  # the last calls only tidy up


def test_kills_at_random_moments_lose_nothing() -> None:
    tally = store_sweeps.random_kills(3, seed=0)
    assert_clean(tally, least=3)
    assert tally.counts["episodes acknowledged"] > 0


@pytest.mark.parametrize("what", ["kill", pytest.param("ENOSPC", marks=pytest.mark.slow)])
def test_a_recovery_that_failed_is_finished_by_the_next(what: str) -> None:
    assert_clean(store_sweeps.failed_recovery(what, step=79), least=3)


@pytest.mark.parametrize(("what", "step"), [("ENOSPC", 41), pytest.param("EIO", 59, marks=pytest.mark.slow)])
def test_collect_ends_in_one_line_when_the_disk_does_not_play_along(what: str, step: int) -> None:
    tally = store_sweeps.command_errors(what, step)
    assert_clean(tally, least=2)
    assert tally.counts["exit code 1"] >= 2


def test_power_cuts_lose_nothing_that_was_acknowledged() -> None:
    assert_clean(store_power.power_cuts(2, 1, seed=0, step=37), least=8)


@pytest.mark.parametrize("forgotten", ["files", "names"])
def test_a_power_cut_shows_what_was_not_synced(monkeypatch: pytest.MonkeyPatch, forgotten: str) -> None:
    """Guards the test above: it fails for a writer that leaves out either kind of `fsync`."""
    if forgotten == "names":
        monkeypatch.setattr(DurableLocalStore, "sync_directories", lambda self: None)
    else:
        # Only folders are synced.
        follow = store_power.Disk.follow
        monkeypatch.setattr(
            store_power.Disk,
            "follow",
            lambda self, call: None if call.kind == "fsync" and "c." in call.path else follow(self, call),
        )
    tally = store_power.power_cuts(2, 0, seed=0, step=61)
    assert tally.failures > 0


def test_a_store_outlives_a_power_cut_in_folders_that_were_made_for_it(tmp_path: Path) -> None:
    """Also their names have to be synced."""
    live = tmp_path / "live"
    live.mkdir()
    disk = store_power.Disk(live)
    with store_faults.Interception(live, disk.follow):
        make_store(live / "a" / "b" / "data.zarr", 1)
    disk.after_power_cut(tmp_path / "cut", None)
    tally = Tally("folders")
    check_readable(tally, tmp_path / "cut" / "a" / "b" / "data.zarr", 1, "new folders")
    assert tally.failures == 0, tally.examples


def test_writers_that_compete_lose_nothing_and_know_of_each_other() -> None:
    tally = store_sweeps.competing_writers(3, 6)
    assert tally.failures == 0, tally.examples
    assert tally.counts["episodes"] == 18


def test_a_disk_that_is_really_full(request: pytest.FixtureRequest) -> None:
    tally = store_sweeps.full_disk(rounds=1)
    skipped = [what for what in tally.counts if what.startswith("skipped")]
    if skipped:
        pytest.skip(skipped[0])
    assert_clean(tally, least=1)


# --- the harness sees what goes wrong --------------------------------------------------------------------------------


def test_lost_wrong_and_partial_episodes_are_counted(tmp_path: Path) -> None:
    make_store(tmp_path / "data.zarr", 2)
    tally = Tally("lost")
    check_readable(tally, tmp_path / "data.zarr", 3, "one too few")
    check_readable(tally, tmp_path / "absent.zarr", 1, "no store")
    assert tally.counts["acknowledged episodes lost!"] == 2
    (tmp_path / "data.zarr/data/action/c.0.0").unlink()
    check_readable(tally, tmp_path / "data.zarr", 2, "damaged")
    assert tally.counts["stores that cannot be read!"] == 1


def test_what_a_recovery_leaves_behind_is_counted(tmp_path: Path) -> None:
    make_store(tmp_path / "now" / "data.zarr", 2)
    tally = Tally("leftovers")
    check_recovery(tally, tmp_path / "now" / "data.zarr", 2, "nothing is wrong")
    assert tally.failures == 0
    (tmp_path / "now" / "stray").write_text("")
    check_recovery(tally, tmp_path / "now" / "data.zarr", 4, "stray file, and an episode missing")
    assert tally.counts["leftovers!"] == 1
    assert tally.counts["episodes lost by recovery!"] == 1
    assert tally.counts["recordings that could not go on!"] == 1


def test_refusals_without_the_owner_are_counted() -> None:
    tally = Tally("refusals")
    store_sweeps._check_refusals(tally, {7}, ["x is being written by another process"])
    assert tally.failures == 1


CALLS: dict[str, Callable[[Path], object]] = {
    "open": lambda path: path.open("wb").close(),
    "write": lambda path: path.write_bytes(b"1234"),
    "rename": lambda path: path.rename(path.with_name("new")),
    "unlink": lambda path: path.unlink(),
    "mkdir": lambda path: path.with_name("folder").mkdir(),
    "fsync": lambda path: _sync(path),
    "truncate": lambda path: _truncate(path),
    "read": lambda path: path.read_bytes(),
    "rmdir": lambda path: path.with_name("empty").rmdir(),
    "link": lambda path: os.link(path, path.with_name("new")),
}


def _sync(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())


def _truncate(path: Path) -> None:
    with path.open("r+b") as file:
        os.ftruncate(file.fileno(), 0)


@pytest.mark.parametrize("kind", CALLS)
def test_every_kind_of_call_is_intercepted_before_it_happens(tmp_path: Path, kind: str) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    file = folder / "file"
    file.write_bytes(b"before")
    (folder / "empty").mkdir()

    def before(call: store_faults.Call) -> None:
        if call.kind == kind:
            raise UserError(f"{call.kind} {call.path}")

    with store_faults.Interception(folder, before), pytest.raises(UserError, match=f"{kind} {folder}/."):
        CALLS[kind](file)
    if kind not in ("open", "write"):  # opening empties it, and comes before the first write
        assert file.read_bytes() == b"before"
    assert kind != "write" or file.read_bytes() == b""


def test_a_fault_comes_once_or_lasts() -> None:
    for lasting, expected in ((False, [False, True, False]), (True, [False, True, True])):
        injector = store_faults.Injector(Fault("EIO", 2, lasting))
        raised = []
        for _ in range(3):
            try:
                injector(store_faults.Call("write", "somewhere"))
                raised.append(False)
            except OSError:
                raised.append(True)
        assert raised == expected

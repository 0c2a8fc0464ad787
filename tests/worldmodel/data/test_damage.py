"""Damage and made-up files are refused or do no harm; `python -m benchmarks.store.durability` tries many more."""

from __future__ import annotations

import pytest

from benchmarks.store import damage as store_damage
from benchmarks.store.damage import check_damage, check_recovered, cut_and_lost_files, flipped_bytes, fuzz, toy_store
from benchmarks.store.faults import Tally, make_store
from worldmodel.data import TrajectoryStore


def assert_clean(tally: Tally, inputs: int) -> None:
    assert tally.failures == 0, tally.examples
    assert tally.counts["inputs"] >= inputs
    assert tally.counts["typed errors"] > 0


@pytest.mark.slow
def test_a_flipped_byte_is_an_error_or_does_not_matter() -> None:
    assert_clean(flipped_bytes(step=211, first=3), inputs=40)


def test_a_flipped_byte_of_a_packed_store() -> None:
    assert_clean(flipped_bytes(step=99991, first=5, packed=True), inputs=9)


@pytest.mark.slow
def test_a_file_that_is_cut_short_lost_or_replaced() -> None:
    tally = cut_and_lost_files(step=5)
    assert_clean(tally, inputs=14)
    assert tally.counts["recoveries"] == tally.counts["inputs"]


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("what", ["metadata", "chunks"])
def test_made_up_metadata_and_chunks(what: str, packed: bool) -> None:
    assert_clean(fuzz(what, examples=10, packed=packed), inputs=10)


def test_wrong_reads_are_counted() -> None:
    """Guards the tests above."""
    tally = Tally("wrong")
    with toy_store() as path:
        check_damage(tally, path, "nothing is wrong")
        assert tally.counts["read as recorded"] == 1
        assert tally.failures == 0
        make_store(path.with_name("longer.zarr"), store_damage.NUM_EPISODES + 1)
        check_damage(tally, path.with_name("longer.zarr"), "another store")
        assert tally.counts["silently wrong reads!"] == 1
        assert tally.counts["damage that verify does not name!"] == 1


@pytest.mark.parametrize(
    ("error", "what"),
    [(MemoryError, "too much memory!"), (TimeoutError, "hangs!"), (TypeError, "crashes of another type!")],
)
def test_crashes_hangs_and_greed_are_counted(monkeypatch: pytest.MonkeyPatch, error, what) -> None:
    def fail(*arguments: object) -> None:
        raise error

    tally = Tally("crashes")
    with toy_store() as path:
        monkeypatch.setattr(TrajectoryStore, "open", fail)
        check_damage(tally, path, "crash")
    assert tally.counts[what] == 1
    assert tally.failures == 1


def test_reading_may_neither_take_long_nor_much_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(MemoryError), store_damage.limits():
        bytearray(2 * store_damage.MOST_EXTRA_BYTES)
    monkeypatch.setattr(store_damage, "MOST_SECONDS", 1)
    with pytest.raises(TimeoutError), store_damage.limits():
        while True:
            pass


def test_a_recovery_that_keeps_what_is_wrong_is_counted() -> None:
    tally = Tally("recovery")
    with toy_store() as path:
        check_recovered(tally, path, "nothing is wrong")
        assert tally.failures == 0
    with toy_store() as path:
        make_store(path.with_name("twice.zarr"), 2)
        store_damage_twice = path.with_name("twice.zarr")
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(store_damage, "toy_episode", lambda seed: None)
            patch.setattr(store_damage, "same", lambda found, wanted: False)
            check_recovered(tally, store_damage_twice, "another store")
    assert tally.counts["wrong episodes after a recovery!"] == 1

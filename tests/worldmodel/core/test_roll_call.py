"""Signs of life: who is silent, who has ended, and who tells it."""

from __future__ import annotations

import threading
import time

import pytest

from worldmodel.core import roll_call
from worldmodel.core.roll_call import FAILED, FINISHED, INTERRUPTED, RollCall

NAMES = ["rank 0 of 3", "rank 1 of 3", "rank 2 of 3"]


class Store:
    """What `RollCall` needs of a store of torch."""

    def __init__(self) -> None:
        self.values: dict[str, str] = {}
        self.counts: dict[str, int] = {}
        self.is_gone = False

    def set(self, key: str, value: str) -> None:
        self._require()
        self.values[key] = value

    def multi_get(self, keys: list[str]) -> list[bytes]:
        self._require()
        return [self.values[key].encode() for key in keys]

    def add(self, key: str, amount: int) -> int:
        self._require()
        self.counts[key] = self.counts.get(key, 0) + amount
        return self.counts[key]

    def _require(self) -> None:
        if self.is_gone:
            raise RuntimeError("connection reset by peer")


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> Store:
    monkeypatch.setattr(roll_call, "PERIOD_S", 0.02)
    monkeypatch.setattr(roll_call, "_SHORT_PATIENCE_S", 0.2)
    monkeypatch.setattr(roll_call, "_TELLING_S", 0.0)
    return Store()


def make(store: Store, patience_s: float = 0.3) -> tuple[list[RollCall], list[list[str]]]:
    """Three ranks in one process, and what their threads were told. None has begun."""
    told: list[list[str]] = [[], [], []]
    return [RollCall(store, n, NAMES, told[n].append, patience_s) for n in range(3)], told


def wait(condition: list[str], seconds: float = 5.0) -> None:
    until = time.monotonic() + seconds
    while not condition and time.monotonic() < until:
        time.sleep(0.01)


def test_a_silent_rank_is_named_and_those_that_live_are_not(store: Store) -> None:
    ranks, told = make(store)
    for rank in ranks[:2]:
        rank.start()
    wait(told[0])
    assert told[0] == ["rank 2 of 3 has died without a word: killed, out of memory, or a machine that is down"]
    for rank in ranks:
        rank.end(FINISHED)


def test_nobody_is_lost_while_all_give_signs_of_life_or_have_ended(store: Store) -> None:
    ranks, told = make(store, patience_s=1.0)
    for rank in ranks[:2]:
        rank.start()
    ranks[2].end(FINISHED)
    assert ranks[0].find_lost() is None
    ranks[1].end(INTERRUPTED)
    began = time.monotonic()
    assert ranks[0].find_lost() is None and time.monotonic() - began < 0.1, "nobody is left to wait for"
    ranks[0].end(FINISHED)
    assert told == [[], [], []]


def test_a_rank_that_failed_says_itself_why(store: Store) -> None:
    ranks, told = make(store)
    ranks[0].start()
    ranks[1].start()
    ranks[2].end(FAILED)
    assert ranks[0].find_lost() == ""
    wait(told[1])
    assert told[1] == [""]
    for rank in ranks:
        rank.end(FAILED)


def test_what_the_main_thread_reports_is_not_told_twice(store: Store) -> None:
    ranks, told = make(store)
    ranks[0].notice()
    ranks[0].start()
    assert "rank 1 of 3, rank 2 of 3 have died" in str(ranks[0].find_lost())
    time.sleep(0.1)
    assert told[0] == []
    ranks[0].end(FAILED)


def test_one_rank_prints(store: Store) -> None:
    ranks, _ = make(store)
    assert [rank.claim() for rank in ranks] == [True, False, False]


def test_a_store_that_is_gone_is_the_first_rank_that_died(store: Store) -> None:
    ranks, told = make(store)
    ranks[1].start()
    store.is_gone = True
    wait(told[1])
    assert told[1] == ["rank 0 of 3 cannot be reached: it was killed, or its machine is down"]
    assert ranks[1].claim() and ranks[2].claim(), "each speaks for itself"
    ranks[1].end(FAILED)
    ranks[1].leave(has_store=False, patience_s=1.0)


def test_the_rank_that_holds_the_store_leaves_last(store: Store) -> None:
    ranks, _ = make(store)
    ranks[1].leave(has_store=False, patience_s=0.0)
    thread = threading.Thread(target=lambda: ranks[0].leave(has_store=True, patience_s=5.0))
    thread.start()
    thread.join(0.1)
    assert thread.is_alive()
    store.add("left", 1)
    thread.join(5.0)
    assert not thread.is_alive()

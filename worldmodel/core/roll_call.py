"""Tells the processes of a training which of them has died, so that none waits for it.

Every rank writes a sign of life into the store that all ranks share, once a second, and reads those of the others. A
rank that ends says so. A rank that falls silent without a word was killed, or its machine is down. Communication
libraries notice some of this too, but their errors do not say which rank it was.
"""

from __future__ import annotations

import contextlib
import dataclasses
import threading
import time
from collections.abc import Callable
from typing import Any, Final

from worldmodel.core.errors import RunStopped

PERIOD_S: Final = 1.0  # between two signs of life
# Ten signs of life. A process that computes still gives them, since they come from a thread.
PATIENCE_S: Final = 20.0
# The same once something has failed: the rank that failed first is already silent, and the others are not.
_SHORT_PATIENCE_S: Final = 4.0
_TELLING_S: Final = 5.0  # time for a rank to print its line
FINISHED, INTERRUPTED, FAILED = "finished", "interrupted", "failed"
_ENDS: Final = (FINISHED, INTERRUPTED, FAILED)


class RankLost(RunStopped):
    """Another rank has died. The message names it."""


@dataclasses.dataclass
class _Heard:
    """The last word of a rank, and when it was first heard [s, monotonic]."""

    word: str
    since: float

    def is_silent(self, patience_s: float) -> bool:
        return self.word not in _ENDS and time.monotonic() - self.since > patience_s


class RollCall:
    """The signs of life of all ranks.

    Args:
        store: a `torch.distributed` store, with a connection of its own, since a call that waits blocks the connection.
        number: number of this rank.
        names: what messages call each rank, such as `rank 1 of 2 (process 17 on host)`.
        on_lost: called in a thread with a message when a rank is lost. The main thread may be waiting for that rank in
            code that no exception reaches. With an empty message, another rank has said what happened.
        patience_s: time after which a silent rank counts as lost [s].
    """

    def __init__(
        self, store: Any, number: int, names: list[str], on_lost: Callable[[str], None], patience_s: float = PATIENCE_S
    ) -> None:
        self._store, self._number, self._names = store, number, names
        self._on_lost, self._patience_s = on_lost, patience_s
        now = time.monotonic()
        self._heard = [_Heard("0", now) for _ in names]
        self._count, self._lock = 0, threading.Lock()
        self._ending, self._is_noticed = threading.Event(), False
        self._say("0")

    def start(self) -> None:
        """Begin. All ranks have been constructed by now."""
        threading.Thread(target=self._watch, name="roll call", daemon=True).start()

    def end(self, word: str) -> None:
        """This rank ends, with one of `FINISHED`, `INTERRUPTED` and `FAILED`. It gives no further signs of life."""
        self._ending.set()
        with contextlib.suppress(RuntimeError):  # the store went with the process or machine that held it
            self._say(word)

    def notice(self) -> None:
        """The main thread has noticed that something failed, and will report it. `on_lost` is not called any more."""
        self._is_noticed = True

    def find_lost(self) -> str | None:
        """A message that names the rank that died; "" if a rank has failed and said why itself, None if all are alive.

        It takes some seconds.
        """
        until = time.monotonic() + _SHORT_PATIENCE_S + 2 * PERIOD_S
        while True:
            found = self._look(_SHORT_PATIENCE_S)
            if found is not None or time.monotonic() > until or self._all_ended():
                return found
            time.sleep(PERIOD_S / 4)

    def claim(self) -> bool:
        """Whether this rank is the one that prints why the training ended. It is True for one rank only."""
        try:
            with self._lock:
                return bool(self._store.add("told", 1) == 1)
        except RuntimeError:  # nobody can be asked any more
            return True

    def await_told(self) -> None:
        """Wait until another rank has had time to print its line."""
        time.sleep(PERIOD_S)

    def leave(self, *, has_store: bool, patience_s: float) -> None:
        """This rank will not use the store any more. If its process holds the store, it waits for the others to leave.

        Args:
            has_store: whether the store goes with this process.
            patience_s: time that the others have [s].
        """
        until = time.monotonic() + patience_s
        with contextlib.suppress(RuntimeError), self._lock:
            left = self._store.add("left", 1)
            while has_store and left < len(self._names) and time.monotonic() < until:
                time.sleep(PERIOD_S / 20)
                left = self._store.add("left", 0)

    def _all_ended(self) -> bool:
        return all(heard.word in _ENDS for number, heard in enumerate(self._heard) if number != self._number)

    def _say(self, word: str) -> None:
        with self._lock:
            self._store.set(f"alive/{self._number}", word)

    def _watch(self) -> None:
        while not self._ending.wait(PERIOD_S):
            self._count += 1
            found = self._look(self._patience_s)
            if found == "":
                time.sleep(_TELLING_S)
            if found is not None and not self._is_noticed and not self._ending.is_set():
                self._on_lost(found)
                return

    def _look(self, patience_s: float) -> str | None:
        """As `find_lost`, at once."""
        try:
            if not self._ending.is_set():
                self._say(str(self._count))
            keys = [f"alive/{number}" for number in range(len(self._names))]
            with self._lock:
                words = [word.decode() for word in self._store.multi_get(keys)]
        except RuntimeError:
            return f"{self._names[0]} cannot be reached: it was killed, or its machine is down"
        now = time.monotonic()
        for heard, word in zip(self._heard, words, strict=True):
            if word != heard.word:
                heard.word, heard.since = word, now
        if any(heard.word == FAILED for number, heard in enumerate(self._heard) if number != self._number):
            return ""
        silent = [n for n, heard in enumerate(self._heard) if n != self._number and heard.is_silent(patience_s)]
        if not silent:
            return None
        lost, have = ", ".join(self._names[n] for n in silent), "has" if len(silent) == 1 else "have"
        return f"{lost} {have} died without a word: killed, out of memory, or a machine that is down"

"""Progress reports of long operations, independent of how they are displayed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol

# `with counting("decode frames") as progress: progress(done, total)`
Counting = Callable[[str], AbstractContextManager[Callable[[int, int], None]]]


@contextmanager
def uncounted(title: str) -> Iterator[Callable[[int, int], None]]:
    """A `Counting` that shows nothing."""
    yield lambda done, total: None


class Progress(Protocol):
    """Receives reports from a long operation. An implementation may display, write or ignore them."""

    def begin(self, title: str, done: int, total: int) -> None:
        """An operation of `total` steps begins, of which `done` were finished before."""

    def step(self, done: int, shown: str = "") -> None:
        """`done` steps are finished now. `shown` has figures to show beside them; if empty, the last figures stay."""

    def report(self, line: str) -> None:
        """Show a line that stays."""

    def end(self) -> None:
        """The operation ends, for whatever reason."""


class Silent:
    """A `Progress` that shows nothing."""

    def begin(self, title: str, done: int, total: int) -> None:
        """Nothing."""

    def step(self, done: int, shown: str = "") -> None:
        """Nothing."""

    def report(self, line: str) -> None:
        """Nothing."""

    def end(self) -> None:
        """Nothing."""

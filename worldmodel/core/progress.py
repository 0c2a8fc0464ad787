"""Progress reports of long operations, independent of how they are displayed."""

from __future__ import annotations

from typing import Protocol


class Progress(Protocol):
    """Told by one who does steps; shown, written or thrown away by another."""

    def begin(self, title: str, done: int, total: int) -> None:
        """`total` steps are to be done in all, of which `done` were done before."""

    def step(self, done: int, shown: str = "") -> None:
        """`done` steps are done now. `shown`: figures to show beside them; the last ones stay where it is empty."""

    def report(self, line: str) -> None:
        """A line that stays."""

    def end(self) -> None:
        """Nothing more comes, for whatever reason."""


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

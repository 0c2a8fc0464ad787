"""Progress on the console, as a bar on a terminal, and as lines if the output goes to a file."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final, Protocol

from rich.live import Live
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

from worldmodel.cli.console import console
from worldmodel.core.progress import Progress

# A reader of a file or pipe should see within 5 s that the command is working, and how fast.
FIRST_LINE_S: Final = 2.0
NEXT_LINE_S: Final = 30.0


class Steps:
    """Shows finished steps with their rate so far. It is a `worldmodel.core.progress.Progress`.

    Args:
        unit: the word for steps in the rate.
        stays: whether the bar stays on the terminal at the end. Lines in a file always stay.
        clock: the time [s]; tests give another clock.
    """

    def __init__(self, unit: str = "steps", stays: bool = True, clock: Callable[[], float] = time.monotonic) -> None:
        self._unit, self._clock = unit, clock
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[shown]}", markup=False),
        )
        self._bar = Bar(*columns, console=console, transient=not stays)

    def begin(self, title: str, done: int, total: int) -> None:
        """See `Progress`."""
        self._title, self._first, self._total, self._shown = title, done, total, ""
        self._began = self._told = self._clock()
        self._line_due = FIRST_LINE_S
        if console.is_terminal:
            self._task = self._bar.add_task(escape(title), total=total or None, completed=done, shown="", rate="")
            self._bar.start()

    def step(self, done: int, shown: str = "", total: int | None = None) -> None:
        """See `Progress`. `total` is given if it was not known at the beginning."""
        now = self._clock()
        self._total, self._shown = total or self._total, shown or self._shown
        per_s = (done - self._first) / max(now - self._began, 1e-9)
        rate = f"{per_s:.3g} {self._unit}/s"
        if console.is_terminal:
            self._bar.update(self._task, completed=done, total=self._total or None, shown=self._shown, rate=rate)
        elif now - self._told >= self._line_due:
            self._told, self._line_due = now, NEXT_LINE_S
            # Before the first step is done nobody knows how long one takes.
            speed = f", {rate}, {_duration((self._total - done) / per_s)} left" if per_s > 0 else ""
            figures = f"  {self._shown}" if self._shown else ""
            console.print(f"{self._title}: {done} of {self._total}{speed}{figures}", markup=False)

    def report(self, line: str) -> None:
        """See `Progress`."""
        self._bar.console.print(line, markup=False)

    def end(self) -> None:
        """See `Progress`."""
        if console.is_terminal:  # otherwise, stopping the bar would print an empty line
            self._bar.stop()


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 90 * 60 else f"{seconds / 3600:.1f} h"


@contextmanager
def counting(title: str, unit: str = "steps") -> Iterator[Callable[[int, int], None]]:
    """Show a bar that disappears at the end. The function that it yields is called with (done, in all)."""
    steps = Steps(unit, stays=False)
    steps.begin(title, 0, 0)
    try:
        yield lambda done, total: steps.step(done, total=total)
    finally:
        steps.end()


@contextmanager
def live_line() -> Iterator[Callable[[str], None]]:
    """Show one changing line. The function that it yields is called with its text. A file gets every tenth text."""
    count = 0
    with Live(console=console, auto_refresh=False, transient=not console.is_terminal) as live:

        def show(text: str) -> None:
            nonlocal count
            if console.is_terminal:
                live.update(escape(text), refresh=True)
            elif count % 10 == 0:
                console.print(text, markup=False)
            count += 1

        yield show


class Trainable(Protocol):
    """The interface of a training for `run_to_end`, such as `worldmodel.training.trainer.Trainer`."""

    def run(self, title: str, progress: Progress) -> None:
        """Train to the end, and report to `progress`."""


def run_to_end(trainer: Trainable, title: str) -> None:
    """Train with a bar. A training that cannot continue raises RunStopped, which every command reports in one line."""
    trainer.run(title, Steps())

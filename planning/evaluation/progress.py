"""A progress bar over control steps, with the success rate so far."""

from __future__ import annotations

from collections.abc import Sequence
from types import TracebackType

from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from planning.evaluation.episodes import Episode
from worldmodel.cli.console import console


class EpisodeProgress:
    """Shows how many of `episodes` episodes of `budget` steps are done."""

    def __init__(self, title: str, episodes: int, budget: int) -> None:
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.percentage:.0f} %"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[rate]}"),
            console=console,
        )
        self._task = self._bar.add_task(title, total=episodes * budget, rate="")

    def update(self, steps: int, episodes: Sequence[Episode]) -> None:
        """`steps` control steps are newly done, and so are all of `episodes`."""
        reached = sum(e.success_any for e in episodes)
        self._bar.update(self._task, advance=steps, rate=f"{reached} of {len(episodes)} reached" if episodes else "")

    def __enter__(self) -> EpisodeProgress:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()

"""Progress and tables that planning's commands print. Only commands use this module."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Self

from planning.environment import Metric
from planning.evaluation.comparison import Comparison
from planning.evaluation.episodes import Episode
from planning.evaluation.report import Summary, short
from planning.evaluation.watched import WatchedRun
from worldmodel.cli.progress import Steps
from worldmodel.cli.tables import Table, table


class _Progress:
    """Shows a number of `total` from entering to leaving it."""

    def __init__(self, title: str, total: int) -> None:
        self._title, self._total, self._shown = title, total, Steps()

    def __enter__(self) -> Self:
        self._shown.begin(self._title, 0, self._total)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._shown.end()


class EpisodeProgress(_Progress):
    """Shows the number of finished control steps and the success rate, of `episodes` episodes of `budget` steps."""

    def __init__(self, title: str, episodes: int, budget: int) -> None:
        super().__init__(title, episodes * budget)
        self._done = 0

    def update(self, steps: int, episodes: Sequence[Episode]) -> None:
        """Count `steps` more control steps. `episodes` are all finished episodes."""
        reached = sum(e.success_any for e in episodes)
        self._done += steps
        self._shown.step(self._done, f"{reached} of {len(episodes)} reached" if episodes else "")


class RunProgress(_Progress):
    """Shows the number of finished runs of `total`, and how many reached their goal."""

    def update(self, runs: Sequence[WatchedRun]) -> None:
        """`runs` are all finished ones."""
        self._shown.step(len(runs), f"{sum(run.reached for run in runs)} of {len(runs)} reached" if runs else "")


def summary_table(title: str, summaries: Mapping[str, Summary], metrics: Sequence[Metric]) -> Table:
    """One row per policy."""
    rates_of = ("any step", "at the end", "any, half tol", "end, half tol")
    made = table(title, "", *rates_of, *(f"{m.name} ({m.unit})" for m in metrics), narrow=True)
    for column in made.columns[1 : 1 + len(rates_of)]:
        column.min_width = 11
    for name, summary in summaries.items():
        errors = [short(summary.final_errors[m.name]) if summary.final_errors else "" for m in metrics]
        rates = (summary.success_any, summary.success_final, summary.half_any, summary.half_final)
        made.add_row(name, *map(str, rates), *errors)
    return made


def comparison_table(title: str, found: Mapping[str, Comparison]) -> Table:
    """One row per outcome."""
    made = table(title, "", "a", "b", "a - b", "only a", "only b", "p (McNemar)", narrow=True)
    for outcome, c in found.items():
        difference = f"{100 * c.difference:+.1f} ({100 * c.low:+.1f} to {100 * c.high:+.1f})"
        made.add_row(outcome, str(c.a), str(c.b), difference, str(c.a_only), str(c.b_only), f"{c.p:.2g}")
    return made

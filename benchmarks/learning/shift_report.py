"""Tables and pictures of `benchmarks.learning.shift`."""

from __future__ import annotations

import dataclasses
import itertools
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from planning.environment import Environment
from planning.evaluate import Evaluation
from planning.evaluation.manifest import Pair
from planning.evaluation.report import Rate, Summary
from planning.evaluation.shifted import GOAL, WHERE, ShiftedEnv
from planning.evaluation.shifts import SHIFTS, STRENGTHS, Shift
from worldmodel.cli.tables import Table, table
from worldmodel.core.files import replacing

_INCHES: Final = 0.9  # of one picture on the contact sheet


@dataclasses.dataclass(frozen=True)
class Reference:
    """What the same checkpoint does on the same pairs without any shift."""

    summary: Summary

    def share(self, rate: Rate, name: str) -> float | None:
        """`rate` as a share of the rate called `name` here; None where that is 0."""
        own: Rate = getattr(self.summary, name)
        return rate.value / own.value if own.value else None


@dataclasses.dataclass(frozen=True)
class Row:
    """One shift at one strength.

    Attributes:
        shift: its name.
        strength: its name; `amount` says what it means.
        where: which images are shifted.
        summary: of all episodes.
        share_any: success at any step as a share of the unshifted one; None where that is 0.
        share_final: the same of success at the end.
        latent_distance: median of the latent distances of shifted to clean goal images.
    """

    shift: str
    strength: str
    amount: str
    where: str
    summary: Summary
    share_any: float | None
    share_final: float | None
    latent_distance: float

    def cells(self) -> list[str]:
        """As in the table."""
        rates = (self.summary.success_any, self.summary.success_final)
        name = f"{self.shift}, {self.strength}"
        return [
            name,
            self.amount,
            *map(str, rates),
            _ratios(self.share_any, self.share_final),
            f"{self.latent_distance:.2f}",
        ]


HEADINGS: Final = ("", "amount", "any step", "at the end", "ratio", "latent")
_WIDEST_RATE: Final = 12  # characters: 100 (84-100)


def measured_row(
    shift: Shift, strength: str, where: str, summary: Summary, reference: Reference, distances: Sequence[float]
) -> Row:
    """The row of `shift` at the strength called `strength`, with the latent `distances` of all pairs."""
    return Row(
        shift.name,
        strength,
        shift.amount(STRENGTHS[strength]),
        where,
        summary,
        reference.share(summary.success_any, "success_any"),
        reference.share(summary.success_final, "success_final"),
        statistics.median(distances),
    )


def _ratios(*shares: float | None) -> str:
    return " / ".join("-" if share is None else f"{share:.2f}" for share in shares)


def all_cells(reference: Reference, rows: Sequence[Row]) -> list[list[str]]:
    """The table's lines: without a shift, then those of each `where` under a line that says so."""
    own = reference.summary
    ratios = _ratios(
        reference.share(own.success_any, "success_any"), reference.share(own.success_final, "success_final")
    )
    lines = [["no shift", "", str(own.success_any), str(own.success_final), ratios, "0.00"]]
    for where, group in itertools.groupby(rows, key=lambda row: row.where):
        lines += [[WHERE[where], *[""] * (len(HEADINGS) - 1)], *(row.cells() for row in group)]
    return lines


def row_table(title: str, reference: Reference, rows: Sequence[Row]) -> Table:
    """For the terminal."""
    made = table(title, *HEADINGS, narrow=True)
    for column in made.columns[2:4]:
        column.min_width = _WIDEST_RATE
    for cells in all_cells(reference, rows):
        made.add_row(*cells)
    return made


def markdown(reference: Reference, rows: Sequence[Row]) -> str:
    """For the documentation."""
    lines = [("shift", *HEADINGS[1:]), ("---",) * len(HEADINGS), *all_cells(reference, rows)]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def results(task: Evaluation, reference: Reference, rows: Sequence[Row]) -> dict[str, Any]:
    """Content of results.json."""
    return {
        "task": task.spec.env,
        "checkpoint": {"source": task.checkpoint.source, "sha256": task.checkpoint.sha256},
        "manifest_hash": task.manifest.sha256,
        "manifest_seed": task.manifest.seed,
        "steps_ahead": task.manifest.steps_ahead,
        "budget": task.options.budget,
        "simulator": task.spec.simulator,
        "planner": task.planner,
        "precision": task.options.precision,
        "no_shift": reference.summary.to_dict(),
        "rows": [{**_plain(row), **row.summary.to_dict()} for row in rows],
    }


def _plain(row: Row) -> dict[str, Any]:
    return {field.name: getattr(row, field.name) for field in dataclasses.fields(row) if field.name != "summary"}


def contact_sheet(env: Environment, pair: Pair, path: Path) -> None:
    """The goal of `pair` as the first camera sees it under every shift (columns) and strength (rows)."""
    state = np.array(pair.goal)

    def picture(shift: Shift, strength: float) -> NDArray[np.uint8]:
        images = ShiftedEnv(env, shift, strength, GOAL, [pair]).goal_images(state)
        return next(iter(images.values()))

    levels = {"no shift": 0.0, **STRENGTHS}
    figure = Figure(figsize=(_INCHES * len(SHIFTS), 1.1 * _INCHES * len(levels)), dpi=150, layout="constrained")
    axes = figure.subplots(len(levels), len(SHIFTS))
    for row, (name, strength) in enumerate(levels.items()):
        for column, shift in enumerate(SHIFTS):
            here = axes[row, column]
            here.imshow(picture(shift, strength), interpolation="nearest")
            here.set(xticks=[], yticks=[])
            if row == 0:
                here.set_title(shift.name, fontsize=7)
            if column == 0:
                here.set_ylabel(name, fontsize=7)
    with replacing(path) as file:
        figure.savefig(file, format="png")

"""`python -m worldmodel.physics`: whether a predictor is more surprised by the impossible than by the possible."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from worldmodel.cli.command import Config, command, plain_options
from worldmodel.cli.console import console, shown
from worldmodel.cli.progress import Steps
from worldmodel.cli.tables import Table, table
from worldmodel.core.device import pick_device
from worldmodel.core.errors import UserError, choices_message
from worldmodel.core.files import output_folder, write_json
from worldmodel.core.options import from_config
from worldmodel.data.store.reader import TrajectoryStore
from worldmodel.surprise.clips import CONTROLS, MODEL, PIXELS, UNTRAINED, load_pair, pixel_difference
from worldmodel.surprise.judging import SUMMARIES, Row, Surprises, judge
from worldmodel.surprise.labels import LABELS, STORE, PairLabel, read_labels
from worldmodel.surprise.pictures import write_example
from worldmodel.surprise.subject import Subject, load_subject
from worldmodel.surprise.video import WindowConfig

_BY = ("variant", "violation")


@dataclasses.dataclass(frozen=True)
class PhysicsOptions:
    """The options in `configs/physics.yaml` beside its section. The file explains each."""

    checkpoint: str
    data: str
    out: str
    device: str
    horizon: int
    scenes: int | None
    properties: tuple[str, ...]
    by: str
    examples: int
    seed: int

    def __post_init__(self) -> None:
        if self.horizon < 1:
            raise ValueError(f"horizon {self.horizon}: expected a whole number of at least 1")
        if self.scenes is not None and self.scenes < 1:
            raise ValueError(f"scenes {self.scenes}: expected a whole number of at least 1, or null")
        if self.examples < 0 or self.seed < 0:
            raise ValueError(f"examples {self.examples} and seed {self.seed}: expected whole numbers of at least 0")
        if self.by not in _BY:
            raise ValueError(choices_message("by", self.by, _BY))

    def choose(self, labels: Sequence[PairLabel]) -> list[PairLabel]:
        """The pairs that are measured. Raises UserError for an unknown property."""
        known = {label.property for label in labels}
        for name in self.properties:
            if name not in known:
                raise UserError(choices_message("property", name, known))
        return [
            label
            for label in labels
            if (not self.properties or label.property in self.properties)
            and (self.scenes is None or label.scene < self.scenes)
        ]


def measure(store: TrajectoryStore, labels: Sequence[PairLabel], subject: Subject) -> list[Surprises]:
    """The surprise of the subject and of all controls at every pair."""
    found, progress = [], Steps("pairs", stays=False)
    progress.begin("surprise", 0, len(labels))
    try:
        for done, label in enumerate(labels, start=1):
            clips = load_pair(store, label)
            errors = {**subject.measure(clips), PIXELS: pixel_difference(clips)}
            errors[UNTRAINED] = subject.untrained(clips)[MODEL]
            found.append(Surprises.of(label, errors))
            progress.step(done)
    finally:
        progress.end()
    return found


def result_table(title: str, rows: Sequence[Row]) -> Table:
    """Accuracies in per cent, of the mean over windows and of the largest one, with those of the controls."""
    headings = ("pairs", "mean", "p (chance)", "max", "p (chance)", *(f"{name}, mean" for name in CONTROLS))
    made = table(title, "", "", *headings, narrow=True)
    for row in rows:
        cells = []
        for summary in SUMMARIES:
            found = row.accuracy[summary]
            cells += [f"{found.rate:.0%} ({found.low:.0%}-{found.high:.0%})", _p(found.p_chance)]
        mean = row.accuracy["mean"]
        controls = [f"{mean.controls[name]:.0%} (p {_p(mean.p_controls[name])})" for name in CONTROLS]
        made.add_row(shown(row.property), shown(row.variant), str(row.pairs), *cells, *controls)
    return made


def _p(value: float) -> str:
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def _record(surprises: Sequence[Surprises]) -> list[dict[str, Any]]:
    return [{**dataclasses.asdict(each.label), "surprise": each.values} for each in surprises]


@command("physics", goes_on=False)
def main(config: Config) -> None:
    """Measure the surprise at every pair."""
    options = from_config(PhysicsOptions, plain_options(config), "physics")
    windows = from_config(WindowConfig, config["windows"], "windows")
    device = pick_device(options.device)
    store = TrajectoryStore.open(Path(options.data) / STORE)
    every = read_labels(Path(options.data) / LABELS, store)
    labels = options.choose(every)
    subject = load_subject(options.checkpoint, store.spec, windows, options.horizon, options.seed, device)
    out = output_folder(options.out)
    surprises = measure(store, labels, subject)
    rows = judge(surprises, options.by)
    title = f"{options.checkpoint} ({subject.kind}) on {store.name}: impossible more surprising, % of pairs (95 %)"
    console.print(result_table(shown(title), rows))
    about = {"checkpoint": options.checkpoint, "kind": subject.kind, "weights": subject.weights}
    used = dataclasses.asdict(windows) if subject.kind == "jepa" else {"horizon": options.horizon}
    content = {**about, "store": store.identity, "options": {**used, "seed": options.seed}, "by": options.by}
    write_json(
        {**content, "rows": [dataclasses.asdict(row) for row in rows], "pairs": _record(surprises)},
        out / "result.json",
        indent=1,
    )
    for label in _examples(labels, options.examples):
        write_example(store, label, output_folder(out / "examples"))
    console.print(f"figures: {out / 'result.json'}" + (f"  examples: {out / 'examples'}" if options.examples else ""))


def _examples(labels: Sequence[PairLabel], number: int) -> list[PairLabel]:
    """The first pairs of each property and variant."""
    chosen: dict[tuple[str, str], list[PairLabel]] = {}
    for label in labels:
        chosen.setdefault((label.property, label.variant), []).append(label)
    return [label for group in chosen.values() for label in group[:number]]


if __name__ == "__main__":
    main()

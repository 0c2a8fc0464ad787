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
from worldmodel.surprise.clips import CONTROLS, MODEL, PIXELS, UNTRAINED, batches, load_pairs, pixel_difference
from worldmodel.surprise.judging import SUMMARIES, Accuracy, Row, Surprises, judge
from worldmodel.surprise.labels import LABELS, STORE, PairLabel, read_labels
from worldmodel.surprise.pictures import write_example
from worldmodel.surprise.subject import Subject, load_subject
from worldmodel.surprise.video import WindowConfig

_BY = ("variant", "violation")
_SAMPLE = 16  # pairs from which statistics of the clips are taken, spread over all of them
_BATCH = 8  # pairs at a time: more than one for speed, and few enough for the memory of a laptop


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
    found, progress = list[Surprises](), Steps("pairs", stays=False)
    progress.begin("surprise", 0, len(labels))
    try:
        for batch in batches(store, labels, _BATCH):
            clips = load_pairs(store, batch)
            errors = {**subject.measure(clips), PIXELS: pixel_difference(clips)}
            errors[UNTRAINED] = subject.untrained(clips)[MODEL]
            for index, label in enumerate(batch):
                pair = slice(2 * index, 2 * index + 2)
                found.append(Surprises.of(label, {name: values[pair] for name, values in errors.items()}))
            progress.step(len(found))
    finally:
        progress.end()
    return found


def accuracy_table(title: str, rows: Sequence[Row]) -> Table:
    """Accuracies in per cent, with p-values against chance, by how the windows of a clip are summarised."""
    made = table(title, "", "", "pairs", *(heading for name in SUMMARIES for heading in (name, "p")), narrow=True)
    for row in rows:
        cells = [cell for found in row.accuracy.values() for cell in (_rate(found), _p(found.p_chance))]
        made.add_row(shown(row.property), shown(row.variant), str(row.pairs), *cells)
    return made


def control_table(title: str, rows: Sequence[Row], summary: str) -> Table:
    """Accuracies of the controls in per cent, with p-values of the difference from the predictor."""
    made = table(title, "", "", *(heading for name in CONTROLS for heading in (name, "p")), narrow=True)
    for row in rows:
        found = row.accuracy[summary]
        cells = [cell for name in CONTROLS for cell in (_percent(found.controls[name]), _p(found.p_controls[name]))]
        made.add_row(shown(row.property), shown(row.variant), *cells)
    return made


def scene_table(title: str, rows: Sequence[Row]) -> Table:
    """Accuracies over scenes in per cent, with those of the controls."""
    made = table(title, "", "", "n", MODEL, "p", *CONTROLS, narrow=True)
    for row in rows:
        found = row.by_scene
        controls = (_percent(found.controls[name]) for name in CONTROLS)
        cells = (str(row.scenes), _rate(found), _p(found.p_chance), *controls)
        made.add_row(shown(row.property), shown(row.variant), *cells)
    return made


def _rate(found: Accuracy) -> str:
    return f"{_percent(found.rate)} ({_percent(found.low)}-{_percent(found.high)})"


def _percent(rate: float) -> str:
    """Whole per cent. Only what is all or nothing is shown as 100 or 0."""
    return f"{100 * rate:.0f}" if rate in (0, 1) else f"{min(max(100 * rate, 1), 99):.0f}"


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
    sample = list(batches(store, every[:: max(1, len(every) // _SAMPLE)], _BATCH))
    for measuring in (subject.measure, subject.untrained):
        measuring.prepare(load_pairs(store, batch) for batch in sample)
    out = output_folder(options.out)
    surprises = measure(store, labels, subject)
    rows = judge(surprises, options.by)
    console.print(f"{shown(options.checkpoint)} ({subject.kind}) on {shown(store.name)}")
    console.print(accuracy_table("pairs in which the impossible clip surprises more, in % (95 % interval)", rows))
    console.print(control_table("the same of the controls, by the mean over windows", rows, "mean"))
    console.print(scene_table("scenes whose impossible clips together surprise more, in % (95 % interval)", rows))
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

"""Let a model plan, record what comes of it and learn on from that, several times, with the gain of every round.

python -m planning.rounds env=push checkpoint=runs/push/model
python -m planning.rounds env=push checkpoint=runs/push/model rounds=2 episodes=200 steps=4000

Every round runs the commands `planning.practise`, `worldmodel.data merge`, `worldmodel.train init_from=` and
`planning.evaluate`, prints them, and keeps what they write in a folder of its own. All own plans so far count in a
round (dataset aggregation, arXiv 1011.0686). The pairs of the evaluations are the same in all rounds.
"""

from __future__ import annotations

import contextlib
import dataclasses
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import torch

from planning.choice import AUTO
from planning.evaluation.comparison import OUTCOMES, Comparison, read_method, read_results
from planning.evaluation.manifest import ManifestConfig
from planning.loading import RUNS, choose_checkpoint
from planning.policies.proposals import OWN
from planning.registry import make_strategy
from planning.settings import read_settings
from worldmodel.cli.command import Config, as_plain, command, composed, plain_options, typed_options
from worldmodel.cli.console import console, escape
from worldmodel.cli.programs import as_typed, is_typed_short
from worldmodel.cli.tables import table
from worldmodel.core.errors import RunStopped, UserError
from worldmodel.core.files import output_folder, replacing, write_json
from worldmodel.core.interrupt import INTERRUPTED
from worldmodel.core.options import from_config
from worldmodel.models.registry import load_model
from worldmodel.training.recordings import open_recording

_PATIENCE_S: Final = 10.0  # for a command that was interrupted together with this one


@dataclasses.dataclass(frozen=True)
class RoundsConfig:
    """The options in `configs/rounds.yaml` beside its groups. The file explains each."""

    data: str
    checkpoint: str | None
    rounds: int
    episodes: int
    copies: int
    steps: int
    learning_rate: float
    heads: bool
    budget: int
    seed: int
    device: str
    out: str | None

    def __post_init__(self) -> None:
        if min(self.rounds, self.episodes, self.copies, self.steps, self.budget) < 1 or self.seed < 0:
            raise ValueError(
                f"rounds={self.rounds} episodes={self.episodes} copies={self.copies} steps={self.steps} "
                f"budget={self.budget} seed={self.seed}: at least 1 each, and a seed of at least 0, are accepted"
            )
        if not 0 < self.learning_rate < 1:
            raise ValueError(f"learning_rate={self.learning_rate:g}: above 0 and below 1 is accepted")


@dataclasses.dataclass(frozen=True)
class Work:
    """The commands of the rounds.

    Attributes:
        options: what was asked for.
        pairs: the pairs of the evaluations.
        env: options of the group `env`, as typed.
        planner: options of the group `planner`, as typed.
        memory: the first model's memory of actions, or None. Every later model gets one of its own.
        sizes: options of `worldmodel.train` that a model shares with the one that it begins with.
        folder: what all rounds write to.
    """

    options: RoundsConfig
    pairs: ManifestConfig
    env: Sequence[str]
    planner: Sequence[str]
    memory: str | None
    sizes: Sequence[str]
    folder: Path

    def place(self, number: int) -> Path:
        """The folder of round `number`. Round 0 is the evaluation of the first model."""
        return self.folder / f"{number}"

    def evaluate(self, number: int, checkpoint: str) -> Path:
        """The folder with the results of `checkpoint` after round `number`."""
        pairs, out = self.pairs, self.place(number) / "evaluation"
        seed = "null" if pairs.seed is None else pairs.seed
        drawn = [f"manifest.seed={seed}", f"manifest.n={pairs.n}", f"manifest.steps_ahead={pairs.steps_ahead}"]
        plain = ["baselines=false", "oracle=false", "videos=0"]
        self._run(number, "planning.evaluate", *self._planning(number, checkpoint), *drawn, *plain, f"out={out}")
        return out

    def learn(self, number: int, checkpoint: str) -> str:
        """Let `checkpoint` plan, and learn on from that. Returns the new model's folder."""
        options, place = self.options, self.place(number)
        both, frames, model = place / "data.zarr", place / "frames.npy", place / "model"
        own = [
            f"data={options.data}",
            f"out={place / 'practice.zarr'}",
            f"episodes={options.episodes}",
            f"steps_ahead={self.pairs.steps_ahead}",
            f"seed={options.seed + number}",
        ]
        self._run(number, "planning.practise", *self._planning(number - 1, checkpoint), *own)
        so_far = [str(self.place(earlier) / "practice.zarr") for earlier in range(1, number + 1)]
        self._run(number, "worldmodel.data", "merge", options.data, *so_far * options.copies, str(both))
        recording = [f"data={both}", f"cache={frames}"]
        self._run(
            number,
            "worldmodel.train",
            *self.env,
            *self.sizes,
            *recording,
            f"init_from={checkpoint}",
            f"out={model}",
            f"device={options.device}",
            f"trainer.steps={options.steps}",
            f"trainer.learning_rate={options.learning_rate:g}",
        )
        if options.heads:
            making = [f"checkpoint={model}", f"out={self._head(number)}", f"device={options.device}"]
            self._run(number, "worldmodel.inverse", *self.env, *recording, *making)
        if self.memory is not None and not (self._memory(number) / "config.json").is_file():
            making = [f"checkpoint={model}", f"out={self._memory(number)}", f"device={options.device}"]
            self._run(number, "planning.remember", *self.env, *recording, *making)
        frames.unlink(missing_ok=True)  # gigabytes, which the recording has too
        return str(model)

    def _memory(self, number: int) -> Path:
        return self.place(number) / "memory"

    def _head(self, number: int) -> Path:
        return self.place(number) / "inverse"

    def _planning(self, number: int, checkpoint: str) -> list[str]:
        """Options with which the model of round `number` plans."""
        common = [f"checkpoint={checkpoint}", f"budget={self.options.budget}", f"device={self.options.device}"]
        own = [f"planner.proposals.memory={self._memory(number)}"] if self.memory is not None and number else []
        own += [f"planner.proposals.inverse={self._head(number)}"] if self.options.heads and number else []
        return [*self.env, *self.planner, *own, *common]

    def _run(self, number: int, module: str, *options: str) -> None:
        """Run a command, which prints its own progress.

        Raises:
            KeyboardInterrupt: if it was interrupted.
            RunStopped: if it ended with an error, of which it has told the user.
        """
        shown = as_typed(" ".join([f"python -m {module}", *options]))
        console.print(f"[bold]round {number}[/]: {escape(shown)}", highlight=False)
        # An installed program does not look for modules in the current folder, and nor does what it starts.
        apart = ["-P"] if is_typed_short() else []
        with subprocess.Popen([sys.executable, *apart, "-m", module, *options]) as process:
            try:
                code = process.wait()
            except KeyboardInterrupt:
                # Ctrl-C reaches both, and a signal to this process only reaches this one.
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(_PATIENCE_S)
                process.terminate()
                raise
        if code == INTERRUPTED:
            raise KeyboardInterrupt
        if code:
            raise RunStopped(f"round {number}: this command ended with exit code {code}, and says why above: {shown}")


def rounds(config: Config) -> None:
    """Run `python -m planning.rounds`. Raises UserError for input that cannot be used."""
    options = from_config(RoundsConfig, plain_options(config), "rounds")
    pairs = from_config(ManifestConfig, config["manifest"], "manifest")
    planner = config["planner"]
    if planner["name"] == AUTO:
        raise UserError("planner=auto: later rounds have models of their own, without a choice: expected a planner")
    env, searching = typed_options("env"), typed_options("planner")
    if planner["proposals"]["inverse"] == OWN and not options.heads:
        # Only the first model has a head, and the rounds would be compared with it. Without one, a search needs more
        # samples than `guided` has.
        searching = ["planner=two_spreads" if typed == "planner=guided" else typed for typed in searching]
        searching.append("planner.proposals.inverse=null")
        planner = read_settings(searching, config["env"]["name"])
    if options.heads and planner["proposals"]["inverse"] is None:
        raise UserError("heads=true with a planner without proposals: planner=guided takes them, for example")
    make_strategy(planner, options.seed)  # refuses what cannot be used
    store = open_recording(options.data, config["env"])
    checkpoint = choose_checkpoint(options.checkpoint, store.spec.env)
    sizes = sizes_of(checkpoint.source, env)
    folder = output_folder(options.out or RUNS / store.spec.env / "rounds")
    work = Work(options, pairs, env, searching, planner["proposals"]["memory"], sizes, folder)
    model, results = checkpoint.source, [work.evaluate(0, checkpoint.source)]
    for number in range(1, options.rounds + 1):
        model = work.learn(number, model)
        results.append(work.evaluate(number, model))
        _report(results, folder)
    console.print(f"the last model: {escape(model)}\nreport: {escape(str(folder / 'report.md'))}")


def sizes_of(checkpoint: str, typed: Sequence[str]) -> list[str]:
    """Options of `worldmodel.train` in which the model `checkpoint` differs from the default for the options `typed`.

    A further training has to share them.
    """
    model = load_model(checkpoint, torch.device("cpu"))
    default = as_plain(composed("train", [*typed, f"family={model.family}"]))
    return [
        f"{section}.{name}={str(value).lower() if isinstance(value, bool) else value}"
        for section, content in model.describe().items()
        if section != "encoder" and isinstance(default.get(section), dict)
        for name, value in content.items()
        if default[section].get(name) != value
    ]


def _report(results: Sequence[Path], folder: Path) -> None:
    """Print and write what every round has brought, beside the first model on the same pairs."""
    methods = [read_method([str(path)]) for path in results]
    title = f"{methods[0].task['task']}: success in % (95 % interval), and the gain over the first model"
    shown = table(title, "round", *OUTCOMES, "gain, any step", "gain, at the end", narrow=True)
    lines = ["| round | " + " | ".join([*OUTCOMES, "gain, any step", "gain, at the end"]) + " |", "|---" * 7 + "|"]
    rows: list[dict[str, Any]] = []
    for number, method in enumerate(methods):
        found = {name: Comparison.of(method.outcomes[name], methods[0].outcomes[name], 10_000, 0) for name in OUTCOMES}
        gains = [_gain(found[name]) if number else "" for name in ("any step", "at the end")]
        cells = [str(number), *(str(comparison.a) for comparison in found.values()), *gains]
        shown.add_row(*cells)
        lines.append(f"| {' | '.join(cells)} |")
        outcomes = {name: dataclasses.asdict(comparison) for name, comparison in found.items()}
        rows.append({"round": number, "checkpoint": read_results(str(results[number]))["checkpoint"], **outcomes})
    console.print(shown)
    write_json({**methods[0].task, "rounds": rows}, folder / "results.json", indent=1)
    with replacing(folder / "report.md") as file:
        file.write("\n".join([f"{title}.", "", *lines, ""]).encode())


def _gain(found: Comparison) -> str:
    return f"{100 * found.difference:+.0f} ({100 * found.low:+.0f} to {100 * found.high:+.0f})"


main = command("rounds")(rounds)

if __name__ == "__main__":
    main()

"""Success of every planner against the number of model evaluations that one plan may take.

python -m benchmarks.planning.suite env=push checkpoint=push
python -m benchmarks.planning.suite env=push 'planners=[cem,icem]' 'evaluations=[24,192]' manifest.seed=7 manifest.n=100

Options of its own:
  planners=[cem,icem,...]      planners, all of them by default; options follow a colon, so that
                               cem:options.narrow_share=0.5 is another row
  evaluations=[24,48,...,3072] action sequences that are imagined for one plan, at most
  figure=FILE                  where the curves are drawn besides, as docs/assets/push_planners.png
The others are those of planning.evaluate (batch=, manifest., budget=, out=, ...). Pairs are of manifest.seed=902, 40 of
them, unless others are given: development pairs, which are not for reported figures. The same command goes on where it
was interrupted. Into `out` (runs/<env>/suite) it writes results.json, table.md and planners.png.

A gradient counts as one evaluation and takes about three times as long. So the table has a column with the time of a
plan, in processor time, which other programs on the machine disturb least.
"""

from __future__ import annotations

import contextlib
import dataclasses
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from matplotlib.figure import Figure

from benchmarks.options import read_own
from planning.decision import Decision
from planning.evaluate import EvaluateConfig, Evaluation
from planning.evaluation.manifest import ManifestConfig, load_or_draw
from planning.evaluation.policies import WorldModelPolicy
from planning.evaluation.report import Summary
from planning.loading import RUNS, choose_checkpoint, read_model, with_proposals
from planning.registry import OPTIMISERS, make_strategy
from planning.simulation import open_env, open_more
from worldmodel.cli.command import as_plain, composed, ending_in_one_line, plain_options
from worldmodel.cli.console import console, escape
from worldmodel.cli.progress import counting
from worldmodel.cli.tables import table
from worldmodel.core.device import pick_compile, pick_device, pick_precision
from worldmodel.core.errors import UserError
from worldmodel.core.files import output_folder, replacing, write_json
from worldmodel.core.observation import Observation
from worldmodel.core.options import from_config

DEVELOPMENT: Final = ("manifest.seed=902", "manifest.n=40", "oracle=false", "baselines=false")
# Rounds of the search. With few evaluations, two rounds of half of them find more than four of a quarter.
_FEW: Final = 64
_ROUNDS, _FEW_ROUNDS = 4, 2
# Descent takes more rounds of fewer sequences.
_DESCENTS, _FEW_DESCENTS = 12, 6


@dataclasses.dataclass(frozen=True)
class SuiteConfig:
    """The benchmark's own options.

    Attributes:
        planners: names, each with options after colons.
        evaluations: budgets of model evaluations.
        figure: a file for the curves besides, or None.
    """

    planners: tuple[str, ...] = tuple(name for name in OPTIMISERS.names() if name != "mixed")
    evaluations: tuple[int, ...] = (24, 48, 96, 192, 384, 768, 1536, 3072)
    figure: str | None = None

    def __post_init__(self) -> None:
        if not self.planners or not self.evaluations or min(self.evaluations) < 24:
            raise ValueError("planners and evaluations need at least one entry each, and evaluations of 24 or more")


def read_options(arguments: Sequence[str]) -> tuple[SuiteConfig, list[str]]:
    """Our own options, and those of planning.evaluate. Raises UserError for what cannot be read."""
    own, others = read_own(SuiteConfig, arguments)
    return own, [*DEVELOPMENT, *others]


def settings_of(planner: str, evaluations: int, others: Sequence[str]) -> dict[str, Any]:
    """The configuration group `planner` of a row, with as many samples as `evaluations` allow.

    Raises:
        UserError: for a planner or an option that does not exist, or that takes more evaluations at the least.
    """
    name, *options = planner.split(":")
    overrides = [*others, f"planner={name}", *(f"planner.{option}" for option in options)]
    settings: dict[str, Any] = as_plain(composed("evaluate", overrides))["planner"]
    wanted = settings["options"]
    if "iterations" in wanted:
        descends = name == "adam"
        few, many = (_FEW_DESCENTS, _DESCENTS) if descends else (_FEW_ROUNDS, _ROUNDS)
        wanted["iterations"] = few if evaluations < _FEW else many
    share = wanted["elites"] / wanted["samples"] if "elites" in wanted else 0.0
    samples = evaluations
    while samples > 1:
        wanted["samples"] = samples
        if "elites" in wanted:
            wanted["elites"] = min(max(2, round(share * samples)), samples - 1)
        taken = make_strategy(settings, 0).optimiser.evaluations
        if taken <= evaluations:
            return settings
        # Evaluations grow about linearly with samples, so most of the way down is made at once.
        samples = min(samples - 1, samples * evaluations // taken + 4)
    raise UserError(f"planner {planner} takes more than {evaluations} evaluations: expected more of them")


class Timed(WorldModelPolicy):
    """Measures the processor time of every decision [ms]."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.cpu_ms: list[float] = []

    def act(self, observation: Observation) -> Decision:
        begun = time.process_time()
        decision = super().act(observation)
        self.cpu_ms.append((time.process_time() - begun) * 1e3 / len(decision.actions))
        return decision


@dataclasses.dataclass(frozen=True)
class Row:
    """What a planner reached with a budget.

    Attributes:
        planner: name with options.
        budget: evaluations that it was allowed.
        evaluations: evaluations that it takes.
        summary: its episodes.
        cpu_ms: median processor time of a decision for one environment [ms], None if all episodes are from the log.
    """

    planner: str
    budget: int
    evaluations: int
    summary: Summary
    cpu_ms: float | None

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON values."""
        own = {"planner": self.planner, "budget": self.budget, "evaluations": self.evaluations, "cpu_ms": self.cpu_ms}
        return {**own, **self.summary.to_dict()}


class Bench:
    """A checkpoint and the pairs that planners are compared on."""

    def __init__(self, config: dict[str, Any], opened: contextlib.ExitStack) -> None:
        options = from_config(EvaluateConfig, plain_options(config), "evaluate")
        manifest_config = from_config(ManifestConfig, config["manifest"], "manifest")
        self._device = pick_device(options.device)
        options = dataclasses.replace(options, precision=pick_precision(options.precision, self._device))
        env, spec = open_env(config["env"])
        opened.callback(env.close)
        checkpoint = choose_checkpoint(options.checkpoint, spec.env)
        self.model = read_model(checkpoint, self._device, options.precision, options.compile, spec)
        with counting("draw pairs", "pairs") as progress:
            manifest = load_or_draw(env, spec.simulator, spec.options, manifest_config, progress)
        envs = [env, *open_more(config["env"], min(options.batch, len(manifest.pairs)) - 1, opened)]
        self.task = Evaluation(options, config["planner"], envs, spec, manifest, checkpoint)
        compiled = pick_compile(options.compile, self._device)
        self._numerics = {"precision": options.precision, "compile": compiled, "device": self._device.type}

    def row(self, planner: str, budget: int, settings: Mapping[str, Any]) -> Row:
        """Run every episode that is not in the log."""
        strategy = with_proposals(make_strategy(settings, self.task.options.seed), self.model)
        policy = Timed(self.model, strategy, self._device)
        # The same key as planning.evaluate's: what one of them has run, the other need not run again.
        checkpoint = self.task.checkpoint.sha256
        key = self.task.key(planner=settings, checkpoint=checkpoint, **self._numerics, **strategy.proposed)
        episodes = self.task.run(f"{planner}, {budget} evaluations", policy, "model", key)
        summary = Summary.of(episodes, self.task.envs[0].metrics)
        cpu_ms = float(np.median(policy.cpu_ms)) if policy.cpu_ms else None
        return Row(planner, budget, strategy.optimiser.evaluations, summary, cpu_ms)


def markdown(rows: Sequence[Row]) -> str:
    """A table of planners and budgets: success at any step and at the end [%], with the interval of the former."""
    budgets = sorted({row.budget for row in rows})
    lines = ["| planner | " + " | ".join(f"{budget:,}" for budget in budgets) + " |", "|---|" + "---|" * len(budgets)]
    for planner in dict.fromkeys(row.planner for row in rows):
        found = {row.budget: row for row in rows if row.planner == planner}
        cells = [_cell(found[budget]) if budget in found else "" for budget in budgets]
        lines.append(f"| {planner} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _cell(row: Row) -> str:
    spent = "" if row.cpu_ms is None else f", {row.cpu_ms:.0f} ms"
    return f"{row.summary.success_any} / {100 * row.summary.success_final.value:.0f}{spent}"


def draw(env: str, rows: Sequence[Row], path: Path) -> None:
    """Draw success at any step over the number of evaluations, one curve per planner, with 95 % intervals."""
    figure = Figure(figsize=(7.2, 4.2), dpi=150, layout="constrained")
    axes = figure.add_subplot()
    planners = list(dict.fromkeys(row.planner for row in rows))
    for place, planner in enumerate(planners):
        mine = sorted((row for row in rows if row.planner == planner), key=lambda row: row.budget)
        # Curves are shifted a little, so that their bars do not overlap.
        at = [row.budget * 1.02 ** (place - len(planners) / 2) for row in mine]
        rates = [row.summary.success_any for row in mine]
        around = [[100 * (r.value - r.low) for r in rates], [100 * (r.high - r.value) for r in rates]]
        axes.errorbar(at, [100 * r.value for r in rates], yerr=around, label=planner, marker="o", ms=3, capsize=2, lw=1)
    budgets = sorted({row.budget for row in rows})
    axes.set(xscale="log", ylim=(0, 101), ylabel="success in % at any step", xlabel="model evaluations per plan")
    axes.set_xticks(budgets, [str(budget) for budget in budgets])
    axes.minorticks_off()
    axes.set_title(f"{env}: {rows[0].summary.n} pairs, 95 % intervals", fontsize=10)
    axes.legend(fontsize=7, frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)


def measure(arguments: Sequence[str], name: str) -> None:
    """Run every row that is not in the log yet, the cheapest first, and write the results after each.

    They are in `runs/<env>/<name>` unless `out` is given.
    """
    own, others = read_options(arguments)
    pairs = [(budget, planner) for budget in sorted(own.evaluations) for planner in own.planners]
    wanted = {pair: settings_of(pair[1], pair[0], others) for pair in pairs}
    with contextlib.ExitStack() as opened:
        bench = Bench(as_plain(composed("evaluate", others)), opened)
        task = bench.task
        out = output_folder(task.options.out or RUNS / task.spec.env / name)
        console.print(
            f"measuring {escape(task.checkpoint.title)} on {len(task.manifest.pairs)} pairs "
            f"({task.manifest.sha256[:12]}), {task.options.budget} steps each"
        )
        rows: list[Row] = []
        for budget, planner in pairs:
            rows.append(bench.row(planner, budget, wanted[budget, planner]))
            write_json({"rows": [row.to_dict() for row in rows]}, out / "results.json", indent=1)
            with replacing(out / "table.md") as file:
                file.write(markdown(rows).encode())
        for path in (out / "planners.png", *([Path(own.figure)] if own.figure else [])):
            draw(task.spec.env, rows, path)
        shown = table("success in % (95 % interval)", "", "evaluations", "any step", "at the end", "CPU ms")
        for row in rows:
            spent = "" if row.cpu_ms is None else f"{row.cpu_ms:.0f}"
            shown.add_row(
                row.planner, str(row.evaluations), str(row.summary.success_any), str(row.summary.success_final), spent
            )
        console.print(shown)
        console.print(f"results: {out / 'results.json'}, {out / 'table.md'}, {out / 'planners.png'}")


def run(document: str | None, arguments: Sequence[str], name: str) -> None:
    """Print `document` if `arguments` ask for help. Otherwise `measure`, and end in one line."""
    if any(argument in ("-h", "--help") for argument in arguments):
        print(document)
        return
    with ending_in_one_line("what was finished is kept; the same command goes on from there"):
        measure(arguments, name)


def main() -> None:
    """What `python -m benchmarks.planning.suite` does."""
    run(__doc__, sys.argv[1:], "suite")


if __name__ == "__main__":
    main()

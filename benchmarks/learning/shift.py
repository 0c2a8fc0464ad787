"""How much success is left where a real camera differs from the one that a model was trained with.

python -m benchmarks.learning.shift env=push checkpoint=push
python -m benchmarks.learning.shift env=push n=20 'shifts=[white_balance,moved]' 'strengths=[middle]' 'where=[goal]'

Options of its own:
  n=100                              pairs of start and goal, fresh ones from manifest.seed=404
  shifts=[light,white_balance,...]   names or groups of planning.evaluation.shifts; all of them by default
  strengths=[weak,middle,strong]     half of what a model is to endure, all of it, and twice as much
  where=[goal,both]                  shift the goal image only, or the live camera's images too
The others are those of planning.evaluate (batch=, planner.=, budget=, out=, ...), of which it uses no baselines, no
oracle and no videos. The same command goes on where it was interrupted. Into `out` (runs/<env>/shift/<hash>) it writes
results.json, table.md, and shifts.png, which shows one goal under every shift.
"""

from __future__ import annotations

import contextlib
import dataclasses
import sys
from collections.abc import Iterator, Sequence
from typing import Any, Final

import numpy as np
import torch

from benchmarks.learning.shift_report import Reference, Row, contact_sheet, markdown, measured_row, results, row_table
from benchmarks.options import read_own
from envs.protocol import GoalEnv
from planning.evaluate import EvaluateConfig, Evaluation
from planning.evaluation.manifest import ManifestConfig, load_or_draw
from planning.evaluation.policies import WorldModelPolicy
from planning.evaluation.report import Summary
from planning.evaluation.shifted import WHERE, ShiftedEnv
from planning.evaluation.shifts import SHIFTS, STRENGTHS, Shift, chosen
from planning.inputs import read_start
from planning.loading import RUNS, choose_checkpoint, read_model, with_proposals
from planning.registry import make_strategy
from planning.simulation import open_env
from planning.types import Model
from worldmodel.cli.command import as_plain, composed, ending_in_one_line, plain_options
from worldmodel.cli.console import console, escape
from worldmodel.cli.progress import counting
from worldmodel.core.device import pick_compile, pick_device, pick_precision
from worldmodel.core.errors import UserError, choices_message
from worldmodel.core.files import output_folder, replacing, write_json
from worldmodel.core.goal import ImageGoal
from worldmodel.core.options import from_config

SEED: Final = 404  # of the pairs: no manifest is drawn with it, and no option was chosen on it
# Raised when a shift comes to look otherwise: what was kept of older episodes then counts no more.
_SHIFTS_VERSION: Final = 1


@dataclasses.dataclass(frozen=True)
class ShiftConfig:
    """The benchmark's own options.

    Attributes:
        n: pairs of start and goal.
        shifts: names or groups.
        strengths: of `STRENGTHS`.
        where: of `WHERE`.
    """

    n: int = 100
    shifts: tuple[str, ...] = tuple(shift.name for shift in SHIFTS)
    strengths: tuple[str, ...] = tuple(STRENGTHS)
    where: tuple[str, ...] = tuple(WHERE)

    def __post_init__(self) -> None:
        ManifestConfig(n=self.n)  # refuses what no manifest can have
        chosen(self.shifts)
        for what, given, accepted in (("strength", self.strengths, STRENGTHS), ("where", self.where, WHERE)):
            for name in given:
                if name not in accepted:
                    raise ValueError(choices_message(what, name, accepted))
        for option in ("shifts", "strengths", "where"):
            if not getattr(self, option):
                raise ValueError(f"{option} is empty: expected at least one")

    def rows(self) -> Iterator[tuple[Shift, str, str]]:
        """Shift, name of the strength, and where, in the order of the table."""
        for where in (name for name in WHERE if name in self.where):
            for shift in chosen(self.shifts):
                for strength in (name for name in STRENGTHS if name in self.strengths):
                    yield shift, strength, where


def read_options(arguments: Sequence[str]) -> tuple[ShiftConfig, list[str]]:
    """Our own options, and those of planning.evaluate. Raises UserError for what cannot be read."""
    for argument in arguments:
        if argument.partition("=")[0] == "manifest.n":
            raise UserError(f"option '{argument}' does not fit: n=100 says how many pairs")
    config, others = read_own(ShiftConfig, arguments)
    return config, [f"manifest.seed={SEED}", *others, f"manifest.n={config.n}"]


class Bench:
    """A checkpoint, the pairs that it is measured on, and what it does on them without any shift."""

    def __init__(self, task: Evaluation, model: Model, policy: WorldModelPolicy, decisive: dict[str, Any]) -> None:
        self.task, self.model, self._policy, self._decisive = task, model, policy, decisive
        env = task.envs[0]
        self._goals = [np.array(pair.goal) for pair in task.manifest.pairs]
        # The same key as planning.evaluate's: what one of them has run, the other need not run again.
        episodes = task.run("no shift", policy, "model", task.key(**decisive))
        self.reference = Reference(Summary.of(episodes, env.metrics))
        with torch.no_grad():
            self._clean = [model.goal(ImageGoal(env.goal_images(goal))) for goal in self._goals]

    def row(self, shift: Shift, strength: str, where: str) -> Row:
        """Run every episode under `shift`, going on from the log."""
        pairs = self.task.manifest.pairs
        envs = [ShiftedEnv(env, shift, STRENGTHS[strength], where, pairs) for env in self.task.envs]
        task = dataclasses.replace(self.task, envs=envs)
        key = task.key(
            **self._decisive, shift=shift.name, strength=STRENGTHS[strength], where=where, shifts=_SHIFTS_VERSION
        )
        episodes = task.run(f"{shift.name}, {strength}, {WHERE[where]}", self._policy, "shift", key)
        summary = Summary.of(episodes, self.task.envs[0].metrics)
        return measured_row(shift, strength, where, summary, self.reference, self._distances(envs[0]))

    @torch.no_grad()
    def _distances(self, env: ShiftedEnv) -> list[float]:
        """Latent distance of every pair's shifted goal image to the clean one."""
        return [
            float(self.model.distance(self.model.goal(ImageGoal(env.goal_images(state))), clean))
            for state, clean in zip(self._goals, self._clean, strict=True)
        ]


def open_task(
    config: dict[str, Any], opened: contextlib.ExitStack
) -> tuple[Evaluation, Model, WorldModelPolicy, dict[str, Any]]:
    """As planning.evaluate opens it, and what else decides its outcomes. Raises UserError."""
    options = from_config(EvaluateConfig, plain_options(config), "evaluate")
    manifest_config = from_config(ManifestConfig, config["manifest"], "manifest")
    device = pick_device(options.device)
    options = dataclasses.replace(options, precision=pick_precision(options.precision, device))
    strategy = make_strategy(config["planner"], options.seed)  # refuses what cannot be used, before anything is opened
    env, spec = open_env(config["env"])
    opened.callback(env.close)
    checkpoint = choose_checkpoint(options.checkpoint, spec.env)
    model = read_model(checkpoint, device, options.precision, options.compile, spec)
    strategy = with_proposals(strategy, model)
    start = read_start(options.command, spec.action)
    with counting("draw pairs", "pairs") as progress:
        manifest = load_or_draw(env, spec.simulator, spec.options, manifest_config, progress)
    envs: list[GoalEnv] = [env]
    for _ in range(min(options.batch, len(manifest.pairs)) - 1):
        envs.append(open_env(config["env"])[0])
        opened.callback(envs[-1].close)
    task = Evaluation(options, config["planner"], envs, spec, manifest, checkpoint)
    compiled = pick_compile(options.compile, device)
    numerics = {"precision": options.precision, "compile": compiled, "device": device.type}
    decisive = {"planner": config["planner"], "checkpoint": checkpoint.sha256, **numerics, **strategy.proposed}
    return task, model, WorldModelPolicy(model, strategy, device, start=start), decisive


def measure(arguments: Sequence[str]) -> None:
    """Run every row that is not in the log yet, then print and write the table. Raises UserError."""
    own, others = read_options(arguments)
    config = as_plain(composed("evaluate", others))
    with contextlib.ExitStack() as opened:
        task, model, policy, decisive = open_task(config, opened)
        key = task.key(**decisive, **dataclasses.asdict(own), shift_version=_SHIFTS_VERSION)
        out = output_folder(task.options.out or RUNS / task.spec.env / "shift" / key)
        console.print(
            f"measuring {escape(task.checkpoint.title)} on {own.n} pairs (seed {task.manifest.seed}, "
            f"{task.manifest.sha256[:12]}), {task.options.budget} steps each"
        )
        contact_sheet(task.envs[0], task.manifest.pairs[0], out / "shifts.png")
        bench = Bench(task, model, policy, decisive)
        rows = [bench.row(*row) for row in own.rows()]
        write_json(results(task, bench.reference, rows), out / "results.json", indent=1)
        with replacing(out / "table.md") as file:
            file.write(markdown(bench.reference, rows).encode())
        console.print(row_table(f"{task.spec.env}, n = {own.n}: success in % (95 % interval)", bench.reference, rows))
        console.print(
            "ratio: to the success without a shift, at any step / at the end\n"
            "latent: median distance of the shifted goal image to the clean one, where "
            f"{model.reached_distance:g} counts as reached\n"
            f"results: {out / 'results.json'}, {out / 'table.md'}, {out / 'shifts.png'}"
        )


def main() -> None:
    """What `python -m benchmarks.learning.shift` does."""
    if any(argument in ("-h", "--help") for argument in sys.argv[1:]):
        print(__doc__)
        return
    with ending_in_one_line("what was finished is kept; the same command goes on from there"):
        measure(sys.argv[1:])


if __name__ == "__main__":
    main()

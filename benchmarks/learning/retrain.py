"""A robot that plans in a world unlike the recorded one, records what it lives through, and is evaluated there.

python -m benchmarks.learning.retrain record change=slippery goals=300 out=runs/slippery/lived.zarr
python -m benchmarks.learning.retrain evaluate change=slippery checkpoint=push manifest.seed=7
python -m benchmarks.learning.retrain plans change=slippery before=push after=runs/slippery/model n=100 seed=7

`record` heads for one goal image after another, as on a table that nobody tidies up. Each goal has as many control
steps as `budget` says, or ends when the model reports it as reached. Its options are `change` (a name in
benchmarks.learning.changed_push), `checkpoint`, `goals`, `budget`, `seed` (of goals and start), `out`, and those of the
planner, such as planner.options.samples=64. If `out` exists, episodes are added. `evaluate` takes `change`, and all
options of planning.evaluate but `env`. `plans` lets two models plan once from each of the same states, and prints what
came of it (see benchmarks.planning.caution), which takes a fiftieth of the time. docs/robot.md shows what is between.
"""

from __future__ import annotations

import contextlib
import dataclasses
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from benchmarks.learning.changed_push import NAME, register_changed
from benchmarks.options import read_all
from benchmarks.planning.caution import Bench, Outcome, show_outcomes
from envs.registry import describe, env_options, make_env
from planning import evaluate
from planning.environment import Environment
from planning.evaluation.manifest import Manifest, draw
from planning.loading import Checkpoint, read_model
from planning.robot import RobotController
from worldmodel.cli.command import as_plain, composed, ending_in_one_line
from worldmodel.cli.console import console
from worldmodel.cli.progress import counting
from worldmodel.core.errors import UserError, choices_message


@dataclasses.dataclass(frozen=True)
class RecordConfig:
    """Options of `record`, which the module explains."""

    change: str = "none"
    checkpoint: str = "push"
    goals: int = 300
    budget: int = 50
    seed: int = 1
    out: str = "runs/lived.zarr"
    planner: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if min(self.goals, self.budget) < 1 or self.seed < 0:
            raise UserError(
                f"goals={self.goals} budget={self.budget} seed={self.seed}: at least 1, 1 and 0 are accepted"
            )


def record(config: RecordConfig) -> tuple[int, int]:
    """Live through all goals. Returns how many control steps there were, and how many goals the model reported."""
    register_changed()
    options = env_options(NAME, change=config.change)
    env = make_env(options)
    spec = describe(env, options)
    manifest = draw(env, spec.simulator, spec.options, config.seed, config.goals)
    try:
        return live(env, manifest, config)
    finally:
        env.close()


def live(env: Environment, manifest: Manifest, config: RecordConfig) -> tuple[int, int]:
    """Head for the goals of `manifest`, beginning at its first start. The world goes on from goal to goal."""
    steps, reached = 0, 0
    observation, _ = env.reset(options={"state": np.array(manifest.pairs[0].start)})
    first = env.goal_images(np.array(manifest.pairs[0].goal))
    with (
        counting("goals") as progress,
        RobotController(config.checkpoint, first, config.planner, threads=1, record=config.out) as robot,
    ):
        for done, pair in enumerate(manifest.pairs):
            robot.toward(env.goal_images(np.array(pair.goal)))
            for _ in range(config.budget):
                decision = robot.act(observation["images"], observation["proprio"])
                if decision.reached:
                    reached += 1
                    break
                observation, _, diverged, _, _ = env.step(decision.action)
                steps += 1
                if diverged:
                    raise UserError(f"the simulation diverged at goal {done}: another seed= avoids this")
            progress(done + 1, len(manifest.pairs))
    return steps, reached


@dataclasses.dataclass(frozen=True)
class PlansConfig:
    """Options of `plans`: the change, two checkpoints, and number and seed of the states."""

    change: str = "none"
    before: str = "push"
    after: str = "push"
    n: int = 100
    seed: int = 1

    def __post_init__(self) -> None:
        if self.n < 1 or self.seed < 0:
            raise UserError(f"n={self.n} seed={self.seed}: at least 1 and 0 are accepted")


def plans(config: PlansConfig) -> None:
    """Print what plans of both models promised, and what came."""
    register_changed()
    options = env_options(NAME, change=config.change)
    env = make_env(options)
    planner = as_plain(composed("evaluate", ["env=push", "planner=cem"]))["planner"]
    found: dict[str, list[Outcome]] = {"before": [], "after": []}
    with contextlib.closing(env):
        spec = describe(env, options)
        pairs = draw(env, spec.simulator, spec.options, config.seed, config.n).pairs
        for name in found:
            checkpoint = Checkpoint(getattr(config, name), getattr(config, name))
            bench = Bench(env, read_model(checkpoint, torch.device("cpu"), "auto", False, spec), planner, seed=0)
            with counting(f"plans {name}") as progress:
                for done, pair in enumerate(pairs):
                    found[name].append(bench.outcomes(pair, ["plain"])["plain"])
                    progress(done + 1, len(pairs))
        metric = env.metrics[0]
    title = f"{config.change}: {config.n} plans of each model"
    show_outcomes(found, title, f"{metric.name}, {metric.unit}")


def read(kind: type[Any], arguments: Sequence[str]) -> Any:
    """The options `kind` as typed. Raises UserError."""
    if "planner" not in {field.name for field in dataclasses.fields(kind)}:
        return read_all(kind, arguments)
    planner = tuple(each for each in arguments if each.startswith("planner."))
    own = read_all(kind, [each for each in arguments if each not in planner])
    if any(each.startswith("planner=") for each in arguments):
        raise UserError("planner= cannot be chosen here: expected options planner.KEY=VALUE")
    return dataclasses.replace(own, planner=planner)


def main() -> None:
    """What `python -m benchmarks.learning.retrain` does."""
    command, *arguments = sys.argv[1:] or ["--help"]
    if command in ("-h", "--help"):
        print(__doc__)
    elif command == "evaluate":
        register_changed()
        options = [f"env.{option}" if option.startswith("change=") else option for option in arguments]
        sys.argv = [sys.argv[0], f"env={NAME}", *options]
        evaluate.main()
    else:
        with ending_in_one_line("what was finished is kept; the same command adds to it"):
            if command == "plans":
                plans(read(PlansConfig, arguments))
                return
            if command != "record":
                raise UserError(choices_message("command", command, ("record", "evaluate", "plans")))
            config: RecordConfig = read(RecordConfig, arguments)
            steps, reached = record(config)
            console.print(
                f"{config.goals} goals, {steps} control steps, {reached} goals reported as reached: {config.out}"
            )


if __name__ == "__main__":
    main()

"""Make the world look like a picture.

python -m planning.run env=push goal=img.png
python -m planning.run env=push seed=7          # a pair of the manifest
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from rich.live import Live

from planning.controller import Decision
from planning.environment import Environment
from planning.evaluation.attempt import Outcome, StopRule, attempt
from planning.evaluation.figure import draw_plan
from planning.evaluation.media import side_by_side, write_video
from planning.evaluation.task import Task, from_image, from_manifest
from planning.goal_image import read_goal
from planning.loading import (
    RUNS,
    Checkpoint,
    bounds_of,
    choose_checkpoint,
    load_model,
    open_env,
)
from planning.manifest import ManifestConfig, frozen_path, load_or_draw
from planning.policies import make_controller
from planning.registry import make_planner
from worldmodel.cli.command import Config, command, next_command, plain_options
from worldmodel.cli.console import console
from worldmodel.core.device import pick_device
from worldmodel.core.files import output_folder, write_json
from worldmodel.core.options import from_config
from worldmodel.core.spec import EnvironmentSpec


@dataclasses.dataclass(frozen=True)
class RunConfig:
    """What `configs/run.yaml` holds beside its groups; it says what each means."""

    goal: str | None
    seed: int | None
    checkpoint: str | None
    budget: int
    stop_when_reached: bool
    reached_distance: float
    planner_seed: int
    device: str
    precision: str
    compile: str | bool
    out: str | None

    def __post_init__(self) -> None:
        if self.budget < 1 or not 0 < self.reached_distance < math.inf:
            received = f"budget={self.budget} reached_distance={self.reached_distance}"
            raise ValueError(f"{received}: at least 1, and a number above 0 are accepted")
        if (self.seed or 0) < 0:
            raise ValueError(f"seed={self.seed}: a whole number from 0 up is accepted")


def run(config: Config) -> None:
    """What `python -m planning.run` does. Raises UserError for input that cannot be used."""
    options = from_config(RunConfig, plain_options(config), "run")
    device = pick_device(options.device)
    env, spec = open_env(config["env"])
    try:
        task = _choose_task(options, env, spec)
        checkpoint = choose_checkpoint(options.checkpoint, spec.env)
        model = load_model(checkpoint, spec, device, options.precision, options.compile)
        planner = make_planner(config["planner"], model.history, options.planner_seed)
        controller = make_controller(model, planner, bounds_of(spec), task.goal[None], device)
        now = f"{datetime.datetime.now():%Y-%m-%d_%H-%M-%S}"
        with _folder_for(options.out or RUNS / spec.env / "plan" / now) as out:
            console.print(f"{spec.env}: toward {task.title}, planning with {checkpoint.title}")
            stop = StopRule(options.budget, options.stop_when_reached, options.reached_distance)
            outcome = _attempt_live(env, controller, task, stop)
            verdict = describe_outcome(env, outcome)
            _save(env, task, outcome, verdict, checkpoint, out)
    finally:
        env.close()
    console.print(("[green]" if outcome.reached else "[yellow]") + f"{verdict}[/]")
    console.print(f"output: {out}/episode.mp4, plan.png, result.json")
    fresh = () if frozen_path(spec.env, spec.options).exists() else ("manifest.seed=1",)
    console.print(next_command("planning.evaluate", *fresh, checkpoint="checkpoint"))


@contextlib.contextmanager
def _folder_for(path: str | Path) -> Iterator[Path]:
    """The folder of a run's output. Where the run leaves nothing in it, what was made of it here is removed again."""
    missing = [folder for folder in (Path(path), *Path(path).parents) if not folder.exists()]
    out = output_folder(path)
    try:
        yield out
    finally:
        with contextlib.suppress(OSError):  # from the first one on that is not empty
            for folder in missing:
                folder.rmdir()


def _choose_task(options: RunConfig, env: Environment, spec: EnvironmentSpec) -> Task:
    if options.goal is None:
        # An environment without a frozen manifest gets one fresh pair.
        frozen = frozen_path(spec.env, spec.options).exists()
        wanted = ManifestConfig() if frozen else ManifestConfig(seed=options.seed or 0, n=1)
        return from_manifest(env, load_or_draw(env, spec.simulator, spec.options, wanted), options.seed)
    return from_image(env, read_goal(options.goal, spec.only_camera.height), options.goal, options.seed)


def _attempt_live(env: Environment, controller: Any, task: Task, stop: StopRule) -> Outcome:
    first = 0.0

    with Live(console=console, auto_refresh=False, transient=not console.is_terminal) as live:

        def show(step: int, decision: Decision) -> None:
            nonlocal first
            distance = float(decision.distance[0])
            first = distance if step == 1 else first
            line = (
                f"step {step}/{stop.budget}   latent distance {distance:.3f} "
                f"({100 * distance / max(first, 1e-12):.0f} % of the first)   "
                f"planning {decision.plan_ms:.0f} ms   {1e3 / decision.plan_ms:.1f} Hz"
            )
            if console.is_terminal:
                live.update(line, refresh=True)
            elif step % 10 == 1:
                console.print(line)

        return attempt(env, controller, task, stop, show)


def describe_outcome(env: Environment, outcome: Outcome) -> str:
    """The verdict in one line: reached or not, by whose judgement, how close."""
    steps = len(outcome.states) - 1
    if outcome.diverged:
        return f"not reached: the simulation diverged after {steps} steps"
    if outcome.judged_by == "model":
        word = "reached" if outcome.reached else "not reached"
        return (
            f"{word} after {steps} steps, as the model judges: latent distance {outcome.distance[-1]:.2f}, "
            f"{outcome.distance[0]:.2f} at first (the picture does not say where things are)"
        )
    errors = ", ".join(f"{m.name} {outcome.errors[m.name][-1]:.2g} {m.unit}" for m in env.metrics)
    if outcome.reached and not outcome.held:
        return f"reached on the way, but not held to step {steps}: {errors} off at the end"
    return f"{'reached' if outcome.reached else 'not reached'} after {steps} steps: {errors} off"


def _save(env: Environment, task: Task, outcome: Outcome, verdict: str, checkpoint: Checkpoint, out: Path) -> None:
    draw_plan(env, task, outcome, verdict, out / "plan.png")
    write_video(out / "episode.mp4", side_by_side(env, outcome.states, task.goal), 1 / env.control_step_s)
    record = {
        "task": env.name,
        "goal": task.title,
        "checkpoint": {"source": checkpoint.source, "sha256": checkpoint.sha256},
        "verdict": verdict,
        "reached": outcome.reached,
        "held": outcome.held,
        "judged_by": outcome.judged_by,
        "steps": len(outcome.states) - 1,
        "diverged": outcome.diverged,
        "steps_without_plan": outcome.replaced,
        "latent_distance": outcome.distance.tolist(),
        "errors": {name: values.tolist() for name, values in outcome.errors.items()},
        "plan_ms": outcome.plan_ms.tolist(),
        "plan_ms_median": float(np.median(outcome.plan_ms)) if len(outcome.plan_ms) else None,
        "states": outcome.states.tolist(),
    }
    write_json(record, out / "result.json", indent=1)


main = command("run", goes_on=False)(run)

if __name__ == "__main__":
    main()

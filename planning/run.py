"""Act until a goal image is reached.

python -m planning.run env=push goal=img.png
python -m planning.run env=push seed=7                           # a pair of the manifest
python -m planning.run env=push 'goal=[first.png,second.png]'    # sub-goals; quotes hide the brackets from the shell
python -m planning.run env=arm 'goal={front: a.png, side: b.png}'   # several cameras
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

from planning.alarms import OnAlarm, read_on_alarm
from planning.calibration import hash_of
from planning.controller import choose_reached_distance
from planning.decision import Decision
from planning.environment import Environment
from planning.evaluation.figure import draw_plan
from planning.evaluation.imagination import Comparison, Watched
from planning.evaluation.manifest import MOST_BUDGET, ManifestConfig, frozen_path, load_or_draw
from planning.evaluation.media import imagined_frames, side_by_side, sub_goal_frames, write_video
from planning.evaluation.outcome import Outcome, StopRule, attempt, describe
from planning.evaluation.policies import WorldModelPolicy
from planning.evaluation.rollout import Policy
from planning.evaluation.task import Task, from_images, from_manifest
from planning.goal_image import require_fit
from planning.hierarchy import HierarchyConfig, require_alone
from planning.inputs import read_start
from planning.loading import (
    RUNS,
    Checkpoint,
    choose_checkpoint,
    chosen_planner,
    read_decoder,
    read_hierarchy,
    read_model,
    read_pictures,
    with_proposals,
)
from planning.monitor import Monitor, MonitorConfig, make_monitor
from planning.registry import make_strategy
from planning.simulation import open_env
from planning.threads import settle_threads
from planning.verification import make_verification
from worldmodel.cli.command import Config, command, next_command, plain_options
from worldmodel.cli.console import console, escape
from worldmodel.cli.progress import live_line
from worldmodel.core.device import pick_device
from worldmodel.core.files import output_folder, write_json
from worldmodel.core.options import from_config
from worldmodel.core.spec import EnvironmentSpec
from worldmodel.core.threads import threads_kept


@dataclasses.dataclass(frozen=True)
class RunConfig:
    """The options in `configs/run.yaml` beside its groups. The file explains each."""

    goal: Any
    goal_fit: str
    seed: int | None
    command: tuple[float, ...] | None
    checkpoint: str | None
    hierarchy: str | None
    budget: int
    stop_when_reached: bool
    monitor: str | None
    on_alarm: str
    reached_distance: float | None
    planner_seed: int
    device: str
    precision: str
    compile: str | bool
    threads: int | str
    decoder: str | None
    imagined_ahead: int
    verify: float | None
    out: str | None

    def __post_init__(self) -> None:
        reached = self.reached_distance
        if not 1 <= self.budget <= MOST_BUDGET or not (reached is None or 0 < reached < math.inf):
            received = f"budget={self.budget} reached_distance={self.reached_distance}"
            raise ValueError(f"{received}: 1 to {MOST_BUDGET:,}, and a number above 0 are accepted")
        if min(self.seed or 0, self.planner_seed) < 0:
            raise ValueError(f"seed={self.seed} planner_seed={self.planner_seed}: whole numbers from 0 up are accepted")
        if self.imagined_ahead < 1:
            raise ValueError(f"imagined_ahead={self.imagined_ahead}: a whole number from 1 up is accepted")
        require_alone(self.hierarchy, verify=self.verify, monitor=self.monitor)
        require_fit(self.goal_fit)
        read_on_alarm(self.on_alarm)


def run(config: Config) -> None:
    """Run `python -m planning.run`. Raises UserError for input that cannot be used."""
    options = from_config(RunConfig, {**plain_options(config), "goal": config["goal"]}, "run")
    sub_goals = from_config(HierarchyConfig, config["sub_goals"], "sub_goals")
    device = pick_device(options.device)
    settings = chosen_planner(config["planner"], options.checkpoint, config["env"]["name"])
    strategy = make_strategy(settings, options.planner_seed)
    env, spec = open_env(config["env"])
    try:
        task = _choose_task(options, env, spec)
        checkpoint = choose_checkpoint(options.checkpoint, spec.env)
        model = read_model(checkpoint, device, options.precision, options.compile, spec)
        decoder, note = read_decoder(options.decoder, model)
        hierarchy = read_hierarchy(options.hierarchy, sub_goals, model)
        verification = make_verification(options.verify, model, decoder)
        strategy = with_proposals(strategy, model)
        monitor = _monitor(options, model, checkpoint, {**settings, **strategy.proposed})
        command = read_start(options.command, spec.action)
        policy: Policy = WorldModelPolicy(
            model, strategy, device, options.reached_distance, command, verification, monitor, hierarchy
        )
        watched = None if decoder is None else Watched(policy, decoder)
        now = f"{datetime.datetime.now():%Y-%m-%d_%H-%M-%S}"
        with _folder_for(options.out or RUNS / spec.env / "plan" / now) as out:
            for told in filter(None, (*task.notes, note)):
                console.print(f"[yellow]note[/]: {escape(told)}")
            strategy.warn()
            console.print(f"{spec.env}: toward {escape(task.title)}, planning with {escape(checkpoint.title)}")
            with threads_kept():
                settle_threads(options.threads, model, strategy, task.goals, device)
                stop = StopRule(options.budget, options.stop_when_reached, options.on_alarm == OnAlarm.STOP)
                outcome = _attempt_live(env, watched or policy, task, stop)
            verdict = describe(env, outcome, choose_reached_distance(options.reached_distance, model, monitor))
            draw_plan(env, task, outcome, verdict, out / "plan.png")
            film = side_by_side(env, outcome.states, task.picture)
            write_video(out / "episode.mp4", film, 1 / env.control_step_s)
            shown = _draw_sub_goals(env, task, outcome, options.hierarchy, out)
            imagined = None if watched is None else _draw_imagined(env, watched, options.imagined_ahead, out)
            record = _record(env, task, outcome, verdict, checkpoint) | strategy.proposed
            write_json({**record, "imagined": imagined}, out / "result.json", indent=1)
    finally:
        env.close()
    if outcome.alarm is not None:
        console.print(f"[red]alarm[/]: {outcome.alarm}")
    console.print(("[green]" if outcome.reached else "[yellow]") + f"{verdict}[/]")
    if outcome.refused:
        console.print(
            f"[yellow]note[/]: rested in {outcome.refused} control steps, whose plans were not seen to lead nearer to "
            f"the goal image (verify={options.verify:g})"
        )
    films = [name for name, made in (("imagined.mp4", imagined is not None), ("sub_goals.mp4", shown)) if made]
    console.print(f"output: {out}/{', '.join(['episode.mp4', *films])}, plan.png, result.json", markup=False)
    fresh = () if frozen_path(spec.env, spec.options).exists() else ("manifest.seed=1",)
    console.print(next_command("planning.evaluate", *fresh, checkpoint="checkpoint"))


def _monitor(options: RunConfig, model: Any, checkpoint: Checkpoint, planner: Any) -> Monitor | None:
    if options.monitor is None:
        return None
    config = MonitorConfig(options.monitor, options.on_alarm)
    return make_monitor(config, model, lambda: {"checkpoint": checkpoint.sha256, "planner": hash_of(planner)})


@contextlib.contextmanager
def _folder_for(path: str | Path) -> Iterator[Path]:
    """The folder of a run's output. If the run leaves it empty, the folders that were made here are removed again."""
    missing = [folder for folder in (Path(path), *Path(path).parents) if not folder.exists()]
    out = output_folder(path)
    try:
        yield out
    finally:
        with contextlib.suppress(OSError):  # the first folder that is not empty ends the removal
            for folder in missing:
                folder.rmdir()


def _choose_task(options: RunConfig, env: Environment, spec: EnvironmentSpec) -> Task:
    if options.goal is None:
        # For an environment without a frozen manifest, one new pair is drawn.
        frozen = frozen_path(spec.env, spec.options).exists()
        wanted = ManifestConfig() if frozen else ManifestConfig(seed=options.seed or 0, n=1)
        return from_manifest(env, load_or_draw(env, spec.simulator, spec.options, wanted), options.seed)
    return from_images(env, spec, options.goal, options.seed, options.goal_fit)


def _attempt_live(env: Environment, policy: Policy, task: Task, stop: StopRule) -> Outcome:
    first = 0.0

    with live_line() as shown:

        def show(step: int, decision: Decision) -> None:
            nonlocal first
            distance = float(decision.distance[0])
            first = distance if step == 1 else first
            several = f"goal {decision.sub_goal[0] + 1}/{len(task.goals)}   " if len(task.goals) > 1 else ""
            shown(
                f"step {step}/{stop.budget}   {several}latent distance {distance:.3f} "
                f"({100 * distance / max(first, 1e-12):.0f} % of the first)   "
                f"planning {decision.plan_ms:.0f} ms   {1e3 / decision.plan_ms:.1f} Hz"
                + ("   resting: the plan is not seen to lead nearer" if decision.refused[0] else "")
            )

        return attempt(env, policy, task, stop, show)


def _draw_imagined(env: Environment, watched: Watched, ahead: int, out: Path) -> dict[str, Any]:
    """Write `imagined.mp4`, and return the differences between imagined and observed images."""
    comparison = Comparison(watched)
    write_video(out / "imagined.mp4", imagined_frames(comparison, ahead), 1 / env.control_step_s)
    return dataclasses.asdict(comparison.promised())


def _draw_sub_goals(env: Environment, task: Task, outcome: Outcome, hierarchy: str | None, out: Path) -> bool:
    """Write `sub_goals.mp4` if there is a hierarchy and its landmarks have images. Returns whether it was written."""
    pictures = None if hierarchy is None else read_pictures(Path(hierarchy))
    if pictures is None:
        return False
    frames = sub_goal_frames(env, outcome.states, outcome.headings, pictures, task.picture)
    write_video(out / "sub_goals.mp4", frames, 1 / env.control_step_s)
    return True


def _record(env: Environment, task: Task, outcome: Outcome, verdict: str, checkpoint: Checkpoint) -> dict[str, Any]:
    return {
        "task": env.name,
        "goal": task.title,
        "checkpoint": {"source": checkpoint.source, "sha256": checkpoint.sha256},
        "verdict": verdict,
        "reached": outcome.reached,
        "held": outcome.held,
        "judged_by": outcome.judged_by,
        "steps": len(outcome.states) - 1,
        "diverged": outcome.diverged,
        "alarm": None if outcome.alarm is None else dataclasses.asdict(outcome.alarm),
        "steps_without_plan": outcome.replaced,
        "steps_refused": outcome.refused,
        "latent_distance": outcome.distance.tolist(),
        "sub_goal": outcome.sub_goal.tolist(),
        **({"headings": [heading.described() for heading in outcome.headings]} if outcome.headings else {}),
        "errors": {name: values.tolist() for name, values in outcome.errors.items()},
        "plan_ms": outcome.plan_ms.tolist(),
        "plan_ms_median": float(np.median(outcome.plan_ms)) if len(outcome.plan_ms) else None,
        "states": outcome.states.tolist(),
    }


main = command("run", goes_on=False)(run)

if __name__ == "__main__":
    main()

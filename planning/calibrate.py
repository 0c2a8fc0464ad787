"""Thresholds of the monitor, from the scores of successful runs, and the latent distance that counts as reached.

python -m planning.calibrate env=push
python -m planning.calibrate env=push checkpoint=runs/push/model alpha=0.02 manifest.n=200
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
from pathlib import Path
from typing import Final

import torch

from planning.arrival import WRONG, Approach, Arrival, Reports
from planning.calibration import FILE, Calibration, hash_of, least_runs
from planning.display import RunProgress
from planning.evaluation.manifest import Manifest, ManifestConfig, load_or_draw
from planning.evaluation.options import EpisodesConfig
from planning.evaluation.policies import WorldModelPolicy
from planning.evaluation.watched import RunLog, Until, watch_all
from planning.inputs import read_start
from planning.loading import RUNS, Checkpoint, choose_checkpoint, chosen_planner, read_model, with_proposals
from planning.monitor import MOST_WINDOW, Monitor
from planning.registry import make_strategy
from planning.simulation import open_env, open_more
from worldmodel.cli.command import Config, command, next_command, plain_options
from worldmodel.cli.console import console, escape
from worldmodel.cli.progress import counting
from worldmodel.core.device import pick_compile, pick_device, pick_precision
from worldmodel.core.errors import UserError
from worldmodel.core.files import output_file
from worldmodel.core.options import from_config

# Increased when the same options give other scores. Logged episodes of older versions are then not used any more.
_SCORES_VERSION: Final = 2


@dataclasses.dataclass(frozen=True)
class CalibrateConfig(EpisodesConfig):
    """The options in `configs/calibrate.yaml` beside its groups. The file explains each."""

    alpha: float
    window: int

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0.001 <= self.alpha <= 0.5 or not 1 <= self.window <= MOST_WINDOW:
            raise ValueError(
                f"alpha={self.alpha} window={self.window}: 0.001 to 0.5 and 1 to {MOST_WINDOW} are accepted"
            )


def calibrate(config: Config) -> None:
    """Run `python -m planning.calibrate`. Raises UserError for input that cannot be used."""
    options = from_config(CalibrateConfig, plain_options(config), "calibrate")
    pairs_config = from_config(ManifestConfig, config["manifest"], "manifest")
    _require_enough(options.alpha, pairs_config.n)
    device = pick_device(options.device)
    options = dataclasses.replace(options, precision=pick_precision(options.precision, device))
    settings = chosen_planner(config["planner"], options.checkpoint, config["env"]["name"])
    strategy = make_strategy(settings, options.seed)
    with contextlib.ExitStack() as opened:
        env, spec = open_env(config["env"])
        opened.callback(env.close)
        checkpoint = choose_checkpoint(options.checkpoint, spec.env)
        model = read_model(checkpoint, device, options.precision, options.compile, spec)
        strategy = with_proposals(strategy, model)
        monitor = Monitor(model, {}, options.window, "go_on")
        with counting("draw pairs", "pairs") as progress:
            manifest = load_or_draw(env, spec.simulator, spec.options, pairs_config, progress)
        envs = [env, *open_more(config["env"], min(options.batch, pairs_config.n) - 1, opened)]
        out = output_file(options.out or RUNS / spec.env / FILE)
        start = read_start(options.command, spec.action)
        policy = WorldModelPolicy(model, strategy, device, start=start, watcher=monitor)
        strategy.warn()
        judged = {**settings, **strategy.proposed}
        key = _key(options, manifest, checkpoint, judged, device)
        console.print(
            f"{spec.env}: {pairs_config.n} runs of {escape(checkpoint.title)}, at most {options.budget} steps"
        )
        with RunProgress(f"{spec.env}: monitored runs", pairs_config.n) as progress:
            log = RunLog(RUNS / spec.env / "monitor" / f"{key}.jsonl")
            runs = watch_all(envs, manifest.pairs, policy, options.budget, log, progress.update, Until.BUDGET)
        sound = [run for run in runs if not run.diverged]
        approaches = [Approach(run.distance, run.success) for run in sound]
        arrival = Arrival.of(approaches, model.reached_distance)
        found = Calibration.of(
            [run.peaks for run in sound if run.reached],
            options.alpha,
            checkpoint=checkpoint.sha256,
            planner=hash_of(judged),
            budget=options.budget,
            window=options.window,
            reached_distance=None if arrival is None else arrival.distance,
        )
        found.write(out)
        _report(found, len(runs), out)
        _report_arrival(arrival, model.reached_distance, Reports.of(approaches, model.reached_distance))
    console.print(next_command("planning.run", f"monitor={out}", checkpoint="checkpoint"))


def _key(
    options: CalibrateConfig, manifest: Manifest, checkpoint: Checkpoint, planner: Config, device: torch.device
) -> str:
    """Hash of everything that decides the scores. A logged episode with the same hash need not run again."""
    decisive = {
        "scores": _SCORES_VERSION,
        "manifest": manifest.sha256,
        "checkpoint": checkpoint.sha256,
        "planner": planner,
        **{name: getattr(options, name) for name in ("window", "budget", "seed", "precision", "command")},
        "device": device.type,
        "compile": pick_compile(options.compile, device),
    }
    return hashlib.sha256(json.dumps(decisive, sort_keys=True).encode()).hexdigest()[:12]


def _require_enough(alpha: float, runs: int) -> None:
    needed = least_runs(alpha)
    if runs < needed:
        raise UserError(f"manifest.n={runs}: alpha={alpha:g} needs at least {needed} successful runs")


def _report(found: Calibration, runs: int, out: Path) -> None:
    console.print(f"{found.runs} of {runs} runs reached their goal, and are calibrated on")
    for check, most in found.thresholds.items():
        console.print(f"{check}: at most {most:.3g}", highlight=False)
    console.print(f"at most {found.alpha:.1%} of further runs like these raise an alarm; thresholds: {out}")


def _report_arrival(arrival: Arrival | None, own: float, by_own: Reports) -> None:
    """What counts as reached, beside what the model's own distance would say."""
    rows = [(f"the model's own distance of {own:.3g}", by_own)]
    if arrival is None:
        console.print(
            f"[yellow]note[/]: these runs cannot show of any distance that at most {WRONG:.0%} of the reports are "
            "wrong; more may (manifest.n)"
        )
    else:
        rows.append((f"the calibrated distance of {arrival.distance:.3g}", arrival.reports))
    for name, found in rows:
        console.print(
            f"reached by {name}: right in {found.right} of {found.said} runs in which it is said", highlight=False
        )


main = command("calibrate")(calibrate)

if __name__ == "__main__":
    main()

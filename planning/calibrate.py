"""Thresholds of the monitor, from the scores of successful runs.

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

from planning.calibration import FILE, Calibration, hash_of, least_runs
from planning.display import RunProgress
from planning.evaluate import MOST_ENVS
from planning.evaluation.manifest import MOST_BUDGET, Manifest, ManifestConfig, load_or_draw
from planning.evaluation.policies import WorldModelPolicy
from planning.evaluation.watched import RunLog, WatchedRun, watch_all
from planning.inputs import read_start
from planning.loading import RUNS, Checkpoint, choose_checkpoint, chosen_planner, read_model, with_proposals
from planning.monitor import MOST_WINDOW, Monitor
from planning.registry import make_strategy
from planning.simulation import open_env, open_more
from worldmodel.cli.command import Config, command, next_command, plain_options
from worldmodel.cli.console import console, escape
from worldmodel.core.device import pick_compile, pick_device
from worldmodel.core.errors import UserError
from worldmodel.core.files import output_file
from worldmodel.core.options import from_config

# Increased when the same options give other scores. Logged episodes of older versions are then not used any more.
_SCORES_VERSION: Final = 1


@dataclasses.dataclass(frozen=True)
class CalibrateConfig:
    """The options in `configs/calibrate.yaml` beside its groups. The file explains each."""

    checkpoint: str | None
    command: tuple[float, ...] | None
    alpha: float
    window: int
    budget: int
    batch: int
    seed: int
    device: str
    precision: str
    compile: str | bool
    out: str | None

    def __post_init__(self) -> None:
        if not 0.001 <= self.alpha <= 0.5:
            raise ValueError(f"alpha={self.alpha}: 0.001 to 0.5 are accepted")
        if not 1 <= self.window <= MOST_WINDOW or not 1 <= self.budget <= MOST_BUDGET or self.seed < 0:
            raise ValueError(
                f"window={self.window} budget={self.budget} seed={self.seed}: 1 to {MOST_WINDOW}, 1 to {MOST_BUDGET:,} "
                "and numbers from 0 up are accepted"
            )
        if not 1 <= self.batch <= MOST_ENVS:
            raise ValueError(f"batch={self.batch}: 1 to {MOST_ENVS} environments are accepted")


def calibrate(config: Config) -> None:
    """Run `python -m planning.calibrate`. Raises UserError for input that cannot be used."""
    options = from_config(CalibrateConfig, plain_options(config), "calibrate")
    pairs_config = from_config(ManifestConfig, config["manifest"], "manifest")
    _require_enough(options.alpha, pairs_config.n)
    device = pick_device(options.device)
    settings = chosen_planner(config["planner"], options.checkpoint, config["env"]["name"])
    strategy = make_strategy(settings, options.seed)
    with contextlib.ExitStack() as opened:
        env, spec = open_env(config["env"])
        opened.callback(env.close)
        checkpoint = choose_checkpoint(options.checkpoint, spec.env)
        model = read_model(checkpoint, device, options.precision, options.compile, spec)
        strategy = with_proposals(strategy, model)
        monitor = Monitor(model, {}, options.window, "go_on")
        manifest = load_or_draw(env, spec.simulator, spec.options, pairs_config)
        envs = [env, *open_more(config["env"], min(options.batch, pairs_config.n) - 1, opened)]
        out = output_file(options.out or RUNS / spec.env / FILE)
        start = read_start(options.command, spec.action)
        policy = WorldModelPolicy(model, strategy, device, start=start, watcher=monitor)
        key = _key(options, manifest, checkpoint, settings, device)
        console.print(
            f"{spec.env}: {pairs_config.n} runs of {escape(checkpoint.title)}, at most {options.budget} steps"
        )
        with RunProgress(f"{spec.env}: monitored runs", pairs_config.n) as progress:
            log = RunLog(RUNS / spec.env / "monitor" / f"{key}.jsonl")
            runs = watch_all(envs, manifest.pairs, policy, options.budget, log, progress.update)
        found = Calibration.of(
            [run.peaks for run in runs if run.reached and not run.diverged],
            options.alpha,
            checkpoint=checkpoint.sha256,
            planner=hash_of(settings),
            budget=options.budget,
            window=options.window,
        )
        found.write(out)
        _report(found, runs, out)
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


def _report(found: Calibration, runs: list[WatchedRun], out: Path) -> None:
    console.print(f"{found.runs} of {len(runs)} runs reached their goal, and are calibrated on")
    for check, most in found.thresholds.items():
        console.print(f"{check}: at most {most:.3g}", highlight=False)
    console.print(f"at most {found.alpha:.1%} of further runs like these raise an alarm; thresholds: {out}")


main = command("calibrate")(calibrate)

if __name__ == "__main__":
    main()

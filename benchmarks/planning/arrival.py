"""How often the goal is truly reached when the model says so.

python -m benchmarks.planning.arrival env=reacher checkpoint=reacher n=120
python -m benchmarks.planning.arrival env=reacher checkpoint=reacher n=120 shift=all      # seen by another camera

Toward a photo a run ends when the model says "reached" for the first time (`planning.arrival`). That is right if the
task's success rule holds in that step. Runs go on until both have been seen, or to the end of the budget.

Options: `n` runs, `shift` (a name of `planning.evaluation.shifts`, at the middle strength, for the goal image and the
camera), and those of planning.calibrate that say how the runs are made. Pairs come from seed 905. Intervals are
Wilson's, at 95 %.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import sys
from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import torch

from benchmarks.options import read_own
from planning.arrival import Approach, Reports
from planning.calibration import hash_of
from planning.environment import Environment
from planning.evaluation.manifest import draw
from planning.evaluation.policies import WorldModelPolicy
from planning.evaluation.shifted import BOTH, ShiftedEnv
from planning.evaluation.shifts import STRENGTHS, chosen
from planning.evaluation.watched import RunLog, Until, WatchedRun, watch_all
from planning.loading import RUNS, choose_checkpoint, read_model, with_proposals
from planning.registry import make_strategy
from planning.simulation import open_env
from worldmodel.cli.command import as_plain, composed, ending_in_one_line
from worldmodel.cli.console import console
from worldmodel.core.device import pick_device, pick_precision
from worldmodel.core.errors import UserError
from worldmodel.core.statistics import wilson_interval

SEED: Final = 905
# Of the model's own distance. Smaller ones cannot be tried, since a run ends when the own one is reached.
_TRIED: Final = (1.0, 1.5, 2.0, 4.0)


@dataclasses.dataclass(frozen=True)
class Options:
    """As typed; the module says what each means."""

    n: int = 120
    shift: str | None = None

    def __post_init__(self) -> None:
        if self.n < 1:
            raise UserError(f"n={self.n}: expected a number from 1 up")


def measure(own: Options, config: dict[str, Any]) -> None:
    """Run everything that is not logged, and print the counts."""
    device, settings = pick_device(config["device"]), config["planner"]
    config["precision"] = pick_precision(config["precision"], device)
    env, spec = open_env(config["env"])
    with contextlib.closing(env):
        checkpoint = choose_checkpoint(config["checkpoint"], spec.env)
        model = read_model(checkpoint, device, config["precision"], config["compile"], spec)
        pairs = draw(env, spec.simulator, spec.options, SEED, own.n).pairs
        seen: Environment = env
        if own.shift is not None:
            try:
                (shift,) = chosen([own.shift])
            except ValueError as error:
                raise UserError(str(error)) from None
            seen = ShiftedEnv(env, shift, STRENGTHS["middle"], BOTH, pairs)
        strategy = with_proposals(make_strategy(settings, config["seed"]), model)
        policy = WorldModelPolicy(model, strategy, device)
        planner = hash_of({**settings, **strategy.proposed})
        decisive = [checkpoint.sha256, planner, config["budget"], config["precision"], own.shift]
        key = hashlib.sha256(json.dumps(decisive).encode()).hexdigest()[:12]
        log = RunLog(RUNS / spec.env / "arrival" / f"{key}.jsonl")
        # One at a time: in a batch, all would go on until the last one has arrived.
        runs = watch_all([seen], pairs, policy, config["budget"], log, lambda runs: _say(runs, own.n), Until.BOTH)
    _report(f"{spec.env}, {'no shift' if own.shift is None else own.shift}", runs, model.reached_distance)


def _report(title: str, runs: Sequence[WatchedRun], distance: float) -> None:
    approaches = [Approach(run.distance, run.success) for run in runs if not run.diverged]
    console.print(f"{title}: {sum(run.reached for run in runs)} of {len(runs)} runs reached their goal")
    for most in np.array(_TRIED) * distance:
        found = Reports.of(approaches, most)
        low, high = wilson_interval(found.right, found.said)
        own = ", the model's own" if most == distance else ""
        console.print(
            f"distance {most:.3g}{own}: right in {found.right} of {found.said} runs in which it is said, "
            f"{found.right / max(found.said, 1):.1%} ({low:.1%} to {high:.1%}); never said in "
            f"{len(approaches) - found.said}",
            highlight=False,
        )


def _say(runs: Sequence[WatchedRun], total: int) -> None:
    if len(runs) % 20 == 0:
        console.print(f"{len(runs)} of {total} runs, {sum(run.reached for run in runs)} reached", style="dim")


def read(arguments: Sequence[str]) -> tuple[Options, dict[str, Any]]:
    """Own options, and the configuration of planning.calibrate. Raises UserError for what cannot be used."""
    own, others = read_own(Options, arguments)
    return own, as_plain(composed("calibrate", others))


if __name__ == "__main__":
    torch.set_num_threads(1)
    with ending_in_one_line("what was finished is kept; the same command goes on from there"):
        measure(*read(sys.argv[1:]))

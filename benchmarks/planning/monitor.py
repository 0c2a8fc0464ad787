"""How well a monitor tells failing runs of `push` from others: failures that begin at a random step of an episode.

python -m planning.calibrate env=push checkpoint=push                       # → runs/push/monitor.json
python -m benchmarks.planning.monitor env=push checkpoint=push n=40 nominal=500

Options: `n` runs with each failure, `nominal` runs without, the `monitor`'s file, and those of planning.calibrate that
say how the runs are made. Pairs come from seed 903. Every failure begins at a random step of the first half of the run
that reached the goal of the same pair without one; pairs whose goal was not reached are left out. Runs end when the
simulator sees success. The first table asks of every failure whether an alarm follows it. `AUROC, missed` is that of
the runs alone that do not reach their goal: a failure that begins just before success may leave nothing to see.
Detection time is the share of the run until the alarm, `delay` the control steps from the beginning of the failure to
the alarm (median), `before` the number of runs with an alarm before the failure, which is a false one, and `reached`
the runs that reached their goal nevertheless, and those of them with an alarm. Then all runs are judged by their
outcome alone, as in the literature (`benchmarks.planning.detection`). Intervals are Wilson's, at 95 %.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
import sys
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.options import read_own
from benchmarks.planning.detection import Detection, Rates, auroc
from benchmarks.planning.failures import KINDS, FailingEnv
from planning.calibration import FILE, Calibration, hash_of, read_calibration, require_same
from planning.evaluation.log import Resumed
from planning.evaluation.manifest import Pair, draw
from planning.evaluation.policies import WorldModelPolicy
from planning.evaluation.task import from_pair
from planning.evaluation.watched import RunLog, WatchedRun, watch_all, watch_episodes
from planning.loading import RUNS, choose_checkpoint, read_model, with_proposals
from planning.monitor import Monitor
from planning.registry import make_strategy
from planning.simulation import open_env
from worldmodel.cli.command import as_plain, composed, ending_in_one_line
from worldmodel.cli.console import console
from worldmodel.cli.tables import table
from worldmodel.core.device import pick_device, pick_precision
from worldmodel.core.errors import UserError
from worldmodel.core.observation import Observation
from worldmodel.core.statistics import wilson_interval

SEED = 903
_TIMED_STEPS = 50


@dataclasses.dataclass(frozen=True)
class Options:
    """As typed; the module says what each means."""

    n: int = 40
    nominal: int = 500
    monitor: str = str(RUNS / "push" / FILE)


def begins(index: int, kind: str, nominal: WatchedRun) -> int:
    """The control step in which a failure begins, in the first half of the `nominal` run of the same pair."""
    rng = np.random.default_rng([SEED, index, zlib.crc32(kind.encode())])
    return int(rng.integers(1, max(2, nominal.steps // 2 + 1)))


def fail_all(
    kind: str,
    envs: Sequence[FailingEnv],
    pairs: Sequence[tuple[int, Pair]],
    since: Sequence[int],
    policy: WorldModelPolicy,
    budget: int,
    log: RunLog,
) -> list[WatchedRun]:
    """One run with a failure of `kind` for each numbered pair, those of `log` included."""
    known = {index: (pair, begin) for (index, pair), begin in zip(pairs, since, strict=True)}
    resumed = Resumed(log, list(known))
    for batch in resumed.batches(len(envs)):
        for env, index in zip(envs, batch, strict=False):
            env.arrange(kind, known[index][1], seed=index)
        resumed.add(watch_episodes(envs, [(index, known[index][0]) for index in batch], policy, budget))
        console.print(f"{kind}: {len(resumed.records)} of {len(pairs)} runs", style="dim")
    return resumed.records


def measure(own: Options, config: dict[str, Any]) -> None:
    """Run everything that is not logged, and print the tables."""
    device, settings = pick_device(config["device"]), config["planner"]
    config["precision"] = pick_precision(config["precision"], device)
    env, spec = open_env(config["env"])
    checkpoint = choose_checkpoint(config["checkpoint"], spec.env)
    path = Path(own.monitor)
    calibration = read_calibration(path)
    model = read_model(checkpoint, device, config["precision"], config["compile"], spec)
    strategy = with_proposals(make_strategy(settings, config["seed"]), model)
    planner = hash_of({**settings, **strategy.proposed})  # as planning.calibrate has it
    require_same(calibration, path, checkpoint.sha256, planner)
    monitor = Monitor(model, calibration.thresholds, calibration.window, "go_on")
    policy = WorldModelPolicy(model, strategy, device, watcher=monitor)
    batch = max(1, min(config["batch"], own.n))
    envs = [FailingEnv(env), *(FailingEnv(open_env(config["env"])[0]) for _ in range(batch - 1))]
    pairs = draw(env, spec.simulator, spec.options, SEED, max(own.n, own.nominal)).pairs
    decisive = [checkpoint.sha256, planner, calibration.budget, calibration.window, config["precision"]]
    folder = RUNS / spec.env / "monitor" / hashlib.sha256(json.dumps(decisive).encode()).hexdigest()[:12]
    # One at a time: in a batch, all would go on until the last one has reached its goal.
    fresh = watch_all(
        envs[:1], pairs[: own.nominal], policy, calibration.budget, RunLog(folder / "nominal.jsonl"),
        lambda runs: _say(runs, own.nominal),
    )  # fmt: skip
    sound = [run for run in fresh if run.reached and not run.diverged]
    nominal = [Detection.of(run, calibration) for run in sound]
    found = table(
        f"{spec.env}: failures, {own.n} runs each", "", "alarms", "AUROC", "AUROC, missed", "detection time", "delay",
        "before", "reached", "first check",
    )  # fmt: skip
    failing = []
    for kind in KINDS:
        chosen = [(run.index, pairs[run.index]) for run in sound[: own.n]]
        since = [begins(run.index, kind, run) for run in sound[: own.n]]
        runs = fail_all(kind, envs, chosen, since, policy, calibration.budget, RunLog(folder / f"{kind}.jsonl"))
        failing.append([Detection.of(run, calibration, begin) for run, begin in zip(runs, since, strict=True)])
        _add(found, kind, failing[-1], nominal)
    console.print(found)
    _print_overall(failing, nominal, [Detection.of(run, calibration) for run in fresh])
    _print_false_alarms(calibration, nominal)
    _print_plan_time(envs[0], pairs[0], WorldModelPolicy(model, strategy, device), policy)


def _add(found: Any, kind: str, seen: Sequence[Detection], nominal: Sequence[Detection]) -> None:
    """One row."""
    true = [d for d in seen if d.is_true]
    checks = [str(d.check) for d in true]
    reached, missed = ([d for d in seen if d.reached is outcome] for outcome in (True, False))
    scores = [d.score for d in nominal]
    found.add_row(
        kind,
        share(len(true), len(seen)),
        f"{auroc([d.score for d in seen], scores):.3f}",
        f"{auroc([d.score for d in missed], scores):.3f}" if missed else "",
        f"{np.mean([d.time for d in true]):.2f}" if true else "",
        f"{np.median([d.delay or 0 for d in true]):g}" if true else "",
        str(sum(d.step is not None and not d.is_true for d in seen)),
        f"{len(reached)}, {sum(d.step is not None for d in reached)}",
        ", ".join(f"{name} {checks.count(name)}" for name in sorted(set(checks), key=checks.count, reverse=True)),
    )


def share(count: int, n: int) -> str:
    """`count` of `n` in percent, with its interval."""
    low, high = wilson_interval(count, n)
    return f"{count / max(n, 1):.1%} ({low:.1%} to {high:.1%})"


def _print_overall(
    failing: Sequence[Sequence[Detection]], nominal: Sequence[Detection], fresh: Sequence[Detection]
) -> None:
    """Means over the failures, then all runs by their outcome."""
    curves = [auroc([d.score for d in seen], [d.score for d in nominal]) for seen in failing]
    rates = [float(np.mean([d.is_true for d in seen])) for seen in failing]
    times = [float(np.mean([d.time for d in seen if d.is_true])) for seen in failing if any(d.is_true for d in seen)]
    false = float(np.mean([d.step is not None for d in nominal]))
    console.print(
        f"mean over the failures: alarms {np.mean(rates):.2f}, AUROC {np.mean(curves):.3f} (lowest {min(curves):.3f}), "
        f"detection time {np.mean(times):.2f} (latest {max(times):.2f}); balanced accuracy "
        f"{(np.mean(rates) + 1 - false) / 2:.2f}"
    )
    every = [*fresh, *(d for seen in failing for d in seen)]
    by_outcome = auroc([d.score for d in every if not d.reached], [d.score for d in every if d.reached])
    console.print(f"by outcome, all runs: {Rates.of(every)}, AUROC {by_outcome:.3f}")


def _print_false_alarms(calibration: Calibration, nominal: Sequence[Detection]) -> None:
    false = [d for d in nominal if d.step is not None]
    console.print(
        f"false alarms: {len(false)} of {len(nominal)} fresh nominal runs that reached their goal, "
        f"{share(len(false), len(nominal))}, of {calibration.alpha:.1%} allowed; calibrated on {calibration.runs} runs"
    )
    for check, most in calibration.thresholds.items():
        console.print(f"threshold of {check}: {most:.3g}, false alarms {sum(d.check == check for d in false)}")


def _print_plan_time(env: Any, pair: Pair, alone: WorldModelPolicy, watched: WorldModelPolicy) -> None:
    """Of the same observations, in turn; the first ones warm up."""
    env.arrange(None, 0, 0)
    task, taken = from_pair(env, pair), dict[WorldModelPolicy, list[float]]()
    seen, _ = env.reset(options={"state": task.start_state})
    for policy in (alone, watched):
        policy.reset([task])
    for _ in range(_TIMED_STEPS):
        for policy in (alone, watched):
            decision = policy.act(Observation.stack([Observation.of(seen)]))
            taken.setdefault(policy, []).append(decision.plan_ms)
        seen, *_ = env.step(decision.actions[0])
    before, after = (float(np.median(taken[policy][_TIMED_STEPS // 5 :])) for policy in (alone, watched))
    console.print(
        f"a plan takes {before:.1f} ms alone and {after:.1f} ms watched (medians): {after / before:.3f} times"
    )


def _say(runs: Sequence[WatchedRun], total: int) -> None:
    if len(runs) % 20 == 0:
        console.print(f"nominal: {len(runs)} of {total}, {sum(run.reached for run in runs)} reached", style="dim")


def read(arguments: Sequence[str]) -> tuple[Options, dict[str, Any]]:
    """Own options, and the configuration of planning.calibrate. Raises UserError for what cannot be used."""
    own, others = read_own(Options, arguments)
    if min(own.n, own.nominal) < 1:
        raise UserError(f"n={own.n} nominal={own.nominal}: expected numbers from 1 up")
    return own, as_plain(composed("calibrate", others))


if __name__ == "__main__":
    torch.set_num_threads(1)
    logging.getLogger("planning.monitor").setLevel(logging.ERROR)  # hundreds of alarms are expected
    with ending_in_one_line("what was finished is kept; the same command goes on from there"):
        measure(*read(sys.argv[1:]))

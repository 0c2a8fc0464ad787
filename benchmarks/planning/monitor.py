"""How well a monitor tells failing runs of `push` from others: failures that begin at a random step of an episode.

python -m planning.calibrate env=push checkpoint=push                       # → runs/push/monitor.json
python -m benchmarks.planning.monitor env=push checkpoint=push n=40 nominal=200

Options: `n` runs with each failure, `nominal` runs without, the `monitor`'s file, and those of planning.calibrate that
say how the runs are made. Pairs come from seed 903. Every failure begins at a random step of the first half of the run
that reached the goal of the same pair without one; pairs whose goal was not reached are left out. Runs end when the
simulator sees success. Detection time is the share of the run until the alarm, as in FIPER (arXiv 2510.09459), `delay`
the control steps from the beginning of the failure to the alarm (median), `before` the number of runs with an alarm
before the failure, which is a false one, and `reached` the runs that reached their goal nevertheless. Intervals are
Wilson's, at 95 %.
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

from benchmarks.planning.failures import KINDS, FailingEnv
from planning.alarms import Check
from planning.calibration import FILE, Calibration, hash_of, read_calibration, require_same
from planning.evaluation.manifest import Pair, draw
from planning.evaluation.policies import WorldModelPolicy
from planning.evaluation.statistics import wilson_interval
from planning.evaluation.task import from_pair
from planning.evaluation.watched import RunLog, WatchedRun, watch_all, watch_episodes
from planning.loading import RUNS, choose_checkpoint, read_model
from planning.monitor import Monitor
from planning.registry import make_strategy
from planning.simulation import open_env
from worldmodel.cli.command import as_plain, composed, ending_in_one_line
from worldmodel.cli.console import console
from worldmodel.cli.tables import table
from worldmodel.core.device import pick_device
from worldmodel.core.errors import UserError
from worldmodel.core.observation import Observation

SEED = 903
_TIMED_STEPS = 50


@dataclasses.dataclass(frozen=True)
class Options:
    """As typed; the module says what each means."""

    n: int = 20
    nominal: int = 100
    monitor: str = str(RUNS / "push" / FILE)


@dataclasses.dataclass(frozen=True)
class Detection:
    """When a run raised an alarm.

    Attributes:
        score: the highest normalised score from the beginning of the failure on; without a failure, of the run.
        step: control step of the first alarm, None without one.
        check: the check that failed.
        steps: control steps of the run.
    """

    score: float
    step: int | None
    check: Check | None
    steps: int

    @classmethod
    def of(cls, run: WatchedRun, calibration: Calibration, since: int = 0) -> Detection:
        """In a run with a failure that begins at step `since`."""
        each = [{Check(name): values[t] for name, values in run.scores.items()} for t in range(run.steps)]
        normalised = [calibration.normalised(scores) for scores in each]
        step = next((t for t, score in enumerate(normalised) if score > calibration.limit), None)
        check = None
        if step is not None:
            most = calibration.thresholds
            check = max(most, key=lambda name: each[step][name] - most[name] if each[step][name] > most[name] else -1)
        return cls(max(normalised[since:], default=-np.inf), step, check, run.steps)


def auroc(failing: Sequence[float], nominal: Sequence[float]) -> float:
    """The probability that the score of a failing run is above that of a nominal one."""
    a, b = np.array(failing)[:, None], np.array(nominal)
    return float((a > b).mean() + 0.5 * (a == b).mean())


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
    done = log.read()
    waiting = [place for place, (index, _) in enumerate(pairs) if index not in done]
    for begin in range(0, len(waiting), len(envs)):
        places = waiting[begin : begin + len(envs)]
        for env, place in zip(envs, places, strict=False):
            env.arrange(kind, since[place], seed=pairs[place][0])
        runs = watch_episodes(envs, [pairs[place] for place in places], policy, budget)
        log.append(runs)
        done.update((run.index, run) for run in runs)
        console.print(f"{kind}: {sum(index in done for index, _ in pairs)} of {len(pairs)} runs", style="dim")
    return [done[index] for index, _ in pairs]


def measure(own: Options, config: dict[str, Any]) -> None:
    """Run everything that is not logged, and print the tables."""
    device, settings = pick_device(config["device"]), config["planner"]
    env, spec = open_env(config["env"])
    checkpoint = choose_checkpoint(config["checkpoint"], spec.env)
    path = Path(own.monitor)
    calibration = read_calibration(path)
    require_same(calibration, path, checkpoint.sha256, hash_of(settings))
    model = read_model(checkpoint, device, config["precision"], config["compile"], spec)
    monitor = Monitor(model, calibration.thresholds, calibration.window, "go_on")
    policy = WorldModelPolicy(model, make_strategy(settings, config["seed"]), device, watcher=monitor)
    batch = max(1, min(config["batch"], own.n))
    envs = [FailingEnv(env), *(FailingEnv(open_env(config["env"])[0]) for _ in range(batch - 1))]
    pairs = draw(env, spec.simulator, spec.options, SEED, max(own.n, own.nominal)).pairs
    decisive = [checkpoint.sha256, hash_of(settings), calibration.budget, calibration.window, config["precision"]]
    folder = RUNS / spec.env / "monitor" / hashlib.sha256(json.dumps(decisive).encode()).hexdigest()[:12]
    log = RunLog(folder / "nominal.jsonl")
    fresh = watch_all(envs, pairs[: own.nominal], policy, calibration.budget, log, lambda runs: _say(runs, own.nominal))
    reached = [run for run in fresh if run.reached and not run.diverged]
    nominal = [Detection.of(run, calibration) for run in reached]
    found = table(
        f"{spec.env}: failures, {own.n} runs each", "", "runs", "alarms", "AUROC", "detection time", "delay",
        "before", "reached", "first check",
    )  # fmt: skip
    rates = []
    for kind in KINDS:
        chosen = [(run.index, pairs[run.index]) for run in reached[: own.n]]
        since = [begins(run.index, kind, run) for run in reached[: own.n]]
        runs = fail_all(kind, envs, chosen, since, policy, calibration.budget, RunLog(folder / f"{kind}.jsonl"))
        rates.append(_add(found, kind, runs, since, calibration, nominal))
    console.print(found)
    _print_false_alarms(calibration, nominal, rates)
    _print_plan_time(envs[0], pairs[0], WorldModelPolicy(model, make_strategy(settings, 0), device), policy)


def _add(
    found: Any,
    kind: str,
    runs: Sequence[WatchedRun],
    since: Sequence[int],
    calibration: Calibration,
    nominal: Sequence[Detection],
) -> float:
    """One row. Returns the true positive rate."""
    seen = [Detection.of(run, calibration, begin) for run, begin in zip(runs, since, strict=True)]
    pairs = list(zip(seen, since, strict=True))
    early = sum(d.step is not None and d.step < begin for d, begin in pairs)
    true = [(d, begin) for d, begin in pairs if d.step is not None and d.step >= begin]
    low, high = wilson_interval(len(true), len(runs))
    checks = [str(d.check) for d, _ in true]
    found.add_row(
        kind,
        str(len(runs)),
        f"{len(true) / len(runs):.0%} ({low:.0%} to {high:.0%})",
        f"{auroc([d.score for d in seen], [d.score for d in nominal]):.2f}",
        f"{np.mean([(d.step or 0) / d.steps for d, _ in true]):.2f}" if true else "",
        f"{np.median([(d.step or 0) - begin for d, begin in true]):g}" if true else "",
        str(early),
        str(sum(run.reached for run in runs)),
        ", ".join(f"{name} {checks.count(name)}" for name in sorted(set(checks), key=checks.count, reverse=True)),
    )
    return len(true) / len(runs)


def _print_false_alarms(calibration: Calibration, nominal: Sequence[Detection], rates: Sequence[float]) -> None:
    false = [d for d in nominal if d.step is not None]
    low, high = wilson_interval(len(false), len(nominal))
    console.print(
        f"false alarms: {len(false)} of {len(nominal)} fresh nominal runs that reached their goal, "
        f"{len(false) / len(nominal):.1%} ({low:.1%} to {high:.1%}), of {calibration.alpha:.1%} allowed; calibrated on "
        f"{calibration.runs} runs"
    )
    accuracy = (np.mean(rates) + 1 - len(false) / len(nominal)) / 2
    console.print(f"true positive rate {np.mean(rates):.2f}, balanced accuracy {accuracy:.2f}, over all failures")
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
    console.print(f"nominal: {len(runs)} of {total}, {sum(run.reached for run in runs)} reached", style="dim")


def read(arguments: Sequence[str]) -> tuple[Options, dict[str, Any]]:
    """Own options, and the configuration of planning.calibrate. Raises UserError for what cannot be used."""
    values, others = {}, []
    kinds: dict[str, type] = {"n": int, "nominal": int, "monitor": str}
    for argument in arguments:
        name, _, value = argument.partition("=")
        if name not in kinds:
            others.append(argument)
            continue
        try:
            values[name] = kinds[name](value)
        except ValueError:
            raise UserError(f"option {argument}: expected a number") from None
    options = Options(**values)
    if min(options.n, options.nominal) < 1:
        raise UserError(f"n={options.n} nominal={options.nominal}: expected numbers from 1 up")
    return options, as_plain(composed("calibrate", others))


if __name__ == "__main__":
    torch.set_num_threads(1)
    logging.getLogger("planning.monitor").setLevel(logging.ERROR)  # hundreds of alarms are expected
    with ending_in_one_line("what was finished is kept; the same command goes on from there"):
        measure(*read(sys.argv[1:]))

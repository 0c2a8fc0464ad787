"""Far goals: planning by sub-goals against planning straight to the goal, on the same pairs and with the same search.

python -m worldmodel.landmarks env=push_wall                      # → runs/push_wall/landmarks
python -m benchmarks.planning.far_goals env=push_wall n=100

Options: `n` pairs, `seed` of their draw, `budget` of control steps, `long` horizon [control steps], `arms` to run, and
those of planning.evaluate. An episode ends when the simulator sees success. The arms are `flat`, `flat_long` (the long
horizon, with fewer samples, so that as many control steps are imagined), `hierarchy` (the planner of `flat` heads for
sub-goals), `random` (random actions) and `oracle` (the planner of `flat` with the simulator as its model). The column
`imagined` is the number of control steps that a search imagines for one plan. Choosing sub-goals imagines none.
Intervals are Wilson's, at 95 %. `p` is McNemar's, against `flat`.
"""

from __future__ import annotations

import copy
import dataclasses
import hashlib
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.options import read_own
from planning.decision import Decision
from planning.environment import Floats
from planning.evaluation.log import JsonLog
from planning.evaluation.manifest import Pair, draw
from planning.evaluation.oracle import ORACLE_VERSION, Oracle
from planning.evaluation.policies import UniformRandom, WorldModelPolicy
from planning.evaluation.rollout import Policy, rollout
from planning.evaluation.statistics import mcnemar_p
from planning.evaluation.task import from_pair
from planning.hierarchy import HierarchyConfig
from planning.loading import RUNS, choose_checkpoint, content_hash, read_hierarchy, read_model, with_proposals
from planning.registry import make_strategy
from planning.simulation import open_env
from worldmodel.cli.command import as_plain, composed, ending_in_one_line
from worldmodel.cli.console import console
from worldmodel.cli.tables import table
from worldmodel.core.device import pick_device, pick_precision
from worldmodel.core.errors import UserError, choices_message
from worldmodel.core.options import from_config
from worldmodel.core.statistics import wilson_interval

FLAT, FLAT_LONG, HIERARCHY, RANDOM, ORACLE = "flat", "flat_long", "hierarchy", "random", "oracle"
ARMS = (FLAT, FLAT_LONG, HIERARCHY, RANDOM, ORACLE)


@dataclasses.dataclass(frozen=True)
class Options:
    """As typed; the module says what each means."""

    n: int = 100
    seed: int = 7001
    budget: int = 120
    long: int = 36
    arms: tuple[str, ...] = ARMS[:4]

    def __post_init__(self) -> None:
        if min(self.n, self.budget, self.long) < 1:
            raise UserError(f"n={self.n} budget={self.budget} long={self.long}: at least 1 is accepted")
        for arm in self.arms:
            if arm not in ARMS:
                raise UserError(choices_message("arm", arm, ARMS))


@dataclasses.dataclass(frozen=True)
class Attempt:
    """One episode.

    Attributes:
        index: number of the pair.
        reached_at: control steps until the simulator saw success, None if it never did.
        errors: errors at the end by metric, in its unit.
        reasons: how often a sub-goal was chosen, by the reason.
    """

    index: int
    reached_at: int | None
    errors: dict[str, float]
    reasons: dict[str, int]


class AttemptLog(JsonLog[Attempt]):
    """Log of finished episodes."""

    record = Attempt


def attempt(env: Any, index: int, pair: Pair, policy: Policy, budget: int) -> Attempt:
    """One episode of `policy`, until success or the end of `budget`."""
    goal, reached, reasons = np.array(pair.goal), [], dict[str, int]()
    chosen: list[Any] = [None]

    def look(step: int, decision: Decision, states: Sequence[Floats]) -> bool:
        for heading in decision.headings:
            if heading is not None and heading is not chosen[0]:
                chosen[0] = heading
                reasons[heading.reason] = reasons.get(heading.reason, 0) + 1
        if env.is_success(states[0], goal):
            reached.append(step)
        return bool(reached)

    (happened,) = rollout([env], [from_pair(env, pair)], policy, budget, look, look_at_end=True)
    errors = {name: float(values) for name, values in env.goal_errors(happened.states[-1], goal).items()}
    return Attempt(index, reached[0] if reached else None, errors, reasons)


def attempt_all(env: Any, pairs: Sequence[Pair], policy: Policy, budget: int, log: AttemptLog) -> list[Attempt]:
    """The episodes of all pairs, those of `log` included."""
    done = {index: one for index, one in log.read().items() if index < len(pairs)}
    for index, pair in enumerate(pairs):
        if index not in done:
            done[index] = attempt(env, index, pair, policy, budget)
            log.append([done[index]])
            reached = sum(one.reached_at is not None for one in done.values())
            console.print(f"{log.path.stem}: {reached} of {len(done)} reached", style="dim")
    return [done[index] for index in range(len(pairs))]


def with_long_horizon(planner: dict[str, Any], horizon: int) -> dict[str, Any]:
    """The planner with another horizon that imagines as many control steps."""
    longer = copy.deepcopy(planner)
    options = longer["options"]
    samples = max(1, options["samples"] * planner["horizon"] // horizon)
    options["elites"] = max(1, options["elites"] * samples // options["samples"])
    longer["horizon"], options["samples"] = horizon, samples
    return longer


def measure(own: Options, config: dict[str, Any]) -> None:
    """Run everything that is not logged, and print the table."""
    device, flat = pick_device(config["device"]), config["planner"]
    config["precision"] = pick_precision(config["precision"], device)
    env, spec = open_env(config["env"])
    checkpoint = choose_checkpoint(config["checkpoint"], spec.env)
    model = read_model(checkpoint, device, config["precision"], config["compile"], spec)
    sub_goals = from_config(HierarchyConfig, config["sub_goals"], "sub_goals")
    folder = config["hierarchy"] or str(RUNS / spec.env / "landmarks")
    hierarchy = read_hierarchy(folder, sub_goals, model) if HIERARCHY in own.arms else None
    manifest = draw(env, spec.simulator, spec.options, own.seed, own.n)
    judged = [[metric.name, metric.tolerance] for metric in env.metrics]
    planners = {FLAT: flat, FLAT_LONG: with_long_horizon(flat, own.long), HIERARCHY: flat, ORACLE: flat}
    found, imagined = dict[str, list[Attempt]](), dict[str, int]()
    for arm in own.arms:
        strategy = make_strategy(planners.get(arm, flat), config["seed"])
        if arm not in (RANDOM, ORACLE):
            strategy = with_proposals(strategy, model)
        imagined[arm] = strategy.optimiser.evaluations * strategy.controller.horizon if arm in planners else 0
        if arm == RANDOM:
            policy: Policy = UniformRandom(spec, config["seed"])
        elif arm == ORACLE:
            policy = Oracle([env], spec, strategy)
        else:
            policy = WorldModelPolicy(model, strategy, device, hierarchy=hierarchy if arm == HIERARCHY else None)
        decisive: list[Any] = [manifest.sha256, judged, own.budget, config["seed"], arm]
        if arm != RANDOM:
            decisive += [planners[arm], checkpoint.sha256, config["precision"], *strategy.proposed.values()]
        if arm == ORACLE:
            decisive.append(ORACLE_VERSION)
        if arm == HIERARCHY:
            decisive += [content_hash(Path(folder)), dataclasses.asdict(sub_goals)]
        key = hashlib.sha256(json.dumps(decisive, sort_keys=True).encode()).hexdigest()[:12]
        log = AttemptLog(RUNS / spec.env / "far_goals" / f"{arm}-{key}.jsonl")
        found[arm] = attempt_all(env, manifest.pairs, policy, own.budget, log)
    env.close()
    _print(spec.env, own, env.metrics, found, imagined)


def _print(
    name: str, own: Options, metrics: Sequence[Any], found: dict[str, list[Attempt]], imagined: dict[str, int]
) -> None:
    made = table(
        f"{name}: {own.n} pairs of seed {own.seed}, at most {own.budget} control steps", "arm", "reached",
        "control steps", "error at the end", "imagined", "difference", "p", "sub-goals",
    )  # fmt: skip
    reference = [one.reached_at is not None for one in found.get(FLAT, [])]
    for arm, runs in found.items():
        reached = [one.reached_at is not None for one in runs]
        low, high = wilson_interval(sum(reached), len(runs))
        steps = [one.reached_at for one in runs if one.reached_at is not None]
        errors = [f"{np.median([one.errors[m.name] for one in runs]):.2g} {m.unit}" for m in metrics]
        difference = p = ""
        if reference and arm != FLAT:
            a_only = sum(a and not b for a, b in zip(reached, reference, strict=True))
            b_only = sum(b and not a for a, b in zip(reached, reference, strict=True))
            difference = f"{100 * (sum(reached) - sum(reference)) / len(runs):+.0f} ({a_only} against {b_only})"
            p = f"{mcnemar_p(a_only, b_only):.2g}"
        reasons = {reason: sum(one.reasons.get(reason, 0) for one in runs) for one in runs for reason in one.reasons}
        made.add_row(
            arm,
            f"{sum(reached)} of {len(runs)} ({low:.0%} to {high:.0%})",
            f"{np.median(steps):.0f}" if steps else "",
            ", ".join(errors),
            f"{imagined[arm]:,}" if imagined[arm] else "",
            difference,
            p,
            ", ".join(f"{count / len(runs):.1f} {reason}" for reason, count in reasons.items()),
        )
    console.print(made)


def read(arguments: Sequence[str]) -> tuple[Options, dict[str, Any]]:
    """Own options, and the configuration of planning.evaluate. Raises UserError for what cannot be used."""
    own, others = read_own(Options, arguments)
    return own, as_plain(composed("evaluate", others))


if __name__ == "__main__":
    torch.set_num_threads(1)
    with ending_in_one_line("what was finished is kept; the same command goes on from there"):
        measure(*read(sys.argv[1:]))

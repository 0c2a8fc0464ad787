"""Runs, evaluates and logs episodes toward the goals of a manifest, several at a time."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np

from planning.decision import Decision
from planning.environment import Environment, Floats
from planning.evaluation.log import JsonLog, Resumed
from planning.evaluation.manifest import Pair
from planning.evaluation.rollout import Policy, Trajectory, rollout
from planning.evaluation.task import from_pair


@dataclasses.dataclass(frozen=True)
class Episode:
    """The outcome of one pair.

    Attributes:
        index: position in the manifest.
        success_any: whether the goal was reached after any step.
        success_final: whether the goal was reached after the last step.
        half_any: like `success_any`, with half of every tolerance.
        half_final: like `success_final`, with half of every tolerance.
        reached_at: control steps until the goal was first reached, None if it never was.
        final_errors: errors at the end by metric, in its unit. None if the simulation diverged.
        diverged: whether the simulation diverged, which counts as failure at the end.
        states: simulator states from start to end, `[T+1][N]`.
        steps_without_plan: control steps without a usable plan. It is 0 in old logs, which do not have it.
    """

    index: int
    success_any: bool
    success_final: bool
    half_any: bool
    half_final: bool
    reached_at: int | None
    final_errors: dict[str, float] | None
    diverged: bool
    states: list[list[float]]
    steps_without_plan: int = 0


def judge(env: Environment, index: int, goal: Floats, happened: Trajectory) -> Episode:
    """The outcome of pair `index`, whose goal state is `goal [N]`."""
    states = happened.states
    errors = env.goal_errors(states, goal)
    reached = np.asarray(env.is_success(states, goal))
    half = np.asarray(env.is_success(states, goal, scale=0.5))
    return Episode(
        index,
        success_any=bool(reached.any()),
        success_final=bool(reached[-1]) and not happened.diverged,
        half_any=bool(half.any()),
        half_final=bool(half[-1]) and not happened.diverged,
        reached_at=int(reached.argmax()) if reached.any() else None,
        final_errors=None if happened.diverged else {m.name: float(errors[m.name][-1]) for m in env.metrics},
        diverged=happened.diverged,
        states=states.tolist(),
        steps_without_plan=happened.steps_without_plan,
    )


# `on_progress(steps, episodes)`: the number of new control steps, and all finished episodes.
OnProgress = Callable[[int, Sequence[Episode]], None]


class EpisodeLog(JsonLog[Episode]):
    """Log of the outcomes of finished episodes."""

    record = Episode


class _Ticks:
    """Reports every control step of `rows` episodes to `on_progress`. An episode may end before its budget."""

    def __init__(self, on_progress: OnProgress, rows: int, finished: Sequence[Episode]) -> None:
        self._on_progress, self._rows, self._finished = on_progress, rows, finished
        self._told = 0

    def __call__(self, step: int, decision: Decision, states: Sequence[Floats]) -> None:
        self._told += 1
        self._on_progress(self._rows, self._finished)

    def complete(self, budget: int) -> None:
        self._on_progress(self._rows * (budget - self._told), self._finished)


def run_all(
    envs: Sequence[Environment],
    pairs: Sequence[Pair],
    policy: Policy,
    budget: int,
    log: EpisodeLog,
    on_progress: OnProgress = lambda steps, episodes: None,
    indices: Sequence[int] | None = None,
) -> list[Episode]:
    """The episodes of all pairs, or of those at `indices`.

    Episodes in `log` are taken from it, and the others run, `len(envs)` at a time.

    The other episodes of a batch make no difference to an episode (`planning.controller`), so an interrupted log may
    be resumed with another batch size.
    """
    resumed = Resumed(log, range(len(pairs)) if indices is None else indices)
    on_progress(len(resumed.records) * budget, resumed.records)
    for batch in resumed.batches(len(envs)):
        tasks = [from_pair(env, pairs[index]) for env, index in zip(envs, batch, strict=False)]
        ticks = _Ticks(on_progress, len(batch), resumed.records)
        trajectories = rollout(envs, tasks, policy, budget, ticks)
        ticks.complete(budget)
        resumed.add(
            [
                judge(env, index, np.array(pairs[index].goal), happened)
                for env, index, happened in zip(envs, batch, trajectories, strict=False)
            ]
        )
    on_progress(0, resumed.records)
    return resumed.records

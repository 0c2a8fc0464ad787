"""Episodes with the monitor's scores, which end when the simulator sees success, as `planning.run` does.

Shapes: `T` control steps, `N` simulator state.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np

from planning.alarms import Check
from planning.decision import Decision
from planning.environment import Environment, Floats
from planning.evaluation.log import JsonLog
from planning.evaluation.manifest import Pair
from planning.evaluation.rollout import Policy, rollout
from planning.evaluation.task import from_pair


@dataclasses.dataclass(frozen=True)
class WatchedRun:
    """One episode.

    Attributes:
        index: position in the manifest.
        reached: whether the simulator saw success. The episode ends there.
        diverged: whether the simulation diverged.
        scores: by check, its score at every control step `[T]`.
    """

    index: int
    reached: bool
    diverged: bool
    scores: dict[str, list[float]]

    @property
    def steps(self) -> int:
        """Control steps with scores, T."""
        return max((len(values) for values in self.scores.values()), default=0)

    @property
    def peaks(self) -> dict[Check, float]:
        """The largest value of every score."""
        return {Check(name): max(values, default=0.0) for name, values in self.scores.items()}


class RunLog(JsonLog[WatchedRun]):
    """Log of the scores of finished episodes."""

    record = WatchedRun


def watch_episodes(
    envs: Sequence[Environment], pairs: Sequence[tuple[int, Pair]], policy: Policy, budget: int
) -> list[WatchedRun]:
    """One episode per numbered pair, in `envs[:B]`. The policy needs a monitor, whose scores are kept."""
    tasks = [from_pair(env, pair) for env, (_, pair) in zip(envs, pairs, strict=False)]
    scores: list[dict[str, list[float]]] = [{} for _ in pairs]
    reached = [False] * len(pairs)

    def look(step: int, decision: Decision, states: Sequence[Floats]) -> bool:
        for row, (env, (_, pair)) in enumerate(zip(envs, pairs, strict=False)):
            if reached[row]:
                continue
            for check, value in decision.scores[row].items():
                scores[row].setdefault(str(check), []).append(float(value))
            reached[row] = bool(env.is_success(states[row], np.array(pair.goal)))
        return all(reached)

    happened = rollout(envs, tasks, policy, budget, look, look_at_end=True)
    return [
        WatchedRun(index, reached[row], happened[row].diverged, scores[row]) for row, (index, _) in enumerate(pairs)
    ]


def watch_all(
    envs: Sequence[Environment],
    pairs: Sequence[Pair],
    policy: Policy,
    budget: int,
    log: RunLog,
    on_progress: Callable[[list[WatchedRun]], None] = lambda runs: None,
) -> list[WatchedRun]:
    """The episodes of all pairs, those of `log` included, `len(envs)` at a time."""
    done = {index: run for index, run in log.read().items() if index < len(pairs)}
    on_progress(list(done.values()))
    waiting = [(index, pair) for index, pair in enumerate(pairs) if index not in done]
    for begin in range(0, len(waiting), len(envs)):
        runs = watch_episodes(envs, waiting[begin : begin + len(envs)], policy, budget)
        log.append(runs)
        done.update((run.index, run) for run in runs)
        on_progress(list(done.values()))
    return [done[index] for index in range(len(pairs))]

"""Episodes with the monitor's scores and the distances to the goal, beside what the simulator sees.

Shapes: `T` control steps until the simulator sees success, `U` control steps until the episode ends, `N` simulator
state.
"""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Callable, Sequence

import numpy as np

from planning.alarms import Check
from planning.decision import Decision
from planning.environment import Environment, Floats
from planning.evaluation.log import JsonLog, Resumed
from planning.evaluation.manifest import Pair
from planning.evaluation.rollout import Policy, rollout
from planning.evaluation.task import from_pair


class Until(enum.Enum):
    """When the episodes of a batch end, at the latest with their budget."""

    SUCCESS = enum.auto()  # when the simulator has seen success in all of them
    BOTH = enum.auto()  # when the model has also said of all of them that the goal is reached
    BUDGET = enum.auto()  # not before


@dataclasses.dataclass(frozen=True)
class WatchedRun:
    """One episode.

    Attributes:
        index: position in the manifest.
        reached: whether the simulator saw success.
        diverged: whether the simulation diverged.
        scores: by check, its score at every control step until there was success `[T]`.
        distance: the model's distance to the goal at every control step `[U]`.
        success: whether the simulator saw success then `[U]`.
    """

    index: int
    reached: bool
    diverged: bool
    scores: dict[str, list[float]]
    distance: list[float] = dataclasses.field(default_factory=list)
    success: list[bool] = dataclasses.field(default_factory=list)

    @property
    def steps(self) -> int:
        """Control steps with scores, T."""
        return max((len(values) for values in self.scores.values()), default=0)

    @property
    def peaks(self) -> dict[Check, float]:
        """The largest value of every score."""
        return {Check(name): max(values, default=0.0) for name, values in self.scores.items()}


class RunLog(JsonLog[WatchedRun]):
    """Log of finished episodes."""

    record = WatchedRun


class _Watch:
    """Looks at every decision in `envs[:B]` on the way to the goals of numbered pairs."""

    def __init__(self, envs: Sequence[Environment], pairs: Sequence[tuple[int, Pair]], until: Until) -> None:
        self._envs, self._pairs, self._until = envs, pairs, until
        self.scores: list[dict[str, list[float]]] = [{} for _ in pairs]
        self.distance: list[list[float]] = [[] for _ in pairs]
        self.success: list[list[bool]] = [[] for _ in pairs]
        self._said = np.zeros(len(pairs), bool)

    def __call__(self, step: int, decision: Decision, states: Sequence[Floats]) -> bool:
        for row, (env, (_, pair)) in enumerate(zip(self._envs, self._pairs, strict=False)):
            if not any(self.success[row]):
                for check, value in decision.scores[row].items() if decision.scores else ():
                    self.scores[row].setdefault(str(check), []).append(float(value))
            self.distance[row].append(float(decision.distance[row]))
            self.success[row].append(bool(env.is_success(states[row], np.array(pair.goal))))
        self._said |= decision.reached
        succeeded = all(map(any, self.success))
        return {
            Until.SUCCESS: succeeded,
            Until.BOTH: succeeded and bool(self._said.all()),
            Until.BUDGET: False,
        }[self._until]


def watch_episodes(
    envs: Sequence[Environment],
    pairs: Sequence[tuple[int, Pair]],
    policy: Policy,
    budget: int,
    until: Until = Until.SUCCESS,
) -> list[WatchedRun]:
    """One episode per numbered pair, in `envs[:B]`. Scores are those of the policy's monitor, if it has one."""
    tasks = [from_pair(env, pair) for env, (_, pair) in zip(envs, pairs, strict=False)]
    seen = _Watch(envs, pairs, until)
    happened = rollout(envs, tasks, policy, budget, seen, look_at_end=True)
    return [
        WatchedRun(
            index, any(seen.success[row]), happened[row].diverged, seen.scores[row], seen.distance[row],
            seen.success[row],
        )
        for row, (index, _) in enumerate(pairs)
    ]  # fmt: skip


def watch_all(
    envs: Sequence[Environment],
    pairs: Sequence[Pair],
    policy: Policy,
    budget: int,
    log: RunLog,
    on_progress: Callable[[list[WatchedRun]], None] = lambda runs: None,
    until: Until = Until.SUCCESS,
) -> list[WatchedRun]:
    """The episodes of all pairs, those of `log` included, `len(envs)` at a time."""
    resumed = Resumed(log, range(len(pairs)))
    on_progress(resumed.records)
    for batch in resumed.batches(len(envs)):
        resumed.add(watch_episodes(envs, [(index, pairs[index]) for index in batch], policy, budget, until))
        on_progress(resumed.records)
    return resumed.records

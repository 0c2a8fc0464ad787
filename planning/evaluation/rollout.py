"""The rollout loop that runs, evaluations and recordings of episodes share."""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from planning.decision import Decision
from planning.environment import Environment, Floats
from planning.evaluation.task import Task
from worldmodel.core.observation import Observation


class Policy(abc.ABC):
    """Chooses actions for B environments at once."""

    @abc.abstractmethod
    def reset(self, tasks: Sequence[Task]) -> None:
        """Begin B episodes."""

    @abc.abstractmethod
    def act(self, observation: Observation) -> Decision:
        """The decision after an observation `[B, ...]`."""


@dataclasses.dataclass(frozen=True)
class Trajectory:
    """The trajectory of one environment.

    Attributes:
        states: simulator states from start to end, `[T+1, N]`. They end where a simulation diverges.
        diverged: whether the simulation diverged.
        steps_without_plan: control steps in which the policy had no usable plan and rested.
    """

    states: NDArray[np.float64]
    diverged: bool
    steps_without_plan: int


# `on_step(step, decision, states)` is called before the actions of control step `step` (from 0 on) are executed in
# `states [B][N]`. If it returns True, they are not executed, and the episodes end.
OnStep = Callable[[int, Decision, Sequence[Floats]], bool | None]


def rollout(
    envs: Sequence[Environment],
    tasks: Sequence[Task],
    policy: Policy,
    budget: int,
    on_step: OnStep = lambda step, decision, states: None,
    look_at_end: bool = False,
) -> list[Trajectory]:
    """One episode per task, in `envs[:B]`, of `budget` control steps or until `on_step` ends them.

    An episode continues after success, since holding the goal is measured too. A diverged episode stands still, and all
    end when all have diverged. With `look_at_end`, the policy also decides after the last step, for `on_step` only.
    """
    envs = envs[: len(tasks)]
    latest, states = [], []
    for env, task in zip(envs, tasks, strict=True):
        options = None if task.start_state is None else {"state": task.start_state}
        observation, info = env.reset(seed=task.start_seed, options=options)
        latest.append(Observation.of(observation))
        states.append([np.array(info["state"], np.float64)])
    policy.reset(tasks)
    diverged, without_plan = [False] * len(envs), np.zeros(len(envs), np.int64)
    for step in range(budget + look_at_end):
        decision = policy.act(Observation.stack(latest))
        if on_step(step, decision, [path[-1] for path in states]) or step == budget:
            break
        without_plan += decision.replaced
        for row, env in enumerate(envs):
            if diverged[row]:
                continue
            observation, _, terminated, _, info = env.step(decision.actions[row])
            # Simulators may return a type of their own, which JSON does not know.
            diverged[row] = bool(terminated)
            if not diverged[row]:
                latest[row] = Observation.of(observation)
                states[row].append(np.array(info["state"], np.float64))
        if all(diverged):
            break
    return [
        Trajectory(np.array(path), broken, int(without))
        for path, broken, without in zip(states, diverged, without_plan, strict=True)
    ]

"""The rollout loop that runs, evaluations and recordings of episodes share."""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from planning.controller import Decision
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
        """What to do after seeing `[B, ...]`."""


@dataclasses.dataclass(frozen=True)
class Trajectory:
    """What happened in one environment.

    Attributes:
        states: simulator states from start to end, `[T+1, N]`; of a simulation that broke down, up to then.
        diverged: whether it broke down.
        steps_without_plan: control steps in which the policy had no usable plan and rested.
    """

    states: NDArray[np.float64]
    diverged: bool
    steps_without_plan: int


# `on_step(step, decision, states)`: before the actions of control step `step` (from 0 on) are taken in `states [B][N]`.
# Where it returns True, they are not taken, and the episodes end.
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

    An episode goes on after success, since holding the goal is measured too; a diverged one stands still, and all end
    when all have diverged. With `look_at_end`, the policy also decides after the last step, which only `on_step` hears.
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
            # Simulators return their own kind of truth, which JSON does not know.
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

"""One attempt at a task, step by step."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from planning.controller import Controller, Decision, Observations
from planning.environment import Environment
from planning.evaluation.task import Task


@dataclasses.dataclass(frozen=True)
class StopRule:
    """When an attempt ends.

    Attributes:
        budget: control steps at most.
        when_reached: whether to stop once the goal is reached.
        distance: without a goal state, reached means that the latent distance has fallen to this.
    """

    budget: int
    when_reached: bool
    distance: float


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What became of it.

    Attributes:
        reached: whether the goal was reached after any step.
        held: whether it was after the last one.
        judged_by: `simulator` (its success rule, where the goal's state is known) or `model` (latent distance).
        states: simulator states from start to end, `[T+1, N]`.
        distance: latent distance to the goal at the start and after every step, `[T+1]`.
        plan_ms: per step, observation to action [ms], `[T]`.
        replaced: steps without a usable plan.
        diverged: whether the simulation broke down.
        errors: per metric after every step, `[T+1]`, in its unit; empty without a goal state.
    """

    reached: bool
    held: bool
    judged_by: str
    states: NDArray[np.float64]
    distance: NDArray[np.float64]
    plan_ms: NDArray[np.float64]
    replaced: int
    diverged: bool
    errors: dict[str, NDArray[np.float64]]


def attempt(
    env: Environment,
    controller: Controller,
    task: Task,
    stop: StopRule,
    on_step: Callable[[int, Decision], None] = lambda step, decision: None,
) -> Outcome:
    """Act until `stop` says so. `on_step(step, decision)` hears of every decision."""
    options = None if task.start_state is None else {"state": task.start_state}
    observation, info = env.reset(seed=task.start_seed, options=options)
    states, decisions, distance, diverged = [info["state"]], [], [], False
    for step in range(stop.budget + 1):
        decision = controller.act(Observations.stack([observation]))
        distance.append(float(decision.distance[0]))
        at_goal = _is_at_goal(env, task, states[-1], distance[-1], stop.distance)
        # The last look only measures: its action is not taken.
        if step == stop.budget or (at_goal and stop.when_reached):
            break
        decisions.append(decision)
        on_step(step + 1, decision)
        observation, _, diverged, _, info = env.step(decision.actions[0])
        if diverged:
            break
        states.append(info["state"])
    path, curve = np.array(states), np.array(distance)
    at_goal_at = [_is_at_goal(env, task, s, d, stop.distance) for s, d in zip(states, distance, strict=False)]
    return Outcome(
        reached=any(at_goal_at),
        held=at_goal_at[-1] and not diverged,
        judged_by="model" if task.goal_state is None else "simulator",
        states=path,
        distance=curve,
        plan_ms=np.array([d.plan_ms for d in decisions]),
        replaced=sum(int(d.replaced[0]) for d in decisions),
        diverged=diverged,
        errors={} if task.goal_state is None else dict(env.goal_errors(path, task.goal_state)),
    )


def _is_at_goal(env: Environment, task: Task, state: NDArray[np.float64], distance: float, reached: float) -> bool:
    return distance <= reached if task.goal_state is None else bool(env.is_success(state, task.goal_state))

"""A single run toward a goal, and its outcome."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from planning.alarms import Alarm
from planning.decision import Decision
from planning.environment import Environment, Floats
from planning.evaluation.report import short
from planning.evaluation.rollout import Policy, rollout
from planning.evaluation.task import Task
from planning.rows import Heading


@dataclasses.dataclass(frozen=True)
class StopRule:
    """The rule for the end of a run.

    Attributes:
        budget: largest number of control steps.
        when_reached: whether to stop once the goal is reached.
        when_alarmed: whether to stop at an alarm of the monitor.
    """

    budget: int
    when_reached: bool
    when_alarmed: bool = False


@dataclasses.dataclass(frozen=True)
class Outcome:
    """The outcome of a run.

    Attributes:
        reached: whether the goal was reached after any step.
        held: whether the goal was reached after the last step.
        judged_by: `simulator` for its success rule, if the goal's state is known, or `model` for the latent distance.
        states: simulator states from start to end, `[T+1, N]`.
        distance: latent distance to the current sub-goal, at the start and after every step, `[T+1]`.
        sub_goal: index of the current sub-goal at these times, `[T+1]`.
        near: whether the model counted the last goal as reached at these times, `[T+1]`.
        plan_ms: time from observation to action of every step [ms], `[T]`.
        replaced: number of steps without a usable plan.
        refused: number of these steps in which the verification refused the plan.
        diverged: whether the simulation diverged.
        errors: errors by metric at these times, `[T+1]`, in its unit. Empty without a goal state.
        alarm: the monitor's alarm, None if all was well.
        headings: the hierarchy's sub-goal at these times, `[T+1]`. Empty without a hierarchy.
    """

    reached: bool
    held: bool
    judged_by: str
    states: NDArray[np.float64]
    distance: NDArray[np.float64]
    sub_goal: NDArray[np.int64]
    near: NDArray[np.bool_]
    plan_ms: NDArray[np.float64]
    replaced: int
    refused: int
    diverged: bool
    errors: dict[str, NDArray[np.float64]]
    alarm: Alarm | None = None
    headings: tuple[Heading, ...] = ()


def attempt(
    env: Environment,
    policy: Policy,
    task: Task,
    stop: StopRule,
    on_step: Callable[[int, Decision], None] = lambda step, decision: None,
) -> Outcome:
    """Act until `stop` ends the run. `on_step(step, decision)` is called for every executed decision, from step 1."""
    decisions: list[Decision] = []

    def at_goal(state: Floats, decision: Decision) -> bool:
        if task.goal_state is None:
            return bool(decision.reached[0])
        # Success counts only while the last goal is the current one.
        return int(decision.sub_goal[0]) == len(task.goals) - 1 and bool(env.is_success(state, task.goal_state))

    def look(step: int, decision: Decision, states: Sequence[Floats]) -> bool:
        decisions.append(decision)
        # The last decision only measures the distance. Its action is not executed.
        if step == stop.budget or (stop.when_reached and at_goal(states[0], decision)):
            return True
        if stop.when_alarmed and any(decision.alarm):
            return True
        on_step(step + 1, decision)
        return False

    (happened,) = rollout([env], [task], policy, stop.budget, look, look_at_end=True)
    # If the simulation diverged, the last decision led to no state.
    verdicts = [at_goal(state, decision) for state, decision in zip(happened.states, decisions, strict=False)]
    acted = decisions[: len(decisions) - (not happened.diverged)]
    return Outcome(
        reached=any(verdicts),
        held=verdicts[-1] and not happened.diverged,
        judged_by="model" if task.goal_state is None else "simulator",
        states=happened.states,
        distance=np.array([float(d.distance[0]) for d in decisions]),
        sub_goal=np.array([int(d.sub_goal[0]) for d in decisions]),
        near=np.array([bool(d.reached[0]) for d in decisions]),
        plan_ms=np.array([d.plan_ms for d in acted]),
        replaced=happened.steps_without_plan,
        refused=sum(int(d.refused[0]) for d in acted),
        diverged=happened.diverged,
        errors={} if task.goal_state is None else dict(env.goal_errors(happened.states, task.goal_state)),
        alarm=next((alarm for decision in decisions for alarm in decision.alarm if alarm), None),
        headings=tuple(heading for decision in decisions for heading in decision.headings if heading is not None),
    )


def describe(env: Environment, outcome: Outcome, reached_distance: float) -> str:
    """The verdict in one line. It says whether and by which rule the goal was reached, and the distance.

    If the simulator decides, it also says if the model disagrees.
    """
    steps = len(outcome.states) - 1
    if outcome.diverged:
        return f"not reached: the simulation diverged after {steps} steps"
    distance = f"latent distance {outcome.distance[-1]:.2f}, {outcome.distance[0]:.2f} at first"
    if outcome.judged_by == "model":
        word = "reached" if outcome.reached else "not reached"
        return (
            f"{word} after {steps} steps, as the model judges: {distance}, and reached_distance={reached_distance:g} "
            "counts as reached (the goal image holds no simulator state)"
        )
    errors = ", ".join(f"{m.name} {short(outcome.errors[m.name][-1])} {m.unit}" for m in env.metrics)
    model = ""
    if bool(outcome.near[-1]) != outcome.held:
        says = "reached" if outcome.near[-1] else "not reached"
        model = f"; the model, which does not decide, takes the goal to be {says}: {distance}"
    if outcome.reached and not outcome.held:
        return f"reached on the way, but not held until step {steps}: {errors} off at the end{model}"
    word = "reached" if outcome.reached else "not reached"
    return f"{word} after {steps} steps, as the simulator judges: {errors} off{model}"

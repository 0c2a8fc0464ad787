"""Receding-horizon control toward a goal, or toward a sequence of sub-goals."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import math
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from planning.actions.limits import ActionLimits
from planning.actions.safety import safe_actions
from planning.decision import Decision, Watcher
from planning.hierarchy import Hierarchy
from planning.inputs import first_command, read_observation
from planning.objectives import LatentGoalCost, require_confidence
from planning.rows import Row
from planning.strategy import Strategy
from planning.types import Model, Plan
from planning.verification import Verification
from worldmodel.core.errors import UserError
from worldmodel.core.goal import Goal
from worldmodel.core.observation import Observation


def choose_reached_distance(wanted: float | None, model: Model, watcher: Watcher | None = None) -> float:
    """`wanted`; for None, what the watcher knows to be right, or else the model's own distance.

    Raises UserError for a number that is not above 0.
    """
    if wanted is None and watcher is not None:
        wanted = watcher.reached_distance
    if wanted is None:
        return model.reached_distance
    if not (isinstance(wanted, int | float) and 0 < wanted < math.inf):
        raise UserError(f"reached_distance is {wanted}: expected a number above 0")
    return float(wanted)


class Controller:
    """Plans for B environments at once, executes the beginning of each plan, observes and replans.

    Every environment has its own latent, plan and step counter. Frames are encoded and futures are imagined for one
    environment at a time (`LatentGoalCost`). The optimiser's noise depends only on the seed and the step counter. So
    the result for one environment does not depend on the others in the batch.

    A row visits its sub-goals in order. The next sub-goal becomes current as soon as the distance to the present one is
    at most `reached_distance`.

    Args:
        model: world model.
        strategy: optimiser, objective, and options of the control loop.
        goals: for each of B environments a goal, or a sequence of them.
        device: device of the model.
        reached_distance: largest latent distance at which a goal counts as reached. None for the watcher's, or else for
            the model's own.
        start: `[A]`, the last command at the start of an episode, for actions that rest at `hold` without a reading.
        verification: checks the decoded end of a plan before the plan is executed, or None.
        watcher: looks at every decision, or None.
        hierarchy: chooses sub-goals on the way to every goal, or None for plans straight to it.

    Raises:
        UserError: for a goal that the model cannot read or the watcher refuses, and for a `reached_distance` that is
            not above 0.
    """

    def __init__(
        self,
        model: Model,
        strategy: Strategy,
        goals: Sequence[Goal | Sequence[Goal]],
        device: torch.device,
        reached_distance: float | None = None,
        start: NDArray[np.float32] | None = None,
        verification: Verification | None = None,
        watcher: Watcher | None = None,
        hierarchy: Hierarchy | None = None,
    ) -> None:
        self._model, self._strategy, self._device = model, strategy, device
        self._verification, self._watcher, self._hierarchy = verification, watcher, hierarchy
        require_confidence(model, strategy.objective)
        self.reached_distance, self._start = choose_reached_distance(reached_distance, model, watcher), start
        self.limits = ActionLimits.of(model.spec.action, model.spec.control_step_s, device)
        self._rows = [self._begin(row, goal) for row, goal in enumerate(goals)]

    def reset(self, row: int, goal: Goal | Sequence[Goal]) -> None:
        """Begin a new episode in environment `row` toward `goal`."""
        self._rows[row] = self._begin(row, goal)

    def look_anew(self, row: int) -> None:
        """Forget what environment `row` showed and planned, but not where it is heading: a new episode begins there."""
        self._rows[row] = self._rows[row].anew()
        if self._watcher is not None:
            self._watcher.forget(row)

    def has_begun(self, row: int) -> bool:
        """Whether environment `row` has been given a command in this episode."""
        return self._rows[row].command is not None

    def sub_goal(self, row: int) -> int:
        """Which sub-goal environment `row` is heading for, from 0 on."""
        return self._rows[row].sub_goal

    def was_given(self, row: int, command: NDArray[np.float32]) -> None:
        """Environment `row` was given `command [A]` instead of the action decided last. Its plan is kept."""
        given = torch.as_tensor(command, device=self._device)[None]
        self._rows[row] = dataclasses.replace(self._rows[row], command=given)
        if self._watcher is not None:
            self._watcher.was_given(row, given)

    @torch.no_grad()
    def _begin(self, row: int, goal: Goal | Sequence[Goal]) -> Row:
        goals = (goal,) if isinstance(goal, Goal) else tuple(goal)
        if not goals or not all(isinstance(one, Goal) for one in goals):
            raise UserError(f"goal is {goal!r}: expected a Goal, or several of them in turn")
        verify = self._verification
        targets = () if verify is None else tuple(verify.target(one) for one in goals)
        wanted = tuple(self._model.goal(one) for one in goals)
        if self._watcher is not None:
            for one in wanted:
                self._watcher.require_known(one)
            self._watcher.begin(row)
        guides = () if self._hierarchy is None else self._hierarchy.guides(wanted)
        return Row(wanted, targets, guides=guides)

    @torch.no_grad()
    def act(
        self, observation: Observation, command: NDArray[np.float32] | None = None, deadline: float | None = None
    ) -> Decision:
        """The next action for every environment.

        Args:
            observation: `[B, ...]` of the model's cameras and proprioception. It is copied.
            command: `[B, A]`, the last commands, if they differ from the last decision. The first call needs them if
                an action rests at `hold` and no reading shows the last command.
            deadline: when the search has to end [s of `time.monotonic`]. None for no deadline.

        Raises:
            UserError: for an observation that does not fit the model or is not finite, and if a command to hold is
                unknown. After this or any other exception the controller is unchanged, and the next call may succeed.
        """
        started = time.perf_counter()
        seen = read_observation(observation, self._model.spec, len(self._rows))
        first = [row.command is None for row in self._rows]
        commands = first_command(command, seen, self._model.spec.action, first, self._start)
        rows = [self._look(row, seen.rows(slice(i, i + 1)), commands[i]) for i, row in enumerate(self._rows)]
        rows, distance = (list(part) for part in zip(*(self._head_on(row) for row in rows), strict=True))
        rows = rows if self._hierarchy is None else [self._hierarchy.aim(row) for row in rows]
        rows, planned = self._plan(rows, deadline)
        actions, replaced = self._decide(rows)
        made = self._decision(rows, actions, replaced, distance, planned)
        if self._watcher is not None:
            made = self._watch(self._watcher, made, seen, rows, commands)
            actions = torch.as_tensor(made.actions, device=self._device)
        self._rows = [
            dataclasses.replace(row, command=action, step=row.step + 1)
            for row, action in zip(rows, actions.split(1), strict=True)
        ]
        return dataclasses.replace(made, plan_ms=(time.perf_counter() - started) * 1e3)

    def _look(self, row: Row, seen: Observation, command: NDArray[np.float32] | None) -> Row:
        """The row after the observation `seen [1, ...]`, with the command `[A]` that the user or a reading gives."""
        latent = self._model.observe(row.latent, seen, row.command)
        if command is not None:
            given = torch.as_tensor(command, device=self._device)[None]
            row = dataclasses.replace(row, command=self.limits.clip(given))
        return dataclasses.replace(row, latent=latent)

    def _head_on(self, row: Row) -> tuple[Row, float]:
        """The row with its next sub-goal if it has reached one, and the distance to the current one."""
        distance = self._distance(row)
        while self._is_near(distance) and row.sub_goal + 1 < len(row.goals):
            # The plan in execution leads to the goal that has been reached.
            row = dataclasses.replace(row, sub_goal=row.sub_goal + 1, plan=None, heading=None)
            distance = self._distance(row)
        return row, distance

    def _distance(self, row: Row) -> float:
        return float(self._model.distance(row.latent, row.goal))

    def _is_near(self, distance: float) -> bool:
        """Whether a goal counts as reached. A distance that is not finite means a broken model, and never counts."""
        return math.isfinite(distance) and distance <= self.reached_distance

    def _plan(self, rows: list[Row], deadline: float | None) -> tuple[list[Row], bool]:
        """The rows, with new plans where one is due, and whether any plan was made.

        Rows share a batch if they are at the same step of their episodes, and all or none of them have a previous plan.
        """
        execute = self._strategy.controller.execute
        due = [i for i, row in enumerate(rows) if row.plan is None or row.step - row.planned_at >= execute]
        rows = list(rows)

        def company(i: int) -> tuple[int, bool]:
            return rows[i].step, rows[i].plan is not None

        for (step, _), members in itertools.groupby(sorted(due, key=company), key=company):
            group = list(members)
            plan = self._plan_group([rows[i] for i in group], step, deadline)
            usable = (plan.cost.isfinite() & plan.actions.isfinite().flatten(1).all(1)).tolist()
            for place, i in enumerate(group):
                # The next plan does not start from a plan that cannot be used.
                made = plan.rows(slice(place, place + 1)) if usable[place] else None
                refused = made is not None and not self._is_verified(rows[i], made)
                rows[i] = dataclasses.replace(rows[i], plan=None if refused else made, planned_at=step, refused=refused)
        return rows, bool(due)

    def _is_verified(self, row: Row, plan: Plan) -> bool:
        verify = self._verification
        return verify is None or verify.accepts(row.latent, plan.actions, row.targets[row.sub_goal])

    def _plan_group(self, rows: Sequence[Row], step: int, deadline: float | None) -> Plan:
        cost = LatentGoalCost(
            self._model, [row.latent for row in rows], [row.aim for row in rows], self._strategy.objective
        )
        propose = self._strategy.propose([row.latent for row in rows], [row.aim for row in rows], self.limits)
        memories = [row.plan.memory for row in rows if row.plan is not None]
        memory = type(memories[0]).cat(memories) if memories else None
        last = torch.cat([row.in_force for row in rows])
        return self._strategy.plan(cost, self.limits, last, step, memory, deadline, propose)

    def _decide(self, rows: list[Row]) -> tuple[Tensor, Tensor]:
        """The actions `[B, A]`, and whether each was replaced by rest `[B]`."""
        last = torch.cat([row.in_force for row in rows])
        nothing = torch.full_like(last[:1], torch.nan)
        wanted = [nothing if row.plan is None else row.plan.actions[:, row.step - row.planned_at] for row in rows]
        return safe_actions(torch.cat(wanted), self.limits, last)

    def _watch(
        self,
        watcher: Watcher,
        made: Decision,
        seen: Observation,
        rows: Sequence[Row],
        commands: Sequence[NDArray[np.float32] | None],
    ) -> Decision:
        """The decision as it is to be carried out. `commands` are those that the user says were in force."""
        for i, command in enumerate(commands):
            if command is not None:
                watcher.was_given(i, torch.as_tensor(command)[None])
        return watcher.watch(made, seen, self.limits, torch.cat([row.in_force for row in rows]))

    def _decision(
        self, rows: list[Row], actions: Tensor, replaced: Tensor, distance: list[float], planned: bool
    ) -> Decision:
        iterations = max((row.plan.trace.shape[1] for row in rows if row.plan is not None), default=1)
        without = torch.full((1, iterations), torch.nan)
        return Decision(
            actions=actions.cpu().numpy().astype(np.float32),
            distance=np.array(distance, np.float32),
            reached=np.array([self._is_near(d) for d in distance]),
            sub_goal=np.array([row.sub_goal for row in rows]),
            predicted_cost=np.array(
                [torch.inf if row.plan is None else float(row.plan.cost) for row in rows], np.float32
            ),
            replaced=replaced.cpu().numpy(),
            refused=np.array([row.refused for row in rows]),
            trace=torch.cat([without if row.plan is None else row.plan.trace.cpu() for row in rows]).numpy(),
            planned=planned,
            latents=tuple(row.latent for row in rows),
            plans=tuple(row.plan for row in rows),
            headings=() if self._hierarchy is None else tuple(row.heading for row in rows),
            imagine=functools.partial(self._imagine, rows),
        )

    @torch.no_grad()
    def _imagine(self, rows: Sequence[Row]) -> tuple[Any, ...]:
        def ahead(row: Row) -> Any:
            if row.plan is None:
                return None
            return self._model.imagine(row.latent, row.plan.actions[:, None, row.step - row.planned_at :])

        return tuple(ahead(row) for row in rows)

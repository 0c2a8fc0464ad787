"""The oracle, which is the same optimiser with the simulator as its model."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from planning.actions.limits import ActionLimits
from planning.actions.safety import safe_actions
from planning.decision import Decision
from planning.environment import Environment
from planning.evaluation.rollout import Policy
from planning.evaluation.task import Task
from planning.inputs import first_command
from planning.strategy import Strategy
from planning.types import Plan
from worldmodel.core.machine import num_processors
from worldmodel.core.observation import Observation
from worldmodel.core.spec import EnvironmentSpec

# Part of the keys of its logs. Raised when its outcomes change.
ORACLE_VERSION: Final = 2


class Oracle(Policy):
    """The same search with the simulator as its model and `GoalEnv.goal_cost` as its cost, without proposals.

    It reads the state of `envs`, which planners never see. Its failures are due to the task and the optimiser.
    """

    def __init__(
        self,
        envs: Sequence[Environment],
        spec: EnvironmentSpec,
        strategy: Strategy,
        start: NDArray[np.float32] | None = None,
    ) -> None:
        self._envs, self._spec, self._strategy, self._start = envs, spec, strategy, start
        self._limits = ActionLimits.of(spec.action, spec.control_step_s)

    def reset(self, tasks: Sequence[Task]) -> None:
        assert all(task.goal_state is not None for task in tasks), "an oracle knows where it is to go"
        self._goals = [np.array(task.goal_state) for task in tasks]
        self._plan: Plan | None = None
        self._last: Tensor | None = None
        self._step = 0

    def act(self, observation: Observation) -> Decision:
        if self._last is None:
            first = [True] * len(self._goals)
            known = first_command(None, observation, self._spec.action, first, self._start)
            self._last = self._limits.clip(torch.as_tensor(np.array(known, np.float32)))
        ahead = self._step % self._strategy.controller.execute
        if self._plan is None or ahead == 0:
            memory = None if self._plan is None else self._plan.memory
            self._plan = self._strategy.plan(self._cost, self._limits, self._last, self._step, memory)
        wanted = torch.where(self._plan.cost.isfinite()[:, None], self._plan.actions[:, ahead], torch.nan)
        self._last, replaced = safe_actions(wanted, self._limits, self._last)
        self._step += 1
        return dataclasses.replace(Decision.blind(self._last.numpy().copy()), replaced=replaced.numpy())

    def _cost(self, actions: Tensor) -> Tensor:
        """Cost `[B, S]` of `actions [B, S, H, A]`. Threads run in parallel, since MuJoCo releases Python's lock."""
        with ThreadPoolExecutor(num_processors()) as threads:
            costs = list(threads.map(_simulated_cost, self._envs, actions.double().numpy(), self._goals))
        return self._strategy.objective.reduce(torch.as_tensor(np.stack(costs), dtype=torch.float32))


def _simulated_cost(env: Environment, actions: NDArray[np.float64], goal: NDArray[np.float64]) -> NDArray[np.float64]:
    """True cost `[S, H]` after each of `actions [S, H, A]`, from the present state of `env`."""
    return env.goal_cost(env.simulate(env.get_state(), actions), goal)

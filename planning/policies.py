"""Who can be evaluated: the world-model planner, the floors it has to beat, and the ceiling it is measured against."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from planning.actions.safety import safe_actions
from planning.controller import Controller, Observations, plan_step
from planning.environment import Environment
from planning.evaluation.episodes import Policy
from planning.manifest import Pair
from planning.registry import Planner
from planning.types import Bounds, Model, Plan
from worldmodel.core.machine import num_processors


class WorldModelPolicy(Policy):
    """Plans in a world model, from pixels and proprioception alone.

    Attributes:
        plan_ms: of every plan, time from the observations of all rows to their actions [ms]. Control steps in which an
            earlier plan goes on are not counted.
    """

    def __init__(self, model: Model, planner: Planner, bounds: Bounds, device: torch.device) -> None:
        self._model, self._planner, self._bounds, self._device = model, planner, bounds, device
        self.plan_ms: list[float] = []

    @property
    def execute(self) -> int:
        """Control steps from one plan to the next."""
        return self._planner.controller.execute

    def reset(self, pairs: Sequence[Pair], goals: NDArray[np.uint8]) -> None:
        self._controller = make_controller(self._model, self._planner, self._bounds, goals, self._device)
        self._replaced = np.zeros(len(pairs), np.int64)

    def act(self, observations: Observations) -> NDArray[np.float32]:
        decision = self._controller.act(observations)
        if decision.planned:
            self.plan_ms.append(decision.plan_ms)
        self._replaced += decision.replaced
        return decision.actions

    def steps_without_plan(self, row: int) -> int:
        return int(self._replaced[row])


def make_controller(
    model: Model, planner: Planner, bounds: Bounds, goals: NDArray[np.uint8], device: torch.device
) -> Controller:
    """A controller toward the pictures `goals [B, H, W, 3]`."""
    on_device = Bounds(bounds.low.to(device), bounds.high.to(device))
    return Controller(model, planner.optimiser, planner.objective, on_device, planner.controller, goals, device)


class NoOp(Policy):
    """Floor: the allowed action nearest to zero, always."""

    def __init__(self, bounds: Bounds) -> None:
        self._action = bounds.clip(torch.zeros_like(bounds.low)).numpy()

    def reset(self, pairs: Sequence[Pair], goals: NDArray[np.uint8]) -> None:
        self._rows = len(pairs)

    def act(self, observations: Observations) -> NDArray[np.float32]:
        return np.tile(self._action, (self._rows, 1))


class UniformRandom(Policy):
    """Floor: actions drawn uniformly within bounds, from a stream of each episode's own."""

    def __init__(self, bounds: Bounds, seed: int) -> None:
        self._low, self._high, self._seed = bounds.low.numpy(), bounds.high.numpy(), seed

    def reset(self, pairs: Sequence[Pair], goals: NDArray[np.uint8]) -> None:
        self._streams = [np.random.default_rng([self._seed, pair.seed]) for pair in pairs]

    def act(self, observations: Observations) -> NDArray[np.float32]:
        return np.stack([rng.uniform(self._low, self._high).astype(np.float32) for rng in self._streams])


class SimulatorPolicy(Policy):
    """Ceiling: the same optimiser with the simulator as its model and the true distance as its cost.

    Looks at the state of `envs`, as no planner may: it tells how much of a failure is the task's and the optimiser's.
    """

    def __init__(self, envs: Sequence[Environment], planner: Planner, bounds: Bounds) -> None:
        self._envs, self._planner, self._bounds = envs, planner, bounds

    def reset(self, pairs: Sequence[Pair], goals: NDArray[np.uint8]) -> None:
        config = self._planner.controller
        self._goals = [np.array(pair.goal) for pair in pairs]
        nothing = torch.zeros(len(pairs), config.horizon, self._bounds.low.shape[0])
        self._plan = Plan(nothing, torch.full((len(pairs),), torch.inf), nothing)
        self._replaced = np.zeros(len(pairs), np.int64)
        self._step = 0

    def act(self, observations: Observations) -> NDArray[np.float32]:
        config = self._planner.controller
        if self._step % config.execute == 0:
            optimiser = self._planner.optimiser
            self._plan = plan_step(optimiser, self._cost, self._plan.warm_start, self._bounds, config, self._step)
        actions, replaced = safe_actions(self._plan.actions[:, self._step % config.execute], self._bounds)
        self._replaced += replaced.numpy()
        self._step += 1
        return actions.numpy().astype(np.float32)

    def steps_without_plan(self, row: int) -> int:
        return int(self._replaced[row])

    def _cost(self, actions: Tensor) -> Tensor:
        """Cost `[B, S]` of `actions [B, S, H, A]`. MuJoCo lets go of Python's lock: a thread per processor pays."""
        with ThreadPoolExecutor(num_processors()) as threads:
            costs = list(threads.map(_simulated_cost, self._envs, actions.double().numpy(), self._goals))
        return self._planner.objective.reduce(torch.as_tensor(np.stack(costs), dtype=torch.float32))


def _simulated_cost(env: Environment, actions: NDArray[np.float64], goal: NDArray[np.float64]) -> NDArray[np.float64]:
    """True cost `[S, H]` along `actions [S, H, A]` from where `env` stands."""
    return env.goal_cost(env.simulate(env.get_state(), actions), goal)

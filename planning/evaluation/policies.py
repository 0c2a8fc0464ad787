"""The policies of an evaluation: the planner with a world model, and the baselines."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from planning.actions.limits import ActionLimits
from planning.actions.safety import safe_actions
from planning.controller import Controller
from planning.decision import Decision, Watcher
from planning.environment import Environment
from planning.evaluation.rollout import Policy
from planning.evaluation.task import Task
from planning.hierarchy import Hierarchy
from planning.inputs import first_command
from planning.strategy import Strategy
from planning.types import ActionHead, Model
from planning.verification import Verification
from worldmodel.core.observation import Observation
from worldmodel.core.spec import EnvironmentSpec

_LEAST_STEPS_LEFT: Final = 5  # control steps


class WorldModelPolicy(Policy):
    """Plans in a world model, from images and proprioception alone.

    Attributes:
        plan_ms: time of every plan from the observations of all rows to their actions [ms]. Control steps that
            continue an earlier plan are not counted.
    """

    def __init__(
        self,
        model: Model,
        strategy: Strategy,
        device: torch.device,
        reached_distance: float | None = None,
        start: NDArray[np.float32] | None = None,
        verification: Verification | None = None,
        watcher: Watcher | None = None,
        hierarchy: Hierarchy | None = None,
    ) -> None:
        self._model, self._strategy, self._device, self._watcher = model, strategy, device, watcher
        self._hierarchy = hierarchy
        self._reached_distance, self._start, self._verification = reached_distance, start, verification
        self.plan_ms: list[float] = []

    @property
    def execute(self) -> int:
        """Control steps from one plan to the next."""
        return self._strategy.controller.execute

    def reset(self, tasks: Sequence[Task]) -> None:
        goals = [task.goals for task in tasks]
        self._controller = Controller(
            self._model,
            self._strategy,
            goals,
            self._device,
            self._reached_distance,
            self._start,
            self._verification,
            self._watcher,
            self._hierarchy,
        )

    def act(self, observation: Observation) -> Decision:
        decision = self._controller.act(observation)
        if decision.planned:
            self.plan_ms.append(decision.plan_ms)
        return decision


class InversePolicy(Policy):
    """Acts as a head predicts, without a search: inverse dynamics (GC-IDM, arXiv 2605.08732) or behaviour cloning.

    Its first action is executed, and the next one is predicted from the next observation.

    Args:
        model: the world model of the head's latents.
        head: the head.
        device: device of the model.
        steps_ahead: control steps from start to goal, as far as they are known.
        start: `[A]`, the command at the start of an episode in dimensions that hold and have no reading.
    """

    def __init__(
        self,
        model: Model,
        head: ActionHead,
        device: torch.device,
        steps_ahead: int,
        start: NDArray[np.float32] | None = None,
    ) -> None:
        self._model, self._head, self._device, self._start = model, head, device, start
        self._steps_ahead = steps_ahead
        self._limits = ActionLimits.of(model.spec.action, model.spec.control_step_s, device)

    @torch.no_grad()
    def reset(self, tasks: Sequence[Task]) -> None:
        self._goals = [self._model.goal(task.goals[-1]) for task in tasks]
        self._latents: list[Any] = [None] * len(tasks)
        self._last: Tensor | None = None
        self._step = 0

    @torch.no_grad()
    def act(self, observation: Observation) -> Decision:
        if self._last is None:
            known = first_command(None, observation, self._model.spec.action, [True] * len(self._goals), self._start)
            given = torch.as_tensor(np.array(known, np.float32), device=self._device)
            self._last = self._limits.clip(given)
            before: list[Tensor | None] = [None] * len(self._goals)
        else:
            before = list(self._last.split(1))
        # An episode that is late still needs some steps to arrive.
        left = torch.tensor([max(self._steps_ahead - self._step, _LEAST_STEPS_LEFT)], device=self._device)
        wanted = []
        for row, (latent, goal) in enumerate(zip(self._latents, self._goals, strict=True)):
            seen = observation.rows(slice(row, row + 1))
            self._latents[row] = self._model.observe(latent, seen, before[row])
            wanted.append(self._head.predict(self._latents[row], goal, left)[:, 0])
        self._last, replaced = safe_actions(torch.cat(wanted), self._limits, self._last)
        self._step += 1
        made = Decision.blind(self._last.cpu().numpy().copy())
        return dataclasses.replace(made, replaced=replaced.cpu().numpy())


class Baseline(Policy):
    """Acts without a goal. Its actions are projected to all limits.

    Args:
        spec: specification of the environment.
        start: `[A]`, the command at the start of an episode in dimensions that hold and have no reading.
    """

    def __init__(self, spec: EnvironmentSpec, start: NDArray[np.float32] | None = None) -> None:
        self._spec, self._start = spec, start
        self._limits = ActionLimits.of(spec.action, spec.control_step_s)

    def reset(self, tasks: Sequence[Task]) -> None:
        self._last: Tensor | None = None

    def act(self, observation: Observation) -> Decision:
        if self._last is None:
            first = [True] * len(observation.proprio)
            known = first_command(None, observation, self._spec.action, first, self._start)
            self._last = torch.as_tensor(np.array(known, np.float32))
        self._last = self._limits.project(self.wanted(self._last)[:, None], self._last)[:, 0]
        return Decision.blind(self._last.numpy().copy())

    def wanted(self, last: Tensor) -> Tensor:
        """Actions `[B, A]` after the commands `last [B, A]`, before limits are applied."""
        raise NotImplementedError


class NoAction(Baseline):
    """Rests."""

    def wanted(self, last: Tensor) -> Tensor:
        return self._limits.rest(last)


class UniformRandom(Baseline):
    """Draws actions uniformly within bounds. Every episode has its own random stream."""

    def __init__(self, spec: EnvironmentSpec, seed: int, start: NDArray[np.float32] | None = None) -> None:
        super().__init__(spec, start)
        self._seed = seed

    def reset(self, tasks: Sequence[Task]) -> None:
        super().reset(tasks)
        self._streams = [np.random.default_rng([self._seed, task.seed]) for task in tasks]

    def wanted(self, last: Tensor) -> Tensor:
        low, high = self._limits.low.numpy(), self._limits.high.numpy()
        drawn = np.stack([rng.uniform(low, high).astype(np.float32) for rng in self._streams])
        return torch.from_numpy(drawn)


class Exploration(Baseline):
    """Explores as `envs.collect` does, without a goal. It knows the simulator's state.

    Args:
        spec: specification of the environment.
        envs: the environments of the episodes, in their order.
        seed: seed of the explorers. Every episode has its own random stream.
        start: as for `Baseline`.
    """

    def __init__(
        self,
        spec: EnvironmentSpec,
        envs: Sequence[Environment],
        seed: int,
        start: NDArray[np.float32] | None = None,
    ) -> None:
        super().__init__(spec, start)
        self._envs, self._seed = envs, seed

    def reset(self, tasks: Sequence[Task]) -> None:
        super().reset(tasks)
        self._explorers = [
            env.explorer(np.random.default_rng([self._seed, task.seed]))
            for env, task in zip(self._envs, tasks, strict=False)  # the last tasks may be fewer
        ]

    def wanted(self, last: Tensor) -> Tensor:
        acted = [explorer.act(env) for explorer, env in zip(self._explorers, self._envs, strict=False)]
        return torch.from_numpy(np.stack(acted).astype(np.float32))

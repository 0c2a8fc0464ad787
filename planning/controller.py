"""Receding-horizon control toward a goal image."""

from __future__ import annotations

import collections
import dataclasses
import time
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from planning.actions.knots import shift
from planning.actions.safety import require_finite, safe_actions
from planning.objectives import LatentGoalCost, ObjectiveConfig
from planning.types import Bounds, CostFn, Model, Optimiser, Plan
from worldmodel.core.errors import UserError
from worldmodel.core.seeds import seed_of_step


@dataclasses.dataclass(frozen=True)
class ControllerConfig:
    """Options of `Controller`.

    Attributes:
        horizon: control steps that a plan looks ahead, H.
        execute: actions of a plan that are taken before the next one is made.
        history: frames of context that the model is given.
        seed: of the optimiser's noise.
    """

    horizon: int = 12
    execute: int = 1
    history: int = 1
    seed: int = 0

    def __post_init__(self) -> None:
        if self.horizon < 1 or self.history < 1:
            raise ValueError(f"horizon {self.horizon} and history {self.history} must be at least 1")
        if not 1 <= self.execute <= self.horizon:
            raise ValueError(f"execute {self.execute} must be between 1 and horizon {self.horizon}")


@dataclasses.dataclass(frozen=True)
class Observations:
    """What B environments show: `pixels` uint8 `[B, H, W, 3]` and `proprio` float32 `[B, P]`."""

    pixels: NDArray[np.uint8]
    proprio: NDArray[np.float32]

    @classmethod
    def stack(cls, observations: list[dict[str, Any]]) -> Observations:
        """From one Gymnasium observation per environment."""
        return cls(
            np.stack([next(iter(o["images"].values())) for o in observations]),
            np.stack([o["proprio"] for o in observations]),
        )


@dataclasses.dataclass(frozen=True)
class Decision:
    """What the controller did at one control step.

    Attributes:
        actions: float32 `[B, A]`, finite and within bounds.
        distance: `[B]`, the latent distance of what is seen now to the goal.
        predicted_cost: `[B]`, the cost that the plan in execution was predicted to have.
        replaced: `[B]`, rows where no plan could be used and the action is the safe one.
        plan_ms: time from observations to actions of all B rows [ms].
        planned: whether a plan was made at this step, or the last one is still being executed.
    """

    actions: NDArray[np.float32]
    distance: NDArray[np.float32]
    predicted_cost: NDArray[np.float32]
    replaced: NDArray[np.bool_]
    plan_ms: float
    planned: bool


def plan_step(
    optimiser: Optimiser, cost_fn: CostFn, warm_start: Tensor, bounds: Bounds, config: ControllerConfig, step: int
) -> Plan:
    """The plan made at control step `step` of an episode, from `warm_start [B, H, A]` (zeros where there is none).

    Its own warm start is for the step in which the next plan is due, `config.execute` later.
    """
    # Seeded anew for every step: independent of how often anybody planned before.
    generator = torch.Generator().manual_seed(seed_of_step(config.seed, step))
    plan = optimiser.plan(cost_fn, warm_start, bounds, generator, elapsed=step)
    return dataclasses.replace(plan, warm_start=shift(plan.warm_start, config.execute - 1, bounds))


class Controller:
    """Plans for B environments at once, executes the beginning of the plan, looks again and replans.

    Every environment has its own history, warm start and step counter. The optimiser's noise depends on the seed and
    on that counter only, so what happens to one environment does not depend on who shares the batch with it.

    Args:
        model: imagines; its tensors live on `device`.
        bounds: smallest and largest action, on `device`.
        goals: goal pictures, uint8 `[B, H, W, 3]`.
    """

    def __init__(
        self,
        model: Model,
        optimiser: Optimiser,
        objective: ObjectiveConfig,
        bounds: Bounds,
        config: ControllerConfig,
        goals: NDArray[np.uint8],
        device: torch.device,
    ) -> None:
        self._model, self._optimiser, self._objective = model, optimiser, objective
        self._bounds, self._config, self._device = bounds, config, device
        self._goals = np.array(goals)
        self._encoded_goals: dict[tuple[int, ...], Any] = {}
        rows, size = len(goals), bounds.low.shape[0]
        self._histories = [_History(config.history, size) for _ in range(rows)]
        self._steps = np.zeros(rows, np.int64)
        self._plans = torch.zeros(rows, config.horizon, size, device=device)
        self._warm_starts = torch.zeros(rows, config.horizon, size, device=device)
        self._costs = torch.full((rows,), torch.inf, device=device)

    def reset(self, row: int, goal: NDArray[np.uint8]) -> None:
        """Begin a new episode in environment `row` toward `goal [H, W, 3]`, forgetting the one before."""
        self._goals[row] = goal
        self._histories[row] = _History(self._config.history, self._bounds.low.shape[0])
        self._encoded_goals.clear()
        self._steps[row] = 0
        self._warm_starts[row] = 0
        self._costs[row] = torch.inf

    @torch.no_grad()
    def act(self, observations: Observations) -> Decision:
        """The next action for every environment. Raises UserError for an observation that is not finite."""
        started = time.perf_counter()
        rows = len(self._histories)
        if len(observations.pixels) != rows:
            raise UserError(f"{len(observations.pixels)} observations for a controller of {rows} environments")
        require_finite(torch.as_tensor(observations.proprio), "proprio")
        for row, history in enumerate(self._histories):
            history.see(observations.pixels[row], observations.proprio[row])
        distance = torch.empty(rows, device=self._device)
        planned = False
        # Environments that are equally far into their episode have histories of one length: they share a batch.
        for step in np.unique(self._steps):
            group = np.flatnonzero(self._steps == step)
            distance[group], made = self._act_group(group, int(step))
            planned |= made
        current = torch.as_tensor(self._steps % self._config.execute, device=self._device)
        wanted = self._plans[torch.arange(rows, device=self._device), current]
        wanted = torch.where(self._costs.isfinite()[:, None], wanted, torch.nan)
        actions, replaced = safe_actions(wanted, self._bounds)
        actions_out = actions.cpu().numpy().astype(np.float32)
        for history, action in zip(self._histories, actions_out, strict=True):
            history.do(action)
        self._steps += 1
        return Decision(
            actions_out,
            distance.cpu().numpy(),
            self._costs.cpu().numpy().copy(),
            replaced.cpu().numpy(),
            (time.perf_counter() - started) * 1e3,
            planned,
        )

    def _act_group(self, group: NDArray[np.int64], step: int) -> tuple[Tensor, bool]:
        """Distances `[b]` now of the rows in `group [b]`, whose plans are renewed where it is time to."""
        histories = [self._histories[row] for row in group]
        latent = self._model.encode(*(self._stack(parts) for parts in zip(*(h.read() for h in histories), strict=True)))
        goal = self._encode_goals(group)
        distance = self._model.distance_now(latent, goal)
        if step % self._config.execute:
            return distance, False
        cost_fn = LatentGoalCost(self._model, latent, goal, self._objective)
        plan = plan_step(self._optimiser, cost_fn, self._warm_starts[group], self._bounds, self._config, step)
        usable = plan.cost.isfinite() & plan.actions.isfinite().flatten(1).all(1)
        self._plans[group] = plan.actions
        self._warm_starts[group] = torch.where(usable[:, None, None], plan.warm_start, 0)
        self._costs[group] = torch.where(usable, plan.cost, torch.inf)
        return distance, True

    def _encode_goals(self, group: NDArray[np.int64]) -> Any:
        key = tuple(group.tolist())
        if key not in self._encoded_goals:
            self._encoded_goals[key] = self._model.encode_goal(torch.as_tensor(self._goals[group], device=self._device))
        return self._encoded_goals[key]

    def _stack(self, parts: tuple[NDArray[Any], ...]) -> Tensor:
        return torch.as_tensor(np.stack(parts), device=self._device)


class _History:
    """The last frames of one episode and the actions between them."""

    def __init__(self, length: int, action_size: int) -> None:
        self._pixels: collections.deque[NDArray[np.uint8]] = collections.deque(maxlen=length)
        self._proprio: collections.deque[NDArray[np.float32]] = collections.deque(maxlen=length)
        self._actions: collections.deque[NDArray[np.float32]] = collections.deque(maxlen=length - 1)
        self._action_size = action_size

    def see(self, pixels: NDArray[np.uint8], proprio: NDArray[np.float32]) -> None:
        self._pixels.append(pixels)
        self._proprio.append(np.asarray(proprio, np.float32))

    def do(self, action: NDArray[np.float32]) -> None:
        self._actions.append(action)

    def read(self) -> tuple[NDArray[np.uint8], NDArray[np.float32], NDArray[np.float32]]:
        """pixels `[T, H, W, 3]`, proprio `[T, P]`, actions `[T-1, A]`."""
        actions = np.array(self._actions, np.float32).reshape(-1, self._action_size)
        return np.stack(self._pixels), np.stack(self._proprio), actions

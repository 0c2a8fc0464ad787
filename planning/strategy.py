"""How a controller plans, whatever the model: optimiser, objective, and options of the control loop.

See `planning.types` for shapes.
"""

from __future__ import annotations

import dataclasses
from typing import Final

import torch
from torch import Tensor

from planning.actions.limits import ActionLimits
from planning.objectives import ObjectiveConfig
from planning.types import CostFn, Optimiser, Plan, Problem
from worldmodel.core.seeds import seed_of_step
from worldmodel.core.tensor_record import TensorRecord

MOST_STEPS_AHEAD: Final = 10_000


@dataclasses.dataclass(frozen=True)
class ControllerConfig:
    """Options of `Controller`.

    Attributes:
        horizon: planning horizon H [control steps].
        execute: actions of a plan that are executed before the next one is made.
        seed: seed of the optimiser's noise.
    """

    horizon: int = 12
    execute: int = 1
    seed: int = 0

    def __post_init__(self) -> None:
        if not 1 <= self.horizon <= MOST_STEPS_AHEAD:
            raise ValueError(f"horizon {self.horizon} must be at least 1 and at most {MOST_STEPS_AHEAD:,}")
        if not 1 <= self.execute <= self.horizon:
            raise ValueError(f"execute {self.execute} must be between 1 and horizon {self.horizon}")


@dataclasses.dataclass(frozen=True)
class Strategy:
    """The parts of a controller beside the model: optimiser, objective, and options of the control loop."""

    optimiser: Optimiser
    objective: ObjectiveConfig
    controller: ControllerConfig

    def plan(
        self,
        cost: CostFn,
        limits: ActionLimits,
        last: Tensor,
        step: int,
        memory: TensorRecord | None,
        deadline: float | None = None,
    ) -> Plan:
        """The plan made at control step `step` of an episode, after the command `last [B, A]`. See `Problem`."""
        # Seeded anew for every step, so that the noise does not depend on the number of earlier plans.
        generator = torch.Generator().manual_seed(seed_of_step(self.controller.seed, step))
        problem = Problem(cost, limits, last, self.controller.horizon, step, deadline=deadline)
        return self.optimiser.plan(problem, memory, generator)

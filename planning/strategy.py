"""How a controller plans, whatever the model: optimiser, objective, and options of the control loop.

See `planning.types` for shapes.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Sequence
from typing import Any, Final

import torch
from torch import Tensor

from planning.actions.limits import ActionLimits
from planning.objectives import ObjectiveConfig
from planning.policies.proposals import NO_PROPOSALS, ProposalConfig
from planning.types import CostFn, Optimiser, Plan, Problem, Propose, Proposer
from worldmodel.core.seeds import seed_of_step
from worldmodel.core.tensor_record import TensorRecord

MOST_STEPS_AHEAD: Final = 10_000
_LOG = logging.getLogger(__name__)


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
    """The parts of a controller beside the model.

    Attributes:
        optimiser: searches for actions.
        objective: reduces the distances along a plan to a cost.
        controller: options of the control loop.
        proposals: options of what proposes actions beside the optimiser's own.
        proposer: what `planning.loading.with_proposals` has loaded for these options; None without any.
        missing: why nothing proposes although the options ask for it. Empty if nothing is missing.
    """

    optimiser: Optimiser
    objective: ObjectiveConfig
    controller: ControllerConfig
    proposals: ProposalConfig = NO_PROPOSALS
    proposer: Proposer | None = None
    missing: str = ""

    @property
    def proposed(self) -> dict[str, str]:
        """What proposes, for the keys of logs: it decides outcomes beside the options. Empty without a proposer."""
        return {} if self.proposer is None else {"proposed": self.proposer.identity}

    def warn(self) -> None:
        """Log what is missing, if anything is. Once nothing can be refused any more, so that a refusal is one line."""
        if self.missing:
            _LOG.warning("no proposals: %s; without, planner=two_spreads reaches more goals", self.missing)

    def propose(self, latents: Sequence[Any], goals: Sequence[Any], limits: ActionLimits) -> Propose | None:
        """What is proposed from `latents` toward `goals`, `[1, ...]` each; None without a proposer."""
        proposer = self.proposer
        return None if proposer is None else proposer.toward(latents, goals, limits, self.controller.horizon)

    def plan(
        self,
        cost: CostFn,
        limits: ActionLimits,
        last: Tensor,
        step: int,
        memory: TensorRecord | None,
        deadline: float | None = None,
        propose: Propose | None = None,
    ) -> Plan:
        """The plan made at control step `step` of an episode, after the command `last [B, A]`. See `Problem`."""
        # Seeded anew for every step, so that the noise does not depend on the number of earlier plans.
        generator = torch.Generator().manual_seed(seed_of_step(self.controller.seed, step))
        problem = Problem(cost, limits, last, self.controller.horizon, step, propose, deadline)
        return self.optimiser.plan(problem, memory, generator)

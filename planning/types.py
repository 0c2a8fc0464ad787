"""The records that cross planning's boundaries.

Shapes, here and in every module of `planning`: `B` plans made at once (one per environment), `S` sampled action
sequences per plan, `H` control steps ahead, `A` action dimensions. Actions are in physical units throughout.
"""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor

from planning.actions.limits import ActionLimits
from worldmodel.core.goal import Goal
from worldmodel.core.observation import Observation
from worldmodel.core.spec import EnvironmentSpec
from worldmodel.core.tensor_record import TensorRecord

# `actions [B, S, H, A] -> cost [B, S]`, lower is better. All that an optimiser ever sees of a model.
CostFn = Callable[[Tensor], Tensor]
# `propose(most, generator)`: at most `most` action sequences `[B, N, H, A]` that a policy finds worth a try.
Propose = Callable[[int, torch.Generator], Tensor]


@dataclasses.dataclass(frozen=True)
class Problem:
    """What an optimiser is asked.

    Attributes:
        cost: of action sequences. It is differentiable where the model is.
        limits: what may be commanded.
        last: `[B, A]`, the command in force.
        horizon: control steps that a plan looks ahead, H.
        step: control steps since the episode began, the same for all rows. Where a plan is made of knots, it keeps
            them in their places in time: the next plan then starts from this one as it is, and not from a blurred copy.
        propose: candidates that an optimiser that samples judges beside its own; None where nobody proposes any.
    """

    cost: CostFn
    limits: ActionLimits
    last: Tensor
    horizon: int
    step: int = 0
    propose: Propose | None = None

    def rest(self) -> Tensor:
        """Staying as it is for the whole horizon, `[B, H, A]`."""
        return self.limits.rest(self.last)[:, None].expand(-1, self.horizon, -1)


@dataclasses.dataclass(frozen=True)
class Plan(TensorRecord):
    """What an optimiser decided.

    Attributes:
        actions: `[B, H, A]`, within all limits.
        cost: `[B]`, the cost that the model predicts for `actions`; infinite where no finite cost was found.
        memory: what the optimiser wants to be given back when the next plan is due. Opaque to everybody else.
        trace: `[B, I]`, the lowest cost among the candidates of every iteration.
    """

    actions: Tensor
    cost: Tensor
    memory: TensorRecord
    trace: Tensor


class Optimiser(abc.ABC):
    """Minimises a `CostFn` over action sequences."""

    @property
    @abc.abstractmethod
    def samples(self) -> int:
        """Action sequences per row that are judged at once, at most, S."""

    @property
    @abc.abstractmethod
    def evaluations(self) -> int:
        """Action sequences per row that one plan takes to be judged."""

    @abc.abstractmethod
    def plan(self, problem: Problem, memory: TensorRecord | None, generator: torch.Generator) -> Plan:
        """One plan per row of `problem.last [B, A]`.

        A row's plan depends neither on the other rows nor on how many there are. A cost that is not finite is the worst
        there is.

        Args:
            problem: what is asked.
            memory: of the plans made before for the same rows, in the same episode; None where there are none.
            generator: of all randomness.
        """


class Model(Protocol):
    """The part of a world model that planning uses; `worldmodel.models.contract` says it in full.

    A latent is opaque here: only the model that made it looks inside.
    """

    spec: EnvironmentSpec

    def observe(self, previous: Any, observation: Observation, action: Tensor | None) -> Any:
        """Latent `[B, ...]` of what is seen now.

        Args:
            previous: latent of the step before; None where an episode begins.
            observation: `[B, ...]`, as numpy arrays.
            action: `[B, A]`, the one taken in between; None where an episode begins.
        """

    def goal(self, goal: Goal) -> Any:
        """Latent `[1, ...]` of a goal. Raises UserError for one that the model cannot read."""

    def imagine(self, latent: Any, actions: Tensor) -> Any:
        """Latents `[B, S, H, ...]` after each of `actions [B, S, H, A]`, from `latent [B, ...]`."""

    def distance(self, latents: Any, goal: Any) -> Tensor:
        """Distance of latents `[B, ...]` or `[B, S, H, ...]` to goals `[B, ...]`, of the latents' leading shape."""

"""The records that cross planning's boundaries.

Shapes, here and in every module of `planning`: `B` plans made at once (one per environment), `S` sampled action
sequences per plan, `H` control steps ahead, `A` action dimensions. Actions are in physical units throughout.
"""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from planning.actions.limits import ActionLimits
from worldmodel.core.goal import Goal
from worldmodel.core.observation import Observation
from worldmodel.core.spec import EnvironmentSpec
from worldmodel.core.tensor_record import TensorRecord

# `actions [B, S, H, A] -> cost [B, S]`, lower is better. An optimiser sees nothing else of a model.
CostFn = Callable[[Tensor], Tensor]
# `propose(most, generator)`: at most `most` action sequences `[B, N, H, A]` that a policy proposes.
Propose = Callable[[int, torch.Generator], Tensor]


@dataclasses.dataclass(frozen=True)
class Problem:
    """The problem that an optimiser solves.

    Attributes:
        cost: cost of action sequences. It is differentiable if the model is.
        limits: limits of actions.
        last: `[B, A]`, the last command.
        horizon: planning horizon H [control steps].
        step: control steps since the episode began, the same for all rows. Knots lie at
            fixed times of the episode, so that the next plan can start from this one without interpolation.
        propose: candidates that a sampling optimiser evaluates beside its own, or None.
        deadline: when the plan has to be there [s of `time.monotonic`], or None. An anytime optimiser then returns its
            best so far.
    """

    cost: CostFn
    limits: ActionLimits
    last: Tensor
    horizon: int
    step: int = 0
    propose: Propose | None = None
    deadline: float | None = None

    def rest(self) -> Tensor:
        """Actions `[B, H, A]` of rest for the whole horizon."""
        return self.limits.rest(self.last)[:, None].expand(-1, self.horizon, -1)


@dataclasses.dataclass(frozen=True)
class Plan(TensorRecord):
    """The result of an optimiser.

    Attributes:
        actions: `[B, H, A]`, within all limits.
        cost: `[B]`, the cost that the model predicts for `actions`. Infinite if no finite cost was found.
        memory: passed to the optimiser with the next problem. Only the optimiser reads it.
        trace: `[B, I]`, the lowest cost among the candidates of every iteration; NaN for one that a deadline cut off.
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
        """S, the largest number of action sequences per row that are evaluated at once."""

    @property
    @abc.abstractmethod
    def evaluations(self) -> int:
        """Number of action sequences per row that are evaluated for one plan.

        One whose gradient is computed too counts once, although it takes about three times as long.
        """

    @property
    def needs_gradient(self) -> bool:
        """Whether it follows the gradient of the cost, which a simulator, for example, does not have."""
        return False

    @abc.abstractmethod
    def plan(self, problem: Problem, memory: TensorRecord | None, generator: torch.Generator) -> Plan:
        """One plan per row of `problem.last [B, A]`.

        A row's plan depends neither on the other rows nor on their number. A cost that is not finite counts as the
        highest cost.

        Args:
            problem: the problem to solve.
            memory: memory of the previous plan for the same rows in the same episode, or None.
            generator: source of all randomness.
        """


class Model(Protocol):
    """The part of a world model that planning uses. `worldmodel.models.contract` has the full interface.

    A latent is opaque here. Only the model that made it reads its content.
    """

    spec: EnvironmentSpec

    @property
    def reached_distance(self) -> float:
        """Largest latent distance at which a goal counts as reached, unless the user gives another."""

    def observe(self, previous: Any, observation: Observation, action: Tensor | None) -> Any:
        """Latent `[B, ...]` after an observation.

        Args:
            previous: latent of the previous step, None at the start of an episode.
            observation: `[B, ...]`, as numpy arrays.
            action: `[B, A]`, the action between the two steps. None at the start of an episode.
        """

    def goal(self, goal: Goal) -> Any:
        """Latent `[1, ...]` of a goal. Raises UserError for one that the model cannot read."""

    def imagine(self, latent: Any, actions: Tensor) -> Any:
        """Latents `[B, S, H, ...]` after each of `actions [B, S, H, A]`, from `latent [B, ...]`."""

    def distance(self, latents: Any, goal: Any) -> Tensor:
        """Distance of latents `[B, ...]` or `[B, S, H, ...]` to goals `[B, ...]`, of the latents' leading shape."""


class SubGoal(Protocol):
    """A sub-goal on the way to a goal, as `worldmodel.models.landmarks.landmarks.SubGoal`."""

    @property
    def latent(self) -> Any: ...
    @property
    def landmark(self) -> int | None: ...
    @property
    def steps(self) -> float: ...
    @property
    def beyond(self) -> float: ...


class Guide(Protocol):
    """Proposes sub-goals on the way to one goal."""

    def propose(self, latent: Any, ahead: float, avoided: frozenset[int | None] = frozenset()) -> SubGoal:
        """The sub-goal for the present `latent [1, ...]`, `ahead` control steps away or the goal itself.

        It is none of those in `avoided`, where None stands for the goal, if there is another.
        """


class Subgoals(Protocol):
    """The part of `worldmodel.models.landmarks.landmarks.Landmarks` that planning uses."""

    def toward(self, goal: Any) -> Guide:
        """The guide to `goal [1, ...]`."""


class Proposer(Protocol):
    """Proposes action sequences, which a sampling optimiser evaluates beside its own."""

    @property
    def identity(self) -> str:
        """Tells proposers apart that propose different actions."""

    def toward(self, latents: Sequence[Any], goals: Sequence[Any], limits: ActionLimits, horizon: int) -> Propose:
        """What is proposed for B plans.

        Args:
            latents: current latents, `[1, ...]` each.
            goals: their goals, `[1, ...]` each.
            limits: limits of actions.
            horizon: planning horizon H [control steps].
        """


class ActionHead(Protocol):
    """The part of `worldmodel.models.inverse.inverse.Inverse` that planning uses."""

    identity: str

    @property
    def chunk(self) -> int:
        """C, the number of control steps that are predicted."""

    def predict(self, latents: Any, goals: Any, steps: Tensor) -> Tensor:
        """Actions `[B, C, A]` that lead from latents `[B, ...]` to goals `[B, ...]` in `steps [B]` control steps."""


@runtime_checkable
class Decodable(Protocol):
    """A model that can be decoded, as in `worldmodel.models.contract`."""

    def decodable(self, latents: Any) -> Tensor:
        """The part `[..., D]` of latents that says what there is to see."""


class Decoder(Protocol):
    """The part of `worldmodel.models.decoder.decoder.Decoder` that planning uses.

    Images by camera are uint8 `[..., H', W', 3]`, with the height H' and width W' of the camera.
    """

    def code(self, latents: Any) -> Tensor:
        """The decodable part `[..., D]` of latents."""

    def show(self, codes: Tensor) -> dict[str, Tensor]:
        """Images by camera of codes `[..., D]`."""

    def decode(self, latents: Any) -> dict[str, Tensor]:
        """Images by camera of latents with the leading shape `[...]`."""

    def reconstruct(self, observation: Observation) -> dict[str, Tensor]:
        """Images by camera `[B, H', W', 3]` of an observation after encoding and decoding."""

    def features(self, images: Mapping[str, Any]) -> Tensor:
        """Features of the frozen encoder `[B, F]` of images by camera `[B, H', W', 3]`."""

    def feature_distance(self, features: Tensor, others: Tensor) -> Tensor:
        """Root mean square difference `[...]` of features `[..., F]`, shapes broadcast."""

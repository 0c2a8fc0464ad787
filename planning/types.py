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

# `actions [B, S, H, A] -> cost [B, S]`, lower is better. All that an optimiser ever sees of a model.
CostFn = Callable[[Tensor], Tensor]


@dataclasses.dataclass(frozen=True)
class Bounds:
    """Smallest and largest action, `[A]` each, in physical units."""

    low: Tensor
    high: Tensor

    def clip(self, actions: Tensor) -> Tensor:
        """`actions [..., A]` moved to the nearest point inside. Non-finite entries stay: who made them must answer."""
        return torch.minimum(torch.maximum(actions, self.low), self.high)


@dataclasses.dataclass(frozen=True)
class Plan:
    """What an optimiser decided.

    Attributes:
        actions: `[B, H, A]`, within bounds.
        cost: `[B]`, the cost the model predicts for `actions`.
        warm_start: `[B, H, A]`, to hand back at the next control step (already shifted by one).
    """

    actions: Tensor
    cost: Tensor
    warm_start: Tensor


class Optimiser(abc.ABC):
    """Minimises a `CostFn` over action sequences."""

    @abc.abstractmethod
    def plan(
        self, cost_fn: CostFn, warm_start: Tensor, bounds: Bounds, generator: torch.Generator, elapsed: int = 0
    ) -> Plan:
        """One plan per row of `warm_start [B, H, A]` (zeros where there is none).

        `elapsed` control steps have passed since the episode began. Where a plan is made of knots, it keeps them in
        their places in time: the next plan then starts from this one as it is, and not from a blurred copy.
        """


class Model(Protocol):
    """The part of a world model that planning uses (`worldmodel.models.keypoint.model.WorldModel` is one).

    A latent is opaque here: only the model that made it looks inside.
    """

    @property
    def history(self) -> int:
        """Frames of the past that `encode` makes use of, at least 1, the present one among them."""

    def encode(self, pixels: Tensor, proprio: Tensor, actions: Tensor) -> Any:
        """Latent of a history: pixels uint8 `[B, T, H, W, 3]`, proprio `[B, T, P]`, actions `[B, T-1, A]`."""

    def encode_goal(self, pixels: Tensor) -> Any:
        """Latent of goal pictures, uint8 `[B, H, W, 3]`."""

    def rollout(self, latent: Any, actions: Tensor) -> Any:
        """Latents after each of `actions [B, S, H, A]`, over `[B, S, H, ...]`."""

    def distance(self, latent: Any, goal: Any) -> Tensor:
        """Distance `[B, S, H]` of rolled-out latents `[B, S, H, ...]` to goals `[B, ...]`."""

    def distance_now(self, latent: Any, goal: Any) -> Tensor:
        """Distance `[B]` of the last frame of each history, as `encode` returned it, to its goal; same scale as
        `distance`."""

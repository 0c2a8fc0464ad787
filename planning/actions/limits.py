"""Limits of actions: bounds, the largest change from one command to the next, and rest.

Shapes: `B` robots, `S` sampled sequences, `H` control steps, `A` action dimensions. Actions are in physical units.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Self

import torch
from torch import Tensor

from worldmodel.core.errors import UserError, choices_message
from worldmodel.core.spec import BINARY, HOLD, ZERO, ActionSpec

# An addition in single precision is off by at most this share of its result.
_ROUNDING = 2.0**-23


@dataclasses.dataclass(frozen=True)
class ActionLimits:
    """Bounds, binary dimensions, limits on changes and the rule of rest, `[A]` each, on one device.

    Attributes:
        low: smallest action, in single precision and not below the specification's bound in double precision.
        high: largest action, in single precision and not above the specification's bound.
        rest_value: the command of rest, in dimensions where rest does not hold the last command.
        holds: dimensions where rest is the last command.
        binary: dimensions where only `low` and `high` themselves can be commanded.
        largest_change: largest change from one command to the next, per control step. Infinite without a limit.
        names: of the dimensions.
    """

    low: Tensor
    high: Tensor
    rest_value: Tensor
    holds: Tensor
    binary: Tensor
    largest_change: Tensor
    names: tuple[str, ...] = ()
    # Kept as plain values, because every evaluation needs them, and reading tensors would wait for the GPU.
    any_binary: bool = False
    any_rate: bool = False

    @classmethod
    def of(cls, action: ActionSpec, control_step_s: float, device: torch.device | str = "cpu") -> Self:
        """The limits of an action's specification, for control steps of `control_step_s` [s].

        Raises:
            UserError: for a binary dimension whose limit on changes would never let it switch.
        """
        low, high = (torch.from_numpy(values.copy()) for values in action.bounds)
        change = [math.inf if rate is None else rate * control_step_s for rate in action.max_rate]
        largest = [
            # A binary dimension that may switch at all may do so at once.
            math.inf if kind == BINARY else _rounded_down(most, *ends)
            for kind, most, *ends in zip(action.kinds, change, action.low, action.high, strict=True)
        ]
        for name, kind, most, span in zip(action.names, action.kinds, change, (high - low).tolist(), strict=True):
            if kind == BINARY and most < span:
                raise UserError(
                    f"action {name} is binary and switches by {span:g}, but its max_rate allows {most:g} per control "
                    "step: expected no max_rate, or one that lets it switch"
                )
        value = torch.tensor([0.0 if rest in (ZERO, HOLD) else float(rest) for rest in action.rest])
        return cls(
            low.to(device),
            high.to(device),
            torch.minimum(torch.maximum(value, low), high).to(device),
            torch.tensor([rest == HOLD for rest in action.rest], device=device),
            torch.tensor([kind == BINARY for kind in action.kinds], device=device),
            torch.tensor(largest, device=device),
            names=action.names,
            any_binary=BINARY in action.kinds,
            any_rate=any(math.isfinite(most) for most in largest),
        )

    def switching(self, names: Sequence[str]) -> Self:
        """These limits, with the dimensions `names` as binary ones whose rest is to hold the last command.

        Raises:
            UserError: for a name that no dimension has.
        """
        for name in names:
            if name not in self.names:
                raise UserError(choices_message("action to switch", name, self.names))
        if not names:
            return self
        chosen = torch.tensor([name in names for name in self.names], device=self.low.device)
        return dataclasses.replace(self, binary=self.binary | chosen, holds=self.holds | chosen, any_binary=True)

    @property
    def size(self) -> int:
        """Number of dimensions, A."""
        return self.low.shape[0]

    @property
    def span(self) -> Tensor:
        """Difference between the largest and the smallest action, `[A]`."""
        return self.high - self.low

    def clip(self, actions: Tensor) -> Tensor:
        """`actions [..., A]` moved to the nearest point within bounds. NaN stays NaN, and the caller must handle it."""
        return torch.minimum(torch.maximum(actions, self.low), self.high)

    def rest(self, last: Tensor) -> Tensor:
        """The command of rest `[..., A]` after the command `last [..., A]`."""
        return self.clip(torch.where(self.holds, last, self.rest_value))

    def project(self, actions: Tensor, last: Tensor) -> Tensor:
        """Commands near `actions [B, (S,) H, A]`, of the same shape, that satisfy all limits.

        They lie within bounds, binary dimensions have one of their two values, and no change is larger than allowed.
        The first change is the one from `last [B, A]`, which is clipped to the bounds before. Actions that satisfy all
        limits are returned unchanged. NaN stays NaN.
        """
        allowed = self.clip(actions)
        if self.any_binary:
            middle = (self.low + self.high) / 2
            switched = torch.where(allowed >= middle, self.high, self.low)
            allowed = torch.where(self.binary & ~allowed.isnan(), switched, allowed)
        if not self.any_rate:
            return allowed
        before = self.clip(last) if actions.ndim == last.ndim + 1 else self.clip(last)[:, None]
        commands = []
        for wanted in allowed.unbind(-2):
            # The command before and the wanted one lie within bounds, so any command between them does too.
            before = torch.maximum(torch.minimum(wanted, before + self.largest_change), before - self.largest_change)
            commands.append(before)
        return torch.stack(commands, dim=-2)


def _rounded_down(change: float, low: float, high: float) -> float:
    """A slightly smaller limit on changes, so that `change` holds exactly despite sums in single precision."""
    if math.isinf(change):
        return change
    return max(change - _ROUNDING * (max(abs(low), abs(high)) + change), 0.0)

"""Limits of actions: bounds, the largest change from one command to the next, and rest.

Shapes: `B` robots, `S` sampled sequences, `H` control steps, `A` action dimensions. Physical units.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Self

import torch
from torch import Tensor

from worldmodel.core.errors import UserError
from worldmodel.core.spec import BINARY, HOLD, ZERO, ActionSpec

# An addition in single precision is off by at most this share of its result.
_ROUNDING = 2.0**-23


@dataclasses.dataclass(frozen=True)
class ActionLimits:
    """Bounds, binary dimensions, limits on changes and the rule of rest, `[A]` each, on one device.

    Attributes:
        low: smallest action. In single precision, and not below what the specification says in double.
        high: largest action, likewise.
        rest_value: the command under which the robot stays as it is, in dimensions that do not hold.
        holds: where rest is the last command.
        binary: where only `low` and `high` themselves can be commanded.
        largest_change: from one command to the next, per control step; infinite where there is no limit.
    """

    low: Tensor
    high: Tensor
    rest_value: Tensor
    holds: Tensor
    binary: Tensor
    largest_change: Tensor
    # Asked in every evaluation: on a GPU, reading them from the tensors would wait for it.
    any_binary: bool = False
    any_rate: bool = False

    @classmethod
    def of(cls, action: ActionSpec, control_step_s: float, device: torch.device | str = "cpu") -> Self:
        """Of what a robot can be told to do, once per control step of `control_step_s` [s].

        Raises:
            UserError: for a binary dimension whose limit would never let it switch.
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
            any_binary=BINARY in action.kinds,
            any_rate=any(math.isfinite(most) for most in largest),
        )

    @property
    def size(self) -> int:
        """Number of dimensions, A."""
        return self.low.shape[0]

    @property
    def span(self) -> Tensor:
        """From the smallest to the largest action, `[A]`."""
        return self.high - self.low

    def clip(self, actions: Tensor) -> Tensor:
        """`actions [..., A]` moved to the nearest point within bounds. NaN stays NaN: who made it must answer."""
        return torch.minimum(torch.maximum(actions, self.low), self.high)

    def rest(self, last: Tensor) -> Tensor:
        """The command `[..., A]` under which a robot stays as it is, after the command `last [..., A]`."""
        return self.clip(torch.where(self.holds, last, self.rest_value))

    def project(self, actions: Tensor, last: Tensor) -> Tensor:
        """Commands that may be given one after the other, near `actions [B, (S,) H, A]`; of the same shape.

        Within bounds, binary dimensions at one of their two values, and no change larger than allowed, beginning with
        the one from `last [B, A]` (which counts as if it lay within bounds itself). What is allowed already comes back
        as it is. NaN stays NaN.
        """
        allowed = self.clip(actions)
        if self.any_binary:
            middle = (self.low + self.high) / 2
            switched = torch.where(allowed > middle, self.high, self.low)
            allowed = torch.where(self.binary & ~allowed.isnan(), switched, allowed)
        if not self.any_rate:
            return allowed
        before = self.clip(last) if actions.ndim == last.ndim + 1 else self.clip(last)[:, None]
        commands = []
        for wanted in allowed.unbind(-2):
            # The one before lies within bounds: so does all that lies between it and what is wanted.
            before = torch.maximum(torch.minimum(wanted, before + self.largest_change), before - self.largest_change)
            commands.append(before)
        return torch.stack(commands, dim=-2)


def _rounded_down(change: float, low: float, high: float) -> float:
    """A limit on changes that holds exactly although commands are added up in single precision."""
    if math.isinf(change):
        return change
    return max(change - _ROUNDING * (max(abs(low), abs(high)) + change), 0.0)

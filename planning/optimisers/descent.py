"""Steps of gradient descent on knots, by the rule of Adam (Kingma and Ba 2014, arXiv 1412.6980).

Shapes: `B` plans, `S` candidates of each, `K` knots, `A` action dimensions.
"""

from __future__ import annotations

import dataclasses
from typing import Final, Self

import torch
from torch import Tensor

from planning.actions.limits import ActionLimits

# Of the paper, but for the second one. Its 0.999 averages over a thousand steps, and a plan has a dozen.
_KEEP_FIRST: Final = 0.9
_KEEP_SECOND: Final = 0.99
# Slopes below it count as zero. It is small, since the unit of the cost is unknown.
_SMALLEST_SLOPE: Final = 1e-12


@dataclasses.dataclass(frozen=True)
class Descent:
    """Running means of the slope and of its square, `[B, S, K, A]` each, after `count` steps.

    Slopes are taken in half action ranges, so that one learning rate suits radians and metres.
    """

    first: Tensor
    second: Tensor
    count: int

    @classmethod
    def begin(cls, knots: Tensor) -> Self:
        """Before the first step from `knots [B, S, K, A]`."""
        return cls(torch.zeros_like(knots), torch.zeros_like(knots), 0)

    def step(self, knots: Tensor, slope: Tensor, rate: float, limits: ActionLimits) -> tuple[Tensor, Descent]:
        """The next knots within bounds, and the next means.

        Args:
            knots: `[B, S, K, A]`.
            slope: the gradient of the cost there, in physical units.
            rate: length of a step, in half action ranges.
            limits: bounds of the actions.
        """
        unit = limits.span / 2
        slope = slope * unit
        count = self.count + 1
        first = _KEEP_FIRST * self.first + (1 - _KEEP_FIRST) * slope
        second = _KEEP_SECOND * self.second + (1 - _KEEP_SECOND) * slope.square()
        mean, square = first / (1 - _KEEP_FIRST**count), second / (1 - _KEEP_SECOND**count)
        moved = knots - rate * unit * mean / (square.sqrt() + _SMALLEST_SLOPE)
        return limits.clip(moved), Descent(first, second, count)

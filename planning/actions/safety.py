"""The last gate before an environment or a robot."""

from __future__ import annotations

import torch
from torch import Tensor

from planning.types import Bounds
from worldmodel.core.errors import UserError


def safe_actions(actions: Tensor, bounds: Bounds) -> tuple[Tensor, Tensor]:
    """Actions `[B, A]` that may be executed, and which rows `[B]` had to be replaced.

    A row with a number that is not finite becomes the allowed action nearest to zero. That is tested before clipping:
    clipping a NaN can give a bound, which is the fastest motion there is.
    """
    replaced = ~actions.isfinite().all(-1)
    return bounds.clip(torch.where(replaced[:, None], torch.zeros_like(actions), actions)), replaced


def require_finite(values: Tensor, what: str) -> None:
    """Raises UserError where a reading `[B, ...]` is not finite, naming the row."""
    broken = (~values.isfinite()).flatten(1).any(1).nonzero()
    if len(broken):
        row = int(broken[0])
        raise UserError(f"{what} of environment {row} is {values[row].tolist()}: finite numbers are accepted")


def finite_or_worst(cost: Tensor) -> Tensor:
    """`cost` with everything that is not finite as +inf. Minus infinity is a broken model, not a perfect plan."""
    return torch.where(cost.isfinite(), cost, torch.inf)

"""The final check of actions before an environment or a robot executes them."""

from __future__ import annotations

import torch
from torch import Tensor

from planning.actions.limits import ActionLimits


def safe_actions(actions: Tensor, limits: ActionLimits, last: Tensor) -> tuple[Tensor, Tensor]:
    """Actions `[B, A]` that may be executed after the command `last [B, A]`, and which rows `[B]` had to be replaced.

    A row with a number that is not finite becomes rest. That is tested before clipping: clipping a NaN can give a
    bound, which is the fastest motion there is.
    """
    replaced = ~actions.isfinite().all(-1)
    wanted = torch.where(replaced[:, None], limits.rest(last), actions)
    return limits.project(wanted[:, None], last)[:, 0], replaced


def finite_or_worst(cost: Tensor) -> Tensor:
    """`cost` with everything that is not finite as +inf. Minus infinity is a broken model, not a perfect plan."""
    return torch.where(cost.isfinite(), cost, torch.inf)

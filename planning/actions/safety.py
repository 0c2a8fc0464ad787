"""The final check of actions before an environment or a robot executes them."""

from __future__ import annotations

import torch
from torch import Tensor

from planning.actions.limits import ActionLimits


def safe_actions(actions: Tensor, limits: ActionLimits, last: Tensor) -> tuple[Tensor, Tensor]:
    """Actions `[B, A]` that may be executed after the command `last [B, A]`, and whether each row `[B]` was replaced.

    A row with a number that is not finite is replaced by rest. This is tested before clipping, because clipping a NaN
    can give a bound, which is the fastest motion.
    """
    replaced = ~actions.isfinite().all(-1)
    wanted = torch.where(replaced[:, None], limits.rest(last), actions)
    return limits.project(wanted[:, None], last)[:, 0], replaced


def finite_or_worst(cost: Tensor) -> Tensor:
    """`cost` with +inf for all values that are not finite. Minus infinity means a broken model, not a perfect plan."""
    return torch.where(cost.isfinite(), cost, torch.inf)

"""Action sequences `[..., H, A]`, their shift in time, and knots that are held for several control steps."""

from __future__ import annotations

import torch
from torch import Tensor

from planning.actions.limits import ActionLimits


def shift(actions: Tensor, steps: int, limits: ActionLimits) -> Tensor:
    """The remaining `actions [B, H, A]` after `steps` control steps. The end is filled with rest.

    The last action is not repeated, because a plan seldom means it to continue, and an optimiser improves most easily
    on a resting tail. In dimensions where rest holds the last command, rest is the last action.
    """
    steps = min(steps, actions.shape[1])
    idle = limits.rest(actions[:, -1:]).expand(-1, steps, -1)
    return torch.cat([actions[:, steps:], idle], dim=1)


def knot_lengths(action_repeat: int, horizon: int, elapsed: int) -> list[int]:
    """Lengths of the knots in the next `horizon` control steps. A knot begins at every multiple of `action_repeat`."""
    first = min(action_repeat - elapsed % action_repeat, horizon)
    whole, rest = divmod(horizon - first, action_repeat)
    return [first] + [action_repeat] * whole + ([rest] if rest else [])


def to_knots(actions: Tensor, action_repeat: int, elapsed: int = 0) -> Tensor:
    """Mean over each knot's control steps: `[..., H, A] -> [..., K, A]`."""
    lengths = knot_lengths(action_repeat, actions.shape[-2], elapsed)
    return torch.stack([chunk.mean(-2) for chunk in torch.split(actions, lengths, dim=-2)], dim=-2)


def from_knots(knots: Tensor, action_repeat: int, horizon: int, elapsed: int = 0) -> Tensor:
    """Every knot held for its control steps: `[..., K, A] -> [..., H, A]`."""
    lengths = torch.tensor(knot_lengths(action_repeat, horizon, elapsed), device=knots.device)
    return knots.repeat_interleave(lengths, dim=-2, output_size=horizon)

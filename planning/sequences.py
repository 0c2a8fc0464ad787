"""Action sequences `[..., H, A]`: shifting them in time, and knots that are held for several control steps."""

from __future__ import annotations

import torch
from torch import Tensor

from planning.types import Bounds


def shift(actions: Tensor, steps: int, bounds: Bounds) -> Tensor:
    """`actions [B, H, A]` as they look `steps` later. The end is filled with the allowed action nearest to zero.

    Zero, and not the last action again: a plan seldom means its last action to go on, and an idle tail is what the
    next plan finds easiest to improve on.
    """
    steps = min(steps, actions.shape[1])
    idle = bounds.clip(torch.zeros_like(actions[:, :steps]))
    return torch.cat([actions[:, steps:], idle], dim=1)


def to_knots(actions: Tensor, block: int) -> Tensor:
    """Mean over each run of `block` control steps: `[..., H, A] -> [..., ceil(H / block), A]`."""
    return torch.stack([chunk.mean(-2) for chunk in torch.split(actions, block, dim=-2)], dim=-2)


def from_knots(knots: Tensor, block: int, horizon: int) -> Tensor:
    """Every knot held for `block` control steps: `[..., K, A] -> [..., H, A]`."""
    return knots.repeat_interleave(block, dim=-2)[..., :horizon, :]

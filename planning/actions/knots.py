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


def knot_lengths(block: int, horizon: int, elapsed: int) -> list[int]:
    """Control steps of each knot in the next `horizon` ones, where a knot begins at every multiple of `block` steps."""
    first = min(block - elapsed % block, horizon)
    whole, rest = divmod(horizon - first, block)
    return [first] + [block] * whole + ([rest] if rest else [])


def to_knots(actions: Tensor, block: int, elapsed: int = 0) -> Tensor:
    """Mean over each knot's control steps: `[..., H, A] -> [..., K, A]`."""
    lengths = knot_lengths(block, actions.shape[-2], elapsed)
    return torch.stack([chunk.mean(-2) for chunk in torch.split(actions, lengths, dim=-2)], dim=-2)


def from_knots(knots: Tensor, block: int, horizon: int, elapsed: int = 0) -> Tensor:
    """Every knot held for its control steps: `[..., K, A] -> [..., H, A]`."""
    lengths = torch.tensor(knot_lengths(block, horizon, elapsed), device=knots.device)
    return knots.repeat_interleave(lengths, dim=-2, output_size=horizon)

"""Figures on held-out sequences that all families report, so that families can be compared.

Shapes: `B` sequences, `R` rivals of each, `H` control steps ahead, `A` action dimensions.
"""

from __future__ import annotations

import torch
from torch import Tensor

_RIVALS = 16


def error_report(errors: Tensor, copies: Tensor) -> dict[str, float]:
    """Mean error, and by step over that of "nothing changes".

    Args:
        errors: distances `[B, H]` of imagined moments to the real ones.
        copies: distances `[B, H]` of the last moment that was seen to the real ones.
    """
    error, copy = errors.mean(0), copies.mean(0)
    by_step = {f"error_over_copy_{h + 1:02d}": float(error[h] / copy[h]) for h in range(len(error))}
    return {"held_out_error": float(error.mean()), **by_step}


def with_rivals(actions: Tensor, generator: torch.Generator) -> Tensor:
    """`actions [B, H, A]`, and after each those of R other sequences: `[B, 1 + R, H, A]`.

    As plausible as the true ones, but for another situation.
    """
    number = len(actions)
    others = torch.randint(1, max(number, 2), (number, _RIVALS), generator=generator)  # never the sequence itself
    rivals = ((torch.arange(number)[:, None] + others) % number).to(actions.device)
    return torch.cat([actions[:, None], actions[rivals]], dim=1)


def share_won(to_goal: Tensor) -> Tensor:
    """How often `[B]` the true actions lead nearer to where they really led than a rival's do.

    0.5 is chance, 1 is perfect. Sequences in which nothing moves are ties for everybody and count as chance.

    Args:
        to_goal: distances `[B, 1 + R]` of where actions are imagined to lead, the true ones first.
    """
    true, rivals = to_goal[:, :1], to_goal[:, 1:]
    return ((true < rivals).float() + 0.5 * (true == rivals).float()).mean(1)

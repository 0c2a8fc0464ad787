"""Metrics on held-out sequences that all families report, so that families can be compared.

Shapes: `B` sequences, `R` rivals (action sequences of other situations) of each, `H` control steps ahead, `A` action
dimensions.
"""

from __future__ import annotations

import torch
from torch import Tensor

_RIVALS = 16


def error_report(errors: Tensor, copies: Tensor) -> dict[str, float]:
    """Mean error, and its ratio by step to the error of the prediction "nothing changes".

    Args:
        errors: distances `[B, H]` of imagined frames to the real ones.
        copies: distances `[B, H]` of the last observed frame to the real ones.
    """
    error, copy = errors.mean(0), copies.mean(0)
    by_step = {f"error_over_copy_{h + 1:02d}": float(error[h] / copy[h]) for h in range(len(error))}
    return {"held_out_error": float(error.mean()), **by_step}


def with_rivals(actions: Tensor, generator: torch.Generator) -> Tensor:
    """Action sequences `[B, 1 + R, H, A]`: each of `actions [B, H, A]`, followed by those of R other sequences.

    The rivals are as plausible as the true actions, but were taken in another situation.
    """
    number = len(actions)
    others = torch.randint(1, max(number, 2), (number, _RIVALS), generator=generator)  # never the sequence itself
    rivals = ((torch.arange(number)[:, None] + others) % number).to(actions.device)
    return torch.cat([actions[:, None], actions[rivals]], dim=1)


def share_won(to_goal: Tensor) -> Tensor:
    """Share `[B]` of rivals whose imagined end is farther from the recorded end than that of the true actions.

    0.5 is chance, 1 is perfect. Sequences in which nothing moves are ties and count as chance.

    Args:
        to_goal: distances `[B, 1 + R]` of the imagined ends to the recorded end, the true actions first.
    """
    true, rivals = to_goal[:, :1], to_goal[:, 1:]
    return ((true < rivals).float() + 0.5 * (true == rivals).float()).mean(1)

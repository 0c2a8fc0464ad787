"""Converts the patches of all cameras to the tokens of a frame, and measures the distance between two frames.

Shapes: `N` patches of one camera, `C` channels of each, `p` the side of a pool; `N'` tokens of a frame over all
cameras, `C' = p² C`.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from einops import rearrange
from torch import Tensor


def fold(patches: Tensor, rows: int, columns: int, pool: int) -> Tensor:
    """Every `pool x pool` patches `[..., N, C]` of a camera become one token of all their channels `[..., N', C']`.

    Nothing is lost, and attention is over `pool²` times fewer tokens.
    """
    return rearrange(
        patches,
        "... (y p x q) c -> ... (y x) (p q c)",
        y=rows // pool,
        x=columns // pool,
        p=pool,
        q=pool,
    )


def join_cameras(
    patches: Sequence[Tensor], scales: Sequence[Tensor], grids: Sequence[tuple[int, int]], pool: int
) -> Tensor:
    """`[..., N', C']` from one `[..., N, C]` per camera, each with `scales [C]`, rows and columns of its own."""
    folded = [
        fold(of_one * scale, rows, columns, pool)
        for of_one, scale, (rows, columns) in zip(patches, scales, grids, strict=True)
    ]
    return torch.cat(folded, dim=-2)


def channel_scale(std: Tensor, whiten: bool) -> Tensor:
    """What compressed channels, of unit variance each, are multiplied by: `[C]` from their spreads `std [C]`.

    Without `whiten`, they vary as much as they did in the features, the most varying one by 1. Leading components
    change slowly as things move. Fine ones change as much within one control step as ever after: with all of them
    alike, most of an absolute error is of what can hardly be predicted, and most of a distance says nothing of how far.
    """
    return torch.ones_like(std) if whiten else std / std.max()


def token_distance(tokens: Tensor, goal: Tensor, weight: Tensor) -> Tensor:
    """`mean_n w_n mean_c |token_n,c - goal_n,c|`: `[...]` of tokens `[..., N', C']`, shapes broadcast.

    V-JEPA 2-AC's energy. `weight [N']` is 1 for all, or larger where more changes in the recording; its mean is 1.
    """
    return ((tokens - goal).abs().mean(-1) * weight).mean(-1)

"""Converts the patches of all cameras to the tokens of a frame, and measures the distance between two frames.

Shapes: `N` patches of one camera, `C` channels of each, `p` the side of a pool, `N'` tokens of a frame over all
cameras, `C' = p² C`.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from einops import rearrange
from torch import Tensor


def fold(patches: Tensor, rows: int, columns: int, pool: int) -> Tensor:
    """Join each square of `pool x pool` patches `[..., N, C]` to one token `[..., N', C']` with all their channels.

    No information is lost, and attention is over `pool²` times fewer tokens.
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
    """Tokens `[..., N', C']` from the patches `[..., N, C]` of every camera.

    `scales` and `grids` give each camera's channel scales `[C]`, and its rows and columns.
    """
    folded = [
        fold(of_one * scale, rows, columns, pool)
        for of_one, scale, (rows, columns) in zip(patches, scales, grids, strict=True)
    ]
    return torch.cat(folded, dim=-2)


def channel_scale(std: Tensor, whiten: bool) -> Tensor:
    """Factors `[C]` for compressed channels of unit variance, from their spreads `std [C]` in the features.

    Without `whiten`, channels vary in proportion to their spread in the features, and the largest factor is 1. Leading
    components change slowly as objects move. Fine components change as much within one control step as they ever do.
    If all channels counted the same, the fine ones would dominate the error, although they can hardly be predicted, and
    the distance, although they do not tell how far a goal is.
    """
    return torch.ones_like(std) if whiten else std / std.max()


def token_distance(tokens: Tensor, goal: Tensor, weight: Tensor) -> Tensor:
    """Distance `mean_n w_n mean_c |token_n,c - goal_n,c|`, `[...]`, between tokens `[..., N', C']`. Shapes broadcast.

    It is V-JEPA 2-AC's energy. `weight [N']` is 1 for all tokens, or larger for tokens that change more in the
    recording. Its mean is 1.
    """
    return ((tokens - goal).abs().mean(-1) * weight).mean(-1)

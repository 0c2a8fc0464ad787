"""From the patches of all cameras to the tokens of a frame, and how far two frames are apart.

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


def join_cameras(patches: Sequence[Tensor], grids: Sequence[tuple[int, int]], pool: int) -> Tensor:
    """`[..., N', C']` from one `[..., N, C]` per camera, each with rows and columns of its own."""
    folded = [fold(of_one, rows, columns, pool) for of_one, (rows, columns) in zip(patches, grids, strict=True)]
    return torch.cat(folded, dim=-2)


def token_distance(tokens: Tensor, goal: Tensor, weight: Tensor) -> Tensor:
    """`mean_n w_n mean_c |token_n,c - goal_n,c|`: `[...]` of tokens `[..., N', C']`, shapes broadcast.

    V-JEPA 2-AC's energy. `weight [N']` is 1 for all, or larger where more changes in the recording; its mean is 1.
    """
    return ((tokens - goal).abs().mean(-1) * weight).mean(-1)

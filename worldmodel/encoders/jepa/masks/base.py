"""The mask of a batch, and the type of the functions that draw one.

Shapes: `B` clips, `N` tokens of a clip in (t, y, x) order, `K` visible and `M` hidden tokens. `K + M = N`, except for
`OfficialMultiBlock`, which leaves a few tokens out of both.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from worldmodel.core.errors import UserError
from worldmodel.encoders.base import Grid


@dataclasses.dataclass(frozen=True)
class Mask:
    """Ascending token numbers, `visible [B, K]` for the context encoder and `hidden [B, M]` to be predicted."""

    visible: Tensor
    hidden: Tensor

    def to(self, device: torch.device) -> Mask:
        """The same mask on another device."""
        return Mask(self.visible.to(device), self.hidden.to(device))

    def rows(self, rows: slice) -> Mask:
        """The mask of some of the clips."""
        return Mask(self.visible[rows], self.hidden[rows])


# `(batch, frames, grid, rng) -> Mask`: a mask for each of `batch` clips with `frames` tubelet layers of `grid` tokens.
# Every kind of mask is a frozen dataclass of its options, whose instances are functions of this type. All randomness
# comes from `rng`, so (seed, step) decides. A function raises UserError for a clip in which it cannot hide and keep
# at least one token.
MaskFn = Callable[[int, int, Grid, np.random.Generator], Mask]


def divided(hidden: NDArray[np.bool_]) -> Mask:
    """The mask in which every token is either hidden or visible.

    Args:
        hidden: bool `[B, N]`, with as many hidden tokens in every clip.
    """
    visible, masked = (torch.from_numpy(np.stack([np.flatnonzero(row) for row in rows])) for rows in (~hidden, hidden))
    return Mask(visible, masked)


def hidden_count(total: int, ratio: float) -> int:
    """Number of `total` tokens or frames to hide, so that at least one is hidden and one visible.

    The visible ones are rounded down, as in V-JEPA's code.
    """
    return total - min(max(int(total * (1.0 - ratio)), 1), total - 1)


def require_ratio(**ratios: float) -> None:
    """Raises ValueError for a share that is not strictly between 0 and 1."""
    for name, ratio in ratios.items():
        if not 0 < ratio < 1:
            raise ValueError(f"{name} {ratio}: expected a share between 0 and 1")


def require_several(what: str, count: int) -> None:
    """Raises UserError where `count` tokens or frames cannot be divided into hidden and visible ones."""
    if count < 2:
        raise UserError(f"the clip has {count} {what}, which cannot be divided by a mask: expected at least 2")

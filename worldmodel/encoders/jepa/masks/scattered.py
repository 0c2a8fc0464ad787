"""Masks of scattered tokens: tubes (VideoMAE, arXiv 2203.12602) and single tokens (MAE, arXiv 2111.06377).

Shapes as in `worldmodel.encoders.jepa.masks.base`.
"""

from __future__ import annotations

import dataclasses

import numpy as np
from numpy.typing import NDArray

from worldmodel.encoders.base import Grid
from worldmodel.encoders.jepa.masks.base import Mask, divided, hidden_count, require_ratio, require_several


def scatter(batch: int, total: int, hidden: int, rng: np.random.Generator) -> NDArray[np.bool_]:
    """`hidden` of `total` places at random for each of `batch` clips, bool `[B, total]`."""
    return np.stack([rng.permutation(total) < hidden for _ in range(batch)])


@dataclasses.dataclass(frozen=True)
class Tube:
    """Scattered positions of a frame, hidden in all frames.

    Attributes:
        ratio: share of the positions that is hidden.
    """

    ratio: float = 0.9

    def __post_init__(self) -> None:
        require_ratio(ratio=self.ratio)

    def __call__(self, batch: int, frames: int, grid: Grid, rng: np.random.Generator) -> Mask:
        """A mask for each of `batch` clips with `frames` tubelet layers of `grid` tokens."""
        require_several("tokens in a frame", grid.tokens)
        spatial = scatter(batch, grid.tokens, hidden_count(grid.tokens, self.ratio), rng)
        return divided(np.tile(spatial, (1, frames)))


@dataclasses.dataclass(frozen=True)
class RandomTokens:
    """Scattered tokens of a clip.

    Attributes:
        ratio: share of the tokens that is hidden.
    """

    ratio: float = 0.9

    def __post_init__(self) -> None:
        require_ratio(ratio=self.ratio)

    def __call__(self, batch: int, frames: int, grid: Grid, rng: np.random.Generator) -> Mask:
        """A mask for each of `batch` clips with `frames` tubelet layers of `grid` tokens."""
        total = frames * grid.tokens
        require_several("tokens", total)
        return divided(scatter(batch, total, hidden_count(total, self.ratio), rng))

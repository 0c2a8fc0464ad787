"""Multi-block masks: the union of rectangles, the same in every frame (V-JEPA, arXiv 2404.08471, section 3.2).

Shapes as in `worldmodel.encoders.jepa.masks.base`.
"""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import torch
from numpy.typing import NDArray

from worldmodel.core.errors import UserError
from worldmodel.encoders.base import Grid
from worldmodel.encoders.jepa.masks.base import Mask, divided, require_several

# A grid on which this many draws leave nothing visible is too small for the blocks.
_MOST_DRAWS = 1000


@dataclasses.dataclass(frozen=True)
class _Blocks:
    """Options of both kinds.

    Attributes:
        blocks: number of rectangles.
        spatial_scale: area of each rectangle as a fraction of the frame.
        aspect_ratio: smallest and largest ratio of height to width.
    """

    blocks: int = 8
    spatial_scale: float = 0.15
    aspect_ratio: tuple[float, ...] = (0.75, 1.5)

    def __post_init__(self) -> None:
        if self.blocks < 1 or not 0 < self.spatial_scale < 1:
            raise ValueError(f"a mask needs blocks >= 1 and 0 < spatial_scale < 1, got {self}")
        if len(self.aspect_ratio) != 2 or not 0 < self.aspect_ratio[0] <= self.aspect_ratio[1] < math.inf:
            raise ValueError(f"aspect_ratio {self.aspect_ratio}: expected the smallest and the largest, above 0")


@dataclasses.dataclass(frozen=True)
class MultiBlock(_Blocks):
    """Rectangles of different sizes, which divide all tokens into visible and hidden ones.

    Size, aspect ratio (log-uniform) and place are drawn for each rectangle. All clips of a batch need the same number
    of visible tokens. It is the smallest number among them. The other clips hide their surplus tokens at random, at the
    same position in all frames, and these tokens are predicted too.
    """

    def __call__(self, batch: int, frames: int, grid: Grid, rng: np.random.Generator) -> Mask:
        """A mask for each of `batch` clips with `frames` tubelet layers of `grid` tokens."""
        require_several("tokens in a frame", grid.tokens)
        spatial = np.stack([self._draw_spatial_mask(grid, rng).reshape(-1) for _ in range(batch)])
        num_visible = int((~spatial).sum(1).min())
        for mask in spatial:
            surplus = rng.permutation(np.flatnonzero(~mask))[num_visible:]
            mask[surplus] = True
        return divided(np.tile(spatial, (1, frames)))  # the same spatial mask over time

    def _draw_rectangle(self, grid: Grid, rng: np.random.Generator) -> tuple[int, int, int, int]:
        """Top, left, height and width of a random rectangle, in tokens."""
        low, high = (math.log(r) for r in self.aspect_ratio)
        ratio = math.exp(rng.uniform(low, high))
        area = self.spatial_scale * grid.tokens
        height = int(np.clip(round(math.sqrt(area * ratio)), 1, grid.rows))
        width = int(np.clip(round(math.sqrt(area / ratio)), 1, grid.columns))
        top, left = (int(rng.integers(room + 1)) for room in (grid.rows - height, grid.columns - width))
        return top, left, height, width

    def _draw_spatial_mask(self, grid: Grid, rng: np.random.Generator) -> NDArray[np.bool_]:
        """Hidden tokens of a frame, bool `[rows, columns]`, with at least one visible and one hidden."""
        hidden = np.zeros(grid, bool)
        for _ in range(self.blocks):
            top, left, height, width = self._draw_rectangle(grid, rng)
            block = hidden.copy()
            block[top : top + height, left : left + width] = True
            if not block.all():  # a block that would hide everything leaves nothing to predict from
                hidden = block
        if not hidden.any():
            hidden[rng.integers(grid.rows), rng.integers(grid.columns)] = True
        return hidden


# The two masks that the small models predict at once. V-JEPA's long-range scale of 0.7 would leave only 2 of 64 tokens
# visible.
SHORT_RANGE = MultiBlock(blocks=8, spatial_scale=0.15)
LONG_RANGE = MultiBlock(blocks=2, spatial_scale=0.5)


@dataclasses.dataclass(frozen=True)
class OfficialMultiBlock(_Blocks):
    """Rectangles as in the code of V-JEPA, V-JEPA 2 and V-JEPA 2.1 (`masks/multiblock3d.py`).

    All rectangles of a batch have one size, whose aspect ratio is uniform. The places are drawn for each clip, again
    where they leave nothing visible. Visible and hidden tokens are each cut to the smallest number in the batch. The
    cut keeps the first tokens in (t, y, x) order, so tokens of the last frames are neither seen nor predicted.
    """

    def __call__(self, batch: int, frames: int, grid: Grid, rng: np.random.Generator) -> Mask:
        """A mask for each of `batch` clips with `frames` tubelet layers of `grid` tokens.

        Raises:
            UserError: for a grid on which the rectangles leave nothing visible.
        """
        low, high = self.aspect_ratio
        ratio, area = low + rng.random() * (high - low), int(grid.tokens * self.spatial_scale)
        height = min(round(math.sqrt(area * ratio)), grid.rows)
        width = min(round(math.sqrt(area / ratio)), grid.columns)
        clips = [np.tile(self._draw_spatial_mask(height, width, grid, rng).reshape(-1), frames) for _ in range(batch)]
        visible, hidden = ([np.flatnonzero(clip == value) for clip in clips] for value in (False, True))
        return Mask(_cut(visible), _cut(hidden))

    def _draw_spatial_mask(self, height: int, width: int, grid: Grid, rng: np.random.Generator) -> NDArray[np.bool_]:
        """Hidden tokens of a frame, bool `[rows, columns]`."""
        for _ in range(_MOST_DRAWS if height and width else 0):
            hidden = np.zeros(grid, bool)
            for _ in range(self.blocks):
                top, left = (int(rng.integers(room + 1)) for room in (grid.rows - height, grid.columns - width))
                hidden[top : top + height, left : left + width] = True
            if not hidden.all():
                return hidden
        raise UserError(
            f"{self.blocks} blocks of {height} x {width} tokens leave no token of a {grid.rows} x {grid.columns} grid "
            "visible, or hide none: expected another spatial_scale, a smaller patch_size, or the kind multiblock"
        )


def _cut(tokens: list[NDArray[np.int64]]) -> torch.Tensor:
    """The first tokens of every clip, as many as the clip with the fewest has, `[B, K]`."""
    count = min(map(len, tokens))
    return torch.from_numpy(np.stack([numbers[:count] for numbers in tokens]))

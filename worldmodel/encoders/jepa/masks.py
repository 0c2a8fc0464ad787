"""Which tokens of a clip are hidden from the context encoder (V-JEPA, arXiv 2404.08471, section 3.2).

Shapes: `B` clips, `N` tokens of a clip in (t, y, x) order, `K` visible and `M` hidden tokens (`K + M = N` for a mask).
"""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import torch
from torch import Tensor

from worldmodel.encoders.base import Grid


@dataclasses.dataclass(frozen=True)
class MaskConfig:
    """One multi-block mask: the union of `blocks` rectangles, the same in every frame.

    Attributes:
        blocks: number of rectangles.
        spatial_scale: area of each rectangle as a fraction of the frame.
        aspect_ratio: smallest and largest ratio of height to width.
    """

    blocks: int
    spatial_scale: float
    aspect_ratio: tuple[float, float] = (0.75, 1.5)

    def __post_init__(self) -> None:
        if self.blocks < 1 or not 0 < self.spatial_scale < 1:
            raise ValueError(f"a mask needs blocks >= 1 and 0 < spatial_scale < 1, got {self}")


# The two masks that V-JEPA predicts at once. V-JEPA's long-range scale of 0.7 would leave only 2 of 64 tokens visible.
SHORT_RANGE = MaskConfig(blocks=8, spatial_scale=0.15)
LONG_RANGE = MaskConfig(blocks=2, spatial_scale=0.5)


@dataclasses.dataclass(frozen=True)
class Mask:
    """Ascending token numbers, `visible [B, K]` for the context encoder and `hidden [B, M]` to be predicted."""

    visible: Tensor
    hidden: Tensor

    def to(self, device: torch.device) -> Mask:
        """The same mask on another device."""
        return Mask(self.visible.to(device), self.hidden.to(device))


def _draw_rectangle(config: MaskConfig, grid: Grid, rng: np.random.Generator) -> tuple[int, int, int, int]:
    """Top, left, height and width of a random rectangle, in tokens."""
    low, high = (math.log(r) for r in config.aspect_ratio)
    ratio = math.exp(rng.uniform(low, high))
    area = config.spatial_scale * grid.tokens
    height = int(np.clip(round(math.sqrt(area * ratio)), 1, grid.rows))
    width = int(np.clip(round(math.sqrt(area / ratio)), 1, grid.columns))
    top, left = (int(rng.integers(room + 1)) for room in (grid.rows - height, grid.columns - width))
    return top, left, height, width


def _draw_spatial_mask(config: MaskConfig, grid: Grid, rng: np.random.Generator) -> np.ndarray:
    """Hidden tokens of a frame, bool `[rows, columns]`, with at least one visible and one hidden."""
    hidden = np.zeros(grid, bool)
    for _ in range(config.blocks):
        top, left, height, width = _draw_rectangle(config, grid, rng)
        block = hidden.copy()
        block[top : top + height, left : left + width] = True
        if not block.all():  # a block that would hide everything leaves nothing to predict from
            hidden = block
    if not hidden.any():
        hidden[rng.integers(grid.rows), rng.integers(grid.columns)] = True
    return hidden


def sample_mask(config: MaskConfig, batch: int, frames: int, grid: Grid, rng: np.random.Generator) -> Mask:
    """A mask for each of `batch` clips with `frames` tubelet layers of `grid` tokens.

    All clips of a batch need the same number of visible tokens. It is the smallest number among them. The other clips
    hide their surplus tokens at random, at the same position in all frames, and these tokens are predicted too.
    """
    masks = [_draw_spatial_mask(config, grid, rng).reshape(-1) for _ in range(batch)]
    num_visible = min(int((~mask).sum()) for mask in masks)
    spatial = np.stack(masks)
    for mask in spatial:
        surplus = rng.permutation(np.flatnonzero(~mask))[num_visible:]
        mask[surplus] = True
    everywhere = np.tile(spatial, (1, frames))  # the same spatial mask over time
    visible = np.stack([np.flatnonzero(~row) for row in everywhere])
    hidden = np.stack([np.flatnonzero(row) for row in everywhere])
    return Mask(torch.from_numpy(visible), torch.from_numpy(hidden))

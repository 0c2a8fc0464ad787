"""Pixels in the place of an encoder: what any encoder, learned or not, has to beat.

Shapes: `B` pictures, `H, W` their height and width, `N` patches of a picture, `D` numbers in each.
"""

from __future__ import annotations

import dataclasses

import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from worldmodel.encoders.base import Encoder, PatchGrid
from worldmodel.encoders.vit import to_unit_range


@dataclasses.dataclass(frozen=True)
class PixelConfig(PatchGrid):
    """Shape of the patches.

    Attributes:
        shrink: every `shrink` x `shrink` pixels become their mean first.
    """

    kind = "pixels"
    shrink: int = 2

    def __post_init__(self) -> None:
        if min(dataclasses.astuple(self)) < 1:
            raise ValueError(f"every size must be at least 1, got {self}")
        if self.patch_size % self.shrink:
            raise ValueError(f"patch_size {self.patch_size} is not a multiple of shrink {self.shrink}")

    @property
    def width(self) -> int:
        """Numbers in a patch, D."""
        return 3 * (self.patch_size // self.shrink) ** 2


class PixelPatches(Encoder):
    """Downsampled pictures, cut into patches. Nothing in here is learned."""

    config: PixelConfig

    def __init__(self, config: PixelConfig) -> None:
        super().__init__()
        self.config = config

    def encode_frames(self, pixels: Tensor) -> Tensor:
        """Pictures, uint8 `[B, H, W, 3]`, → `[B, N, D]`."""
        planes = rearrange(to_unit_range(pixels), "b h w c -> b c h w")
        small = F.avg_pool2d(planes, self.config.shrink)
        side = self.config.patch_size // self.config.shrink
        return rearrange(small, "b c (y p) (x q) -> b (y x) (p q c)", p=side, q=side)


def pixel_patches(grid: PatchGrid) -> PixelPatches:
    """Cut like `grid`."""
    return PixelPatches(PixelConfig(grid.patch_size))

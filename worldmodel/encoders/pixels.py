"""Pixels in place of an encoder, the baseline of all encoders.

Shapes: `B` images, `H, W` their height and width, `N` patches of an image, `D` numbers in each.
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
        shrink: side of the squares of pixels that are averaged first.
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
    """Downsampled images, cut into patches. Nothing is learned."""

    config: PixelConfig

    def __init__(self, config: PixelConfig) -> None:
        super().__init__()
        self.config = config

    def encode_frames(self, pixels: Tensor) -> Tensor:
        """Images, uint8 `[B, H, W, 3]`, → `[B, N, D]`."""
        planes = rearrange(to_unit_range(pixels), "b h w c -> b c h w")
        small = F.avg_pool2d(planes, self.config.shrink)
        side = self.config.patch_size // self.config.shrink
        return rearrange(small, "b c (y p) (x q) -> b (y x) (p q c)", p=side, q=side)


def pixel_patches(grid: PatchGrid) -> PixelPatches:
    """Pixel patches of the patch size of `grid`."""
    return PixelPatches(PixelConfig(grid.patch_size))

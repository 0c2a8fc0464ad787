"""`encoder_from=colours`: mean and spread of the colours of every patch. Nothing is learned."""

import dataclasses

import torch
from einops import rearrange
from torch import Tensor

from worldmodel.encoders.base import Encoder, PatchGrid
from worldmodel.encoders.registry import EncoderKind


@dataclasses.dataclass(frozen=True)
class ColourConfig(PatchGrid):
    """Shape of the patches."""

    kind = "colours"

    @property
    def width(self) -> int:
        return 6  # mean and spread of red, green and blue


class Colours(Encoder):
    """Images, uint8 `[B, H, W, 3]`, to tokens `[B, N, 6]`, row by row."""

    def __init__(self, config: ColourConfig) -> None:
        super().__init__()
        self.config = config

    def encode_frames(self, pixels: Tensor) -> Tensor:
        side = self.config.patch_size
        patches = rearrange(pixels.float() / 255, "b (y p) (x q) c -> b (y x) (p q) c", p=side, q=side)
        return torch.cat([patches.mean(2), patches.std(2)], dim=-1)


KIND = EncoderKind(ColourConfig, Colours, lambda grid: Colours(ColourConfig(grid.patch_size)))

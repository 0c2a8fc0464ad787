"""What every encoder is: pictures are cut into patches, and each becomes a token.

Shapes: `B` pictures, `H, W` their height and width, `N = G^2` tokens of a picture, `D` numbers in each.
"""

from __future__ import annotations

import dataclasses

from torch import Tensor, nn


@dataclasses.dataclass(frozen=True)
class PatchGrid:
    """How pictures are cut into tokens, whatever becomes of them.

    Attributes:
        image_size: height and width of the frames [pixels].
        patch_size: height and width of a token's patch [pixels].
    """

    image_size: int = 64
    patch_size: int = 8

    @property
    def grid(self) -> int:
        """Tokens along one side of a frame, G."""
        return self.image_size // self.patch_size

    @property
    def tokens_per_frame(self) -> int:
        """Tokens of one frame, N."""
        return self.grid**2

    @property
    def width(self) -> int:
        """Numbers in a token, D."""
        raise NotImplementedError(type(self).__name__)

    def _check_grid(self) -> None:
        if self.image_size % self.patch_size:
            fitting = [size for size in range(4, 33) if self.image_size % size == 0]
            others = f"patch_size may be {', '.join(map(str, fitting))}, or " if fitting else ""
            raise ValueError(
                f"image_size {self.image_size} is not a multiple of patch_size {self.patch_size}: "
                f"{others}the pictures of another size"
            )


class Encoder(nn.Module):
    """Pictures → tokens. Its parameters and buffers are all that a checkpoint holds of it, beside its `config`."""

    config: PatchGrid

    def encode_frames(self, pixels: Tensor) -> Tensor:
        """Pictures, uint8 `[B, H, W, 3]`, → `[B, N, D]`, tokens row by row."""
        raise NotImplementedError(type(self).__name__)

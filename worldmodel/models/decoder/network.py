"""Decodes codes to images. A code is the decodable part of a latent (`worldmodel.models.contract.Decodable`).

Every square of `p x p` pixels is decoded by itself. Its input is the whole code, and its offset from a few places that
are predicted from the code, each weighted by a bump around the place. The appearance of an object is therefore learned
once for all places, as in the decoder of the keypoint training.

    places, look = g(code)      near_n = [offset_nk bump_nk, bump_nk, position_n]
    square_n = mean_n + f(near_n, look)

A training step decodes only some squares of each image, most of them where the image differs from the mean image.

Shapes: `B` codes, `D` numbers of a code, `H, W` height and width of a camera's images, `N` squares of an image (rows
times columns), `S` selected squares, `p` side of a square [pixels], `K` places, `h` width.
"""

from __future__ import annotations

import dataclasses
import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from worldmodel.core.spec import CameraSpec
from worldmodel.encoders.base import Grid

_LARGEST_RADIUS, _SMALLEST_RADIUS = 0.4, 0.06  # initial radii of the bumps [half widths of the image]
_OFFSET_SCALE = 3.0  # makes offsets within a bump about as large as the bump itself


@dataclasses.dataclass(frozen=True)
class DecoderConfig:
    """Shape of the decoder of every camera.

    Attributes:
        patch_size: side of a square [pixels], p.
        places: number of places that are predicted from a code, K.
        width: width of the network that decodes a square, h.
        depth: number of residual blocks of this network.
        hidden_width: width of the network that reads a code.
    """

    patch_size: int = 4
    places: int = 16
    width: int = 128
    depth: int = 3
    hidden_width: int = 256

    def __post_init__(self) -> None:
        if min(dataclasses.astuple(self)) < 1:
            raise ValueError(f"every size must be at least 1, got {self}")


class _Block(nn.Module):
    """x + mlp(norm(x)), for every square."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm, self.inward, self.outward = nn.LayerNorm(width), nn.Linear(width, width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """`[B, S, h]` → `[B, S, h]`."""
        return x + self.outward(F.gelu(self.inward(self.norm(x)), approximate="tanh"))


class ImageDecoder(nn.Module):
    """Decoder for the images of one camera. If `patch_size` does not divide a side, a larger image is decoded."""

    mean: Tensor
    positions: Tensor

    def __init__(self, camera: CameraSpec, config: DecoderConfig, code_size: int) -> None:
        super().__init__()
        self.config, self._size = config, (camera.height, camera.width)
        width, hidden = config.width, config.hidden_width
        self.grid = Grid(*(-(-side // config.patch_size) for side in self._size))
        self.read = nn.Sequential(
            nn.Linear(code_size, hidden), nn.GELU(), nn.Linear(hidden, hidden), nn.GELU(), nn.Linear(hidden, hidden)
        )
        self.places = nn.Linear(code_size + hidden, 2 * config.places)
        self.out = nn.Linear(width, 3 * config.patch_size**2)
        with torch.no_grad():
            self.out.weight.zero_()  # the untrained decoder returns the mean image
            self.out.bias.zero_()
            # Untrained places are spread over the image and depend linearly on the code.
            self.places.weight[:, :code_size].normal_(0, 0.5 * code_size**-0.5)
        radii = torch.linspace(math.log(_LARGEST_RADIUS), math.log(_SMALLEST_RADIUS), config.places)
        self.log_radius = nn.Parameter(radii)
        self.near, self.look = nn.Linear(3 * config.places + 2, width), nn.Linear(hidden, 2 * width)
        self.blocks = nn.ModuleList(_Block(width) for _ in range(config.depth))
        self.register_buffer("mean", torch.zeros(3, camera.height, camera.width))
        self.register_buffer("positions", _positions(self.grid), persistent=False)

    def forward(self, codes: Tensor) -> Tensor:
        """Images `[B, 3, H, W]`, approximately from 0 to 1, of codes `[B, D]`."""
        squares = self.squares(codes).transpose(1, 2).unflatten(2, self.grid)
        height, width = self._size
        return self.mean + F.pixel_shuffle(squares, self.config.patch_size)[:, :, :height, :width]

    def squares(self, codes: Tensor, which: Tensor | None = None) -> Tensor:
        """Differences of the squares of an image from the mean image, `[B, N, 3 p²]` or `[B, S, 3 p²]`, as in `cut`.

        Args:
            codes: codes `[B, D]`.
            which: indices of the selected squares, `[B, S]`, or None for all squares.
        """
        positions = self.positions.expand(len(codes), -1, -1) if which is None else self.positions[which]
        hidden = self.read(codes)
        places = self.places(torch.cat([codes, hidden], dim=1)).float().unflatten(1, (-1, 2))
        offset = positions[:, :, None] - places[:, None]  # [B, S, K, 2]
        bump = torch.exp(-offset.pow(2).sum(-1) / (2 * self.log_radius.exp() ** 2))
        near = torch.cat([_OFFSET_SCALE * (offset * bump[..., None]).flatten(2), bump, positions], dim=-1)
        gain, shift = self.look(hidden)[:, None].chunk(2, dim=-1)
        x = F.gelu(self.near(near) * (1 + gain) + shift, approximate="tanh")
        for block in self.blocks:
            x = block(x)
        return self.out(x).float()

    def cut(self, images: Tensor) -> Tensor:
        """Differences of images `[B, 3, H, W]` from the mean image, cut into squares `[B, N, 3 p²]`."""
        size, (height, width) = self.config.patch_size, self._size
        padded = F.pad(images - self.mean, (0, -width % size, 0, -height % size))
        return F.pixel_unshuffle(padded, size).flatten(2).transpose(1, 2)


def _positions(grid: Grid) -> Tensor:
    """Centres `[N, 2]` (row, column) of the squares, from -1 to 1 from edge to edge."""
    rows, columns = ((torch.arange(count) + 0.5) * 2 / count - 1 for count in grid)
    return torch.stack(torch.meshgrid(rows, columns, indexing="ij"), dim=-1).flatten(0, 1)

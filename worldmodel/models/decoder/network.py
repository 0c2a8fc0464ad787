"""Codes → images. A code is what a family says can be seen of a latent (`worldmodel.models.contract.Decodable`).

Every square of `p x p` pixels is decoded by itself. It sees the whole code, and how far it is from a few places that
are read from the code, through a bump around each. What a thing looks like is thereby learned once for all places, as
in the decoder of the keypoints. A plain stack of transposed convolutions has to draw every place anew, and blurs.

    places, look = g(code)      near_n = [offset_nk bump_nk, bump_nk, position_n]
    square_n = mean_n + f(near_n, look)

It is trained on some squares of each image only, most of them where something is to be seen.

Shapes: `...` leading dimensions, `B` codes, `D` numbers of a code, `H, W` height and width of a camera's images, `N`
squares of a image (rows times columns), `S` of them, `p` their side [pixels], `K` places, `h` width.
"""

from __future__ import annotations

import dataclasses
import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from worldmodel.core.spec import CameraSpec
from worldmodel.encoders.base import Grid

_LARGEST_RADIUS, _SMALLEST_RADIUS = 0.4, 0.06  # of the bumps at first [half widths]: for large things and small ones
_OFFSET_SCALE = 3.0  # offsets within a bump are then of about the size of the bump itself


@dataclasses.dataclass(frozen=True)
class DecoderConfig:
    """Shape of the decoder of every camera.

    Attributes:
        patch_size: side of the squares that are decoded by themselves [pixels], p.
        places: places that are read from a code, K.
        width: numbers that describe a square, h.
        depth: residual blocks for a square.
        hidden_width: hidden size of the network that reads a code.
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
    """Images of one camera. Sides that `patch_size` does not divide are decoded a little larger, and cut."""

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
            self.out.weight.zero_()  # the first image is the mean image
            self.out.bias.zero_()
            # Places spread over the image from the beginning, and follow the code at once.
            self.places.weight[:, :code_size].normal_(0, 0.5 * code_size**-0.5)
        radii = torch.linspace(math.log(_LARGEST_RADIUS), math.log(_SMALLEST_RADIUS), config.places)
        self.log_radius = nn.Parameter(radii)
        self.near, self.look = nn.Linear(3 * config.places + 2, width), nn.Linear(hidden, 2 * width)
        self.blocks = nn.ModuleList(_Block(width) for _ in range(config.depth))
        self.register_buffer("mean", torch.zeros(3, camera.height, camera.width))
        self.register_buffer("positions", _positions(self.grid), persistent=False)

    def forward(self, codes: Tensor) -> Tensor:
        """Codes `[B, D]` → images `[B, 3, H, W]`, about from 0 to 1."""
        squares = self.squares(codes).transpose(1, 2).unflatten(2, self.grid)
        height, width = self._size
        return self.mean + F.pixel_shuffle(squares, self.config.patch_size)[:, :, :height, :width]

    def squares(self, codes: Tensor, which: Tensor | None = None) -> Tensor:
        """What the squares of a image differ by from the mean image, `[B, N, 3 p²]`, as `cut` has them.

        Args:
            codes: `[B, D]`.
            which: numbers of the squares that are wanted, `[B, S]` from 0 to N - 1; None: all of them.
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
        """Images `[B, 3, H, W]` from 0 to 1, less the mean image, cut into squares `[B, N, 3 p²]`."""
        size, (height, width) = self.config.patch_size, self._size
        padded = F.pad(images - self.mean, (0, -width % size, 0, -height % size))
        return F.pixel_unshuffle(padded, size).flatten(2).transpose(1, 2)


def _positions(grid: Grid) -> Tensor:
    """Centres `[N, 2]` (row, column) of the squares, from -1 to 1 from edge to edge."""
    rows, columns = ((torch.arange(count) + 0.5) * 2 / count - 1 for count in grid)
    return torch.stack(torch.meshgrid(rows, columns, indexing="ij"), dim=-1).flatten(0, 1)

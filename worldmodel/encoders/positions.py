"""Positions of tokens in (t, y, x), as an embedding that is added once or as a rotation in every attention.

Shapes: `N` tokens of a clip in (t, y, x) order, `K` of them that are kept, `D` width, `E` width of an attention head.
"""

from __future__ import annotations

import math
from typing import Final

import torch
from torch import Tensor

from worldmodel.encoders.base import Grid

SINCOS: Final = "sincos"
ROTARY: Final = "rotary"
# The two layouts of Meta's code and weights. In V-JEPA 2, angles are tiled over pairs of neighbours, so that the two
# numbers of a pair are turned by different angles. V-JEPA 2.1 corrects this. Weights work with their own layout only.
TILED: Final = "rotary_vjepa2"
REPEATED: Final = "rotary_vjepa2_1"
POSITIONS: Final = (SINCOS, ROTARY, TILED, REPEATED)
# The slowest rotation takes about this many tokens for one radian (arXiv 1706.03762, section 3.5).
_LONGEST: Final = 10_000.0


def token_coordinates(frames: int, grid: Grid) -> Tensor:
    """(t, y, x) of every token of a clip with `frames` tubelet layers, integer `[N, 3]` in token order."""
    axes = torch.meshgrid(*(torch.arange(count) for count in (frames, grid.rows, grid.columns)), indexing="ij")
    return torch.stack(axes, dim=-1).reshape(-1, 3)


def stretched(coordinates: Tensor, grid: Grid, side: int) -> Tensor:
    """`coordinates [N, 3]` whose rows and columns run from 0 to `side - 1` for every `grid`, float `[N, 3]`.

    An encoder then sees the same positions in images of any size (V-JEPA 2.1).
    """
    steps = [(side - 1) / (count - 1) if count > 1 else 1.0 for count in grid]
    return coordinates * torch.tensor([1.0, *steps], device=coordinates.device)


def _axis_sizes(width: int) -> tuple[int, int, int]:
    """Split an even `width` into even parts for t, y and x. Space gets the remainder of the division by three."""
    time = width // 3 // 2 * 2
    y = (width - time) // 2 // 2 * 2
    return time, y, width - time - y


def sincos_positions(coordinates: Tensor, width: int) -> Tensor:
    """Fixed 3-D sine-cosine embedding `[..., width]` of `coordinates [..., 3]`."""
    parts = []
    for axis, size in enumerate(_axis_sizes(width)):
        frequency = torch.exp(-math.log(_LONGEST) * torch.arange(size // 2, device=coordinates.device) / (size // 2))
        angle = coordinates[..., axis, None].float() * frequency
        parts += [angle.sin(), angle.cos()]
    return torch.cat(parts, dim=-1)


def rotary_angles(coordinates: Tensor, head_width: int, layout: str = ROTARY) -> Tensor:
    """Rotation angles of `coordinates [..., 3]`, which `rotate` applies.

    Args:
        coordinates: (t, y, x) of the tokens.
        head_width: width of an attention head, E.
        layout: `rotary` gives an angle for each of the pairs (i, i + E / 2), `[..., E / 2]`. Meta's layouts give an
            angle for each number, `[..., E]`. t, y and x have a third of the head each, rounded down to an even size
            s, with angles `a_k = position / 10000^(2k / s)`. `rotary_vjepa2` orders them a_0 a_1 ... a_0 a_1 ...,
            `rotary_vjepa2_1` a_0 a_0 a_1 a_1 ... The remaining numbers of the head are not turned.
    """
    if layout == ROTARY:
        parts = []
        for axis, size in enumerate(_axis_sizes(head_width)):
            frequency = _LONGEST ** (-torch.arange(size // 2, device=coordinates.device) / max(size // 2, 1))
            parts.append(coordinates[..., axis, None].float() * frequency)
        return torch.cat(parts, dim=-1)
    size = head_width // 3 // 2 * 2
    frequency = _LONGEST ** (-torch.arange(size // 2, device=coordinates.device) / max(size // 2, 1))
    angles = coordinates[..., None].float() * frequency  # [..., 3, size / 2]
    angles = angles.repeat_interleave(2, dim=-1) if layout == REPEATED else torch.cat([angles, angles], dim=-1)
    rest = angles.new_zeros(*angles.shape[:-2], head_width - 3 * size)
    return torch.cat([angles.flatten(-2), rest], dim=-1)


def rotate(tokens: Tensor, angles: Tensor) -> Tensor:
    """Turn pairs of numbers in `tokens [B, heads, K, E]` by `angles` of `rotary_angles`.

    With angles `[B or 1, K, E / 2]`, number i and number i + E / 2 are a pair. With angles `[B or 1, K, E]`, neighbours
    are a pair, and (u, v) becomes (u cos a - v sin a, v cos b + u sin b) for their angles a and b.
    """
    cos, sin = angles.cos()[:, None].to(tokens.dtype), angles.sin()[:, None].to(tokens.dtype)
    if angles.shape[-1] == tokens.shape[-1]:
        first, second = tokens.unflatten(-1, (-1, 2)).unbind(-1)
        return tokens * cos + torch.stack([-second, first], dim=-1).flatten(-2) * sin
    first, second = tokens.chunk(2, dim=-1)
    return torch.cat([first * cos - second * sin, first * sin + second * cos], dim=-1)

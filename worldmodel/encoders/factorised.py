"""Factorised space-time attention: blocks among the tokens of a frame, then blocks among the frames of a place.

This is model 2 of ViViT (arXiv 2103.15691, section 3.3) with all tokens of a frame kept. With `F` frames of `P` tokens,
attention costs F P² + P F² products instead of (F P)².

Shapes: `B` clips, `K` tokens of each in (t, y, x) order, `D` width, `E` numbers of the rotary angles.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

# `(tokens [B, K, D], angles [B or 1, K, E] or None, allowed [B or 1, 1, K, K] or None) -> tokens [B, K, D]`
Blocks = Callable[[Tensor, Tensor | None, Tensor | None], Tensor]


def are_tubes(keep: Tensor, frames: int, places: int) -> bool:
    """Whether the ascending tokens `keep [B, K]` are the same places in each of `frames` frames of `places` tokens."""
    if keep.shape[1] % frames:
        return False
    by_frame = keep.unflatten(1, (frames, -1)) - places * torch.arange(frames, device=keep.device)[None, :, None]
    return bool(((by_frame == by_frame[:, :1]) & (by_frame >= 0) & (by_frame < places)).all())


def attend_in_turn(
    tokens: Tensor,
    angles: Tensor | None,
    keep: Tensor | None,
    frames: int,
    places: int,
    spatial: Blocks,
    temporal: Blocks,
) -> Tensor:
    """`tokens [B, K, D]` after the `spatial` and then the `temporal` blocks.

    Args:
        tokens: all tokens of a clip, or those in `keep`.
        angles: rotary angles of the tokens, `[B or 1, K, E]`.
        keep: numbers of the tokens `[B, K]`, ascending. None for all.
        frames: tubelet layers of the clip.
        places: tokens of a layer.
        spatial: blocks in which a token attends to those of its own frame.
        temporal: blocks in which a token attends to those of its own place.
    """
    if keep is not None and not are_tubes(keep, frames, places):
        frame, place = keep // places, keep % places
        tokens = spatial(tokens, angles, _same(frame))
        return temporal(tokens, angles, _same(place))
    # Frames, and then places, become rows of the batch, so that nothing outside of the groups is computed.
    batch = tokens.shape[0]  # and not `len`, which would fix it in an exported graph
    turned = None if angles is None else angles.expand(batch, -1, -1).unflatten(1, (frames, -1))
    by_frame = tokens.unflatten(1, (frames, -1))
    after = spatial(by_frame.flatten(0, 1), None if turned is None else turned.flatten(0, 1), None)
    by_place = after.unflatten(0, (batch, frames)).transpose(1, 2)
    turned = None if turned is None else turned.transpose(1, 2).flatten(0, 1)
    after = temporal(by_place.flatten(0, 1), turned, None)
    return after.unflatten(0, (batch, -1)).transpose(1, 2).flatten(1, 2)


def _same(numbers: Tensor) -> Tensor:
    """True for pairs of equal `numbers [B, K]`, `[B, 1, K, K]`."""
    return (numbers[:, :, None] == numbers[:, None])[:, None]

"""Features of clips, encoded once and kept in a file.

Shapes: `V` clips, `B` of them at once, `T` frames, `F` tubelets of a clip, `N` tokens of a tubelet, `D` width.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from worldmodel.core.errors import UserError
from worldmodel.encoders.base import Encoder, Grid
from worldmodel.encoders.features import FeatureCacheKey, Frames, encode_store
from worldmodel.encoders.positions import sincos_positions, token_coordinates

# Tokens that go through an encoder at once. Attention among the 2,048 tokens of a ViT at 16 x 256 x 256 then takes
# two clips at a time.
_TOKENS_AT_ONCE: Final = 4096


@dataclasses.dataclass(frozen=True)
class ClipShape:
    """How the tokens of a clip are arranged.

    Attributes:
        segments: parts of a clip that are encoded by themselves, one after the other.
        frames: frames of a part.
        tubelets: tubelets of all parts, F.
        grid: tokens of a tubelet, N.
        width: numbers in a token, D.
        sees_motion: whether a token may depend on several frames.
    """

    segments: int
    frames: int
    tubelets: int
    grid: Grid
    width: int
    sees_motion: bool

    @classmethod
    def of(cls, encoder: Encoder, segments: int, frames: int, size: int) -> ClipShape:
        """The shape for clips of `segments` times `frames` frames of `size` pixels.

        Raises:
            UserError: for clips that the encoder cannot cut into tubelets.
        """
        tubelet = encoder.tubelet_frames
        if frames % tubelet:
            raise UserError(f"labelled.frames {frames}: expected a multiple of the encoder's {tubelet} tubelet frames")
        grid = encoder.config.grid(size, size)
        return cls(segments, frames, segments * frames // tubelet, grid, encoder.config.width, tubelet > 1)

    @property
    def tokens(self) -> int:
        """Tokens of a clip, F * N."""
        return self.tubelets * self.grid.tokens

    def positions(self) -> Tensor | None:
        """What is added to the tokens `[F * N, D]`.

        An encoder of single images does not know the time of a frame, and pixels do not know their place. An encoder
        of clips has added its own positions, and gets none here, as in the evaluations of V-JEPA 2.
        """
        if self.sees_motion:
            return None
        return sincos_positions(token_coordinates(self.tubelets, self.grid), self.width)


class _ClipsAsFrames(Encoder):
    """Encodes clips where `encode_store` expects images."""

    def __init__(self, encoder: Encoder, shape: ClipShape) -> None:
        super().__init__()
        self.config = encoder.config
        self._encoder, self._shape = [encoder], shape

    def encode_frames(self, pixels: Tensor) -> Tensor:
        """Clips, uint8 `[B, T, H, W, 3]`, → tokens `[B, F * N, D]`."""
        shape, (encoder,) = self._shape, self._encoder
        parts = pixels.unflatten(1, (shape.segments, shape.frames)).flatten(0, 1)
        at_once = max(1, _TOKENS_AT_ONCE * shape.segments // shape.tokens)
        tokens = torch.cat([encoder.encode_tubelets(part) for part in parts.split(at_once)])
        return tokens.flatten(1, 2).unflatten(0, (len(pixels), shape.segments)).flatten(1, 2)


def encode_labelled(
    encoder: Encoder,
    shape: ClipShape,
    clips: Frames,
    count: int,
    about: str,
    folder: Path,
    device: torch.device,
    progress: Callable[[int, int], None],
) -> NDArray[np.float16]:
    """Tokens `[V, F * N, D]` of all clips, float16, as a memory map of a file in `folder`.

    A file that is there is used if nothing has changed that features depend on. A killed run resumes.

    Args:
        encoder: the encoder.
        shape: how tokens are arranged.
        clips: the clips.
        count: number of clips, V.
        about: identity of the clips.
        folder: folder of the file.
        device: device of the encoder.
        progress: called with (clips done, clips in all).
    """
    clip = f"{shape.segments} x {shape.frames}"
    key = FeatureCacheKey(about, encoder.identity(), "none", count, shape.tokens, shape.width, clip)
    name = hashlib.sha256(repr(key).encode()).hexdigest()[:16]
    wrapped = _ClipsAsFrames(encoder, shape)
    return encode_store(wrapped, lambda tokens: tokens, clips, key, folder / f"clips.{name}.npy", device, progress)

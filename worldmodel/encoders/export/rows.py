"""Turns pieces of videos or recordings into rows of features.

Shapes: `B` pieces of a batch, `n` rows, `T` frames of a clip, `F` tubelets of a clip, `H, W` height and width of a
frame, `N` tokens of a frame or tubelet, `D` numbers of a token.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from worldmodel.core.device import autocast, check_precision
from worldmodel.core.errors import UserError, choices_message
from worldmodel.data.videos.items import Items, Piece
from worldmodel.encoders.base import Encoder

FRAME, TUBELET, CLIP = "frame", "tubelet", "clip"
MEAN, NONE = "mean", "none"
_TYPES: Final = {"float16": torch.float16, "float32": torch.float32}
# Frames that are read from a file at once for `per=frame`. Opening and seeking then take little of the time.
_FRAMES_TOGETHER: Final = 16


@dataclasses.dataclass(frozen=True)
class RowConfig:
    """What a row of features stands for.

    Attributes:
        per: a row for every `frame` (encoded as a single image), `tubelet` or `clip`.
        pool: `mean` over the tokens of a row, or `none` for all of them.
        clip_frames: frames that are encoded together, T, for tubelets and clips. The last clip of an item is filled up
            by repeating its last frame, as V-JEPA does with short videos.
        batch_size: clips, or sixteen frames, that are read and encoded at once.
        precision: precision of the encoder: `fp32`, `bf16` (autocast), or `auto`, as for a training.
        type: type of the written numbers, `float16` or `float32`.
    """

    per: str = FRAME
    pool: str = MEAN
    clip_frames: int = 16
    batch_size: int = 8
    precision: str = "fp32"
    type: str = "float16"

    def __post_init__(self) -> None:
        for name, choices in (
            ("per", (FRAME, TUBELET, CLIP)),
            ("pool", (MEAN, NONE)),
            ("type", tuple(_TYPES)),
        ):
            if getattr(self, name) not in choices:
                raise ValueError(choices_message(name, getattr(self, name), choices))
        check_precision(self.precision)
        if not 1 <= self.clip_frames <= 1024 or not 1 <= self.batch_size <= 4096:
            raise ValueError(
                f"clip_frames {self.clip_frames} and batch_size {self.batch_size}: expected 1 to 1024 and 1 to 4096"
            )

    @property
    def frames_per_piece(self) -> int:
        """Frames that are read in a row."""
        return _FRAMES_TOGETHER if self.per == FRAME else self.clip_frames

    def tubelet_of(self, encoder: Encoder) -> int:
        """Frames of a tubelet. Raises UserError if clips are not made of whole ones."""
        frames = 1 if self.per == FRAME else encoder.tubelet_frames
        if self.frames_per_piece % frames:
            raise UserError(f"clip_frames {self.clip_frames}: expected a multiple of {frames}, the frames of a tubelet")
        return frames

    def rows_of(self, frames: NDArray[np.int64], encoder: Encoder) -> int:
        """Number of rows of items with so many `frames [V]`."""
        per_row = self.clip_frames if self.per == CLIP else self.tubelet_of(encoder)
        # Tubelets do not span clips.
        whole, rest = np.divmod(frames, self.frames_per_piece)
        return int((whole * (self.frames_per_piece // per_row) + -(-rest // per_row)).sum())

    def shape_of(self, encoder: Encoder, size: tuple[int, int]) -> tuple[int, ...]:
        """Shape of a row for frames of `size`: `(D,)` when pooled, otherwise `(N, D)` with all tokens of the row."""
        width = encoder.config.width
        if self.pool == MEAN:
            return (width,)
        tubelets = self.clip_frames // self.tubelet_of(encoder) if self.per == CLIP else 1
        return tubelets * encoder.config.grid(*size).tokens, width

    def bytes_per_row(self, encoder: Encoder, size: tuple[int, int]) -> int:
        """Size of a row's features [bytes]."""
        return int(np.prod(self.shape_of(encoder, size))) * _TYPES[self.type].itemsize


class RowMaker:
    """Encodes pieces to rows.

    Args:
        encoder: the frozen encoder, on `device`.
        config: what a row stands for.
        items: where the pieces come from.
        device: device of the encoder.
    """

    def __init__(self, encoder: Encoder, config: RowConfig, items: Items, device: torch.device) -> None:
        self._encoder, self._config, self._items, self._device = encoder, config, items, device
        self._tubelet = config.tubelet_of(encoder)

    @torch.inference_mode()
    def rows(self, pieces: Sequence[Piece]) -> dict[str, Tensor]:
        """The columns `[n, ...]` of the rows of `pieces`, which can all be read.

        Raises:
            UserError: for features that are not finite in the written type.
        """
        if not pieces:
            return {"item": torch.zeros(0, dtype=torch.int32)}
        with autocast(self._config.precision, self._device):
            encode = self._frames if self._config.per == FRAME else self._clips
            features = encode(pieces)
        written = features.to(_TYPES[self._config.type]).cpu()
        if not bool(written.isfinite().all()):
            raise UserError(
                f"features of {self._items.name(pieces[0].item)} are not finite as {self._config.type}: expected an "
                "encoder of finite weights, or type=float32"
            )
        return {"features": written, **self._places(pieces)}

    def _frames(self, pieces: Sequence[Piece]) -> Tensor:
        pixels = np.concatenate([piece.frames for piece in pieces])
        tokens = self._encoder.encode_frames(torch.from_numpy(pixels).to(self._device)).float()
        return self._pooled(tokens)

    def _clips(self, pieces: Sequence[Piece]) -> Tensor:
        clips = torch.from_numpy(np.stack([self._filled(piece.frames) for piece in pieces])).to(self._device)
        tokens = self._encoder.encode_tubelets(clips).float()  # [B, F, N, D]
        if self._config.per == CLIP:
            return self._pooled(tokens.flatten(1, 2))
        real = [tokens[index, : self._real(piece)] for index, piece in enumerate(pieces)]
        return self._pooled(torch.cat(real))

    def _pooled(self, tokens: Tensor) -> Tensor:
        """`[n, N, D]` as it is, or its mean over the tokens, `[n, D]`."""
        return tokens.mean(1) if self._config.pool == MEAN else tokens

    def _filled(self, frames: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """A clip `[T, H, W, 3]` whose last frame is repeated if there are fewer."""
        missing = self._config.clip_frames - len(frames)
        return np.concatenate([frames, np.repeat(frames[-1:], missing, axis=0)]) if missing else frames

    def _real(self, piece: Piece) -> int:
        """Tubelets with at least one frame that was not repeated."""
        return -(-len(piece.frames) // self._tubelet)

    def _places(self, pieces: Sequence[Piece]) -> dict[str, Tensor]:
        """Item, time, and further columns of the first frame of every row."""
        step = self._config.clip_frames if self._config.per == CLIP else self._tubelet
        firsts = [piece.numbers[::step] for piece in pieces]
        columns: dict[str, list[Tensor]] = {"item": []}
        for piece, numbers in zip(pieces, firsts, strict=True):
            columns["item"].append(torch.full((len(numbers),), piece.item, dtype=torch.int32))
            for name, values in self._items.places(piece.item, numbers).items():
                columns.setdefault(name, []).append(torch.from_numpy(values))
        return {name: torch.cat(parts) for name, parts in columns.items()}

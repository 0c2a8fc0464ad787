"""A trained context encoder with its mask predictor, and their checkpoint (`kind: jepa`).

Shapes: `B` clips, `T` frames of a clip, `H, W` height and width, `N` tokens of a clip in (t, y, x) order, `K` visible
ones, `M` asked for, `L` levels of the encoder, `D` width.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from worldmodel.core import checkpoint
from worldmodel.core.errors import UserError
from worldmodel.core.options import from_config
from worldmodel.encoders.base import Grid
from worldmodel.encoders.jepa.levels import encode_levels
from worldmodel.encoders.jepa.losses import layer_normed
from worldmodel.encoders.jepa.masks import Mask
from worldmodel.encoders.jepa.objective import Jepa, JepaConfig, MaskPredictor
from worldmodel.encoders.registry import describe_encoder, read_encoder_config
from worldmodel.encoders.vit import EncoderConfig, VisionTransformer

KIND: Final = "jepa"


class JepaInference(nn.Module):
    """Predicts features of tokens that it does not see. There is no target encoder, which only training needs.

    Predictions have the normalisation of the training's targets (`JepaConfig.targets`). With `layer_norm`, they can be
    compared with `features` of a clip that shows what was predicted. With `pixels`, they are normalised pixels.
    """

    def __init__(self, encoder: EncoderConfig, config: JepaConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = VisionTransformer(encoder)
        self.predictor = MaskPredictor(encoder, config)

    @classmethod
    def of(cls, jepa: Jepa) -> JepaInference:
        """The context encoder and mask predictor of a training, which are shared and not copied."""
        made = cls.__new__(cls)
        nn.Module.__init__(made)
        made.config, made.encoder, made.predictor = jepa.config, jepa.encoder, jepa.predictor
        return made

    @torch.no_grad()
    def features(self, clips: Tensor) -> Tensor:
        """Layer-normed features `[B, N, L * D]` of clips, uint8 or float `[B, T, H, W, 3]`."""
        self._shape(clips)
        return layer_normed(encode_levels(self.encoder, clips, None, self.config.levels).float(), self.config.levels)

    @torch.no_grad()
    def predict(
        self, clips: Tensor, positions: Tensor | NDArray[np.int64], visible: Tensor | NDArray[np.int64] | None = None
    ) -> Tensor:
        """Predicted features `[B, M, L * D]`.

        Args:
            clips: uint8 or float (as `to_unit_range` makes them) `[B, T, H, W, 3]`.
            positions: numbers of the tokens to predict, `[M]` or `[B, M]`. They are hidden from the encoder. Numbers
                from N on are tokens of frames after the clip.
            visible: numbers of the tokens that the encoder sees, `[K]` or `[B, K]`; by default all others of the clip.

        Raises:
            UserError: for clips and tokens that do not fit each other.
        """
        layers, grid = self._shape(clips)
        total = layers * grid.tokens
        hidden = _token_rows("positions", positions, clips)
        if visible is None:
            seen = _others(hidden, total)
        else:
            seen = _token_rows("visible", visible, clips)
            if int(seen.max()) >= total:
                raise UserError(
                    f"visible has token {int(seen.max())}: expected numbers below {total}, the clip's tokens"
                )
        frames = max(layers, int(hidden.max()) // grid.tokens + 1)
        context = encode_levels(self.encoder, clips, seen, self.config.levels)
        predicted: Tensor = self.predictor(context, Mask(seen, hidden), frames, grid)
        return predicted

    def _shape(self, clips: Tensor) -> tuple[int, Grid]:
        """Tubelet layers and grid of `clips`. Raises UserError for clips that the encoder cannot cut into tokens."""
        config, shape = self.encoder.config, tuple(clips.shape)
        tubelet, patch = config.tubelet_frames, config.patch_size
        fits = len(shape) == 5 and shape[-1] == 3 and min(shape) > 0
        if not fits or shape[1] % tubelet or shape[2] % patch or shape[3] % patch:
            raise UserError(
                f"clips have shape {list(shape)}: expected [B, T, H, W, 3] with T a multiple of {tubelet}, and H and W "
                f"of {patch}"
            )
        return shape[1] // tubelet, config.grid(*shape[2:4])


def _token_rows(what: str, tokens: Tensor | NDArray[np.int64], clips: Tensor) -> Tensor:
    """`tokens [M]` or `[B, M]` as int64 `[B, M]` on the device of `clips`. Raises UserError."""
    rows = torch.as_tensor(tokens, device=clips.device)
    if rows.ndim == 1:
        rows = rows.expand(len(clips), -1)
    if rows.is_floating_point() or rows.ndim != 2 or len(rows) != len(clips) or rows.shape[1] == 0:
        raise UserError(
            f"{what} have shape {list(rows.shape)} and type {rows.dtype}: expected whole numbers [M] or [B, M]"
        )
    ordered = rows.sort(dim=1).values
    if int(ordered[:, 0].min()) < 0 or bool((ordered.diff(dim=1) == 0).any()):
        raise UserError(f"{what} have a token below 0, or one twice: expected different numbers of at least 0")
    return rows.long()


def _others(hidden: Tensor, total: int) -> Tensor:
    """The tokens of a clip with `total` tokens that are not in `hidden [B, M]`, ascending `[B, K]`."""
    kept = torch.ones(len(hidden), max(total, int(hidden.max()) + 1), dtype=torch.bool, device=hidden.device)
    kept = kept.scatter_(1, hidden, False)[:, :total]
    counts = kept.sum(1)
    if int(counts.min()) == 0 or int(counts.min()) != int(counts.max()):
        raise UserError(
            f"positions leave {sorted(set(counts.tolist()))} of {total} tokens visible: expected the same number in "
            "every clip, of at least 1"
        )
    return kept.nonzero()[:, 1].unflatten(0, (len(hidden), -1))


def save_jepa(jepa: Jepa, folder: Path, provenance: dict[str, Any]) -> None:
    """Write the context encoder and the mask predictor of a training as a checkpoint."""
    config = {
        "encoder": describe_encoder(jepa.encoder.config),
        "jepa": dataclasses.asdict(jepa.config),
        "encoder_hash": checkpoint.weights_hash(jepa.encoder),
        "provenance": provenance,
    }
    checkpoint.save(folder, KIND, config, JepaInference.of(jepa), half=False)


def load_jepa(folder: Path) -> JepaInference:
    """Read what `save_jepa` wrote.

    Raises:
        UserError: for a folder without such a checkpoint, and for a damaged one.
    """
    if not checkpoint.is_there(folder):
        raise UserError(
            f"no mask predictor at {folder}: `python -m worldmodel.pretrain` makes one in `jepa` of its folder"
        )
    stored = checkpoint.read_config(folder, KIND)
    try:
        encoder = read_encoder_config(stored.config["encoder"], ())
        config = from_config(JepaConfig, stored.config["jepa"], KIND)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise stored.not_described(error) from error
    if not isinstance(encoder, EncoderConfig):
        raise UserError(f"{folder} has an encoder of kind {encoder.kind!r}: expected '{EncoderConfig.kind}'")
    model = stored.build(lambda: JepaInference(encoder, config))
    assert isinstance(model, JepaInference)
    return model.eval().requires_grad_(False)

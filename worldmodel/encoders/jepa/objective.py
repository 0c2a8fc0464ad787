"""The V-JEPA objective, which predicts features of hidden tokens. The features come from a slow copy of the encoder.

Shapes as in `worldmodel.encoders.vit`, and `M` hidden tokens.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from worldmodel.encoders.base import Grid
from worldmodel.encoders.jepa.masks import Mask
from worldmodel.encoders.vit import (
    Block,
    EncoderConfig,
    VisionTransformer,
    gather_tokens,
    initialise,
    sincos_positions,
    token_coordinates,
)

_TARGETS = ("instance", "layer_norm", "standardise", "whiten")


@dataclasses.dataclass(frozen=True)
class JepaConfig:
    """The mask predictor and the loss.

    Attributes:
        predictor_width: size of a predictor token. It is narrower than the encoder.
        predictor_depth: predictor blocks.
        predictor_heads: attention heads.
        loss: `l1` (V-JEPA's default) or `l2`.
        targets: normalisation of the targets. `layer_norm` is V-JEPA's. `standardise` also removes the mean of each
            position over the batch, and scales each feature to unit spread. Constant features are then no target, and
            shrinking towards the mean no longer lowers the loss (data2vec, arXiv 2202.03555, normalises targets over
            time for the same reason). `instance` removes each clip's own mean before that. Then features that are
            constant in a clip, such as its light and the colour of its floor, are no target either. `whiten` scales
            each principal direction of the features instead of each feature, so that a few strong directions do not
            dominate the weak ones (ZCA, as in W-MSE, arXiv 2007.06346).
        visible_weight: weight of the same loss on the visible tokens, whose targets a linear map predicts (the dense
            loss of V-JEPA 2.1). It is useful only if the target encoder sees another version of the clip. 0 switches
            it off.
        variance_weight: weight of the hinge that keeps each feature's standard deviation above one (VICReg,
            arXiv 2105.04906). 0 switches it off.
        covariance_weight: weight of the squared off-diagonal covariance of the features (VICReg). 0 switches it off.
    """

    predictor_width: int = 64
    predictor_depth: int = 3
    predictor_heads: int = 2
    loss: str = "l1"
    targets: str = "standardise"
    visible_weight: float = 0.0
    variance_weight: float = 0.0
    covariance_weight: float = 0.0

    def __post_init__(self) -> None:
        if min(self.predictor_depth, self.predictor_heads) < 1 or self.predictor_width % (2 * self.predictor_heads):
            raise ValueError(
                f"predictor_width {self.predictor_width} is not a multiple of twice predictor_heads "
                f"({self.predictor_heads}), or predictor_depth {self.predictor_depth} is under 1"
            )
        if self.loss not in ("l1", "l2"):
            raise ValueError(f"loss '{self.loss}' is unknown: choose from l1, l2")
        if self.targets not in _TARGETS:
            raise ValueError(f"targets '{self.targets}' is unknown: choose from {', '.join(_TARGETS)}")


class MaskPredictor(nn.Module):
    """A narrow transformer from context tokens, and mask tokens with positions, to the hidden tokens' features."""

    def __init__(self, encoder: EncoderConfig, config: JepaConfig) -> None:
        super().__init__()
        width = config.predictor_width
        self.head_width, self.encoder_config = width // config.predictor_heads, encoder
        self.inward, self.outward = nn.Linear(encoder.width, width), nn.Linear(width, encoder.width)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, width))
        self.blocks = nn.ModuleList(
            Block(width, config.predictor_heads, encoder.mlp_ratio) for _ in range(config.predictor_depth)
        )
        self.norm = nn.LayerNorm(width)
        initialise(self, config.predictor_depth)

    def forward(self, context: Tensor, mask: Mask, frames: int, grid: Grid) -> Tensor:
        """`context [B, K, D]` of the visible tokens → predictions `[B, M, D]` for the hidden ones."""
        num_hidden = mask.hidden.shape[1]
        order = torch.cat([mask.visible, mask.hidden], dim=1)
        coordinates = token_coordinates(frames, grid).to(context.device)
        visible = self.inward(context)
        hidden = self.mask_token.expand(context.shape[0], num_hidden, -1).to(visible.dtype)
        tokens = torch.cat([visible, hidden], dim=1)
        angles = self.encoder_config.angles(coordinates, grid, self.head_width)
        if angles is None:
            tokens = tokens + sincos_positions(coordinates, tokens.shape[-1]).to(tokens.dtype)[order]
        else:
            angles = angles[order]
        for block in self.blocks:
            tokens = block(tokens, angles)
        return self.outward(self.norm(tokens[:, -num_hidden:]))


def regularise(features: Tensor) -> tuple[Tensor, Tensor]:
    """VICReg's variance and covariance terms of `features [R, D]`: equations (1) and (3) of arXiv 2105.04906."""
    features = features.float() - features.float().mean(0)
    std = torch.sqrt(features.var(0) + 1e-4)
    covariance = features.T @ features / (len(features) - 1)
    off_diagonal = covariance - torch.diag(covariance.diagonal())
    return F.relu(1 - std).mean(), off_diagonal.pow(2).sum() / features.shape[1]


def _without_place_means(features: Tensor, frames: int) -> Tensor:
    """`features [B, N, D]` minus each position's mean over clips and time, as `[B, T, positions, D]`."""
    by_place = features.unflatten(1, (frames, -1))
    return by_place - by_place.mean((0, 1))


def standardise(features: Tensor, frames: int) -> Tensor:
    """Remove each position's mean over clips and time from `features [B, N, D]`, and scale features to unit spread."""
    centred = _without_place_means(features, frames)
    return (centred / centred.pow(2).mean((0, 1, 2)).sqrt().clamp_min(1e-4)).flatten(1, 2)


def whiten(features: Tensor, frames: int) -> Tensor:
    """Remove each position's mean from `features [B, N, D]`, and scale each principal direction to the same spread."""
    centred = _without_place_means(features, frames)
    rows = centred.flatten(0, 2)
    # Computed on the CPU, because other devices lack the decomposition or double precision.
    variances, directions = torch.linalg.eigh((rows.T @ rows / len(rows)).cpu().double())
    # Directions with less than a thousandth of the largest variance are noise, and stay small.
    scale = (variances + 1e-3 * variances[-1]).clamp_min(1e-8).rsqrt()
    rows = rows @ ((directions * scale) @ directions.T).to(rows)
    rows = rows / rows.pow(2).mean().sqrt().clamp_min(1e-4)
    return rows.unflatten(0, centred.shape[:3]).flatten(1, 2)


class Jepa(nn.Module):
    """Context encoder, mask predictor and target encoder.

    The loss is the mean over hidden tokens i of d(predictor(context)_i - sg(y_i)), y = n(layer_norm(target(clip))).
    d(e) is the mean over features of |e| (`loss` l1) or e² (l2). n is the normalisation that `targets` names. sg stops
    the gradient. The target encoder's weights xi follow those of the context encoder, xi <- m xi + (1 - m) theta.
    With several masks, the loss is their mean. Added to it, with their weights, are the same loss on visible tokens
    (`visible_weight`) and VICReg's terms of the context encoder's features (`variance_weight`, `covariance_weight`).
    """

    def __init__(self, encoder: EncoderConfig, config: JepaConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = VisionTransformer(encoder)
        self.predictor = MaskPredictor(encoder, config)
        self.target = copy.deepcopy(self.encoder)
        self.target.requires_grad_(False)
        self.visible_head = nn.Linear(encoder.width, encoder.width) if config.visible_weight else None

    def forward(self, clips: Tensor, masks: Sequence[Mask], seen_by_target: Tensor | None = None) -> dict[str, Tensor]:
        """Loss and its parts for clips `[B, T, H, W, 3]`. The key `features` has the target features `[B, N, D]`.

        `seen_by_target` is another version of the clips for the target encoder, for example in another light. What
        differs between the two versions cannot be predicted, and features lose it.
        """
        frames = clips.shape[1] // self.encoder.config.tubelet_frames
        grid = self.encoder.config.grid(*clips.shape[2:4])
        with torch.no_grad():
            features = self.target(clips if seen_by_target is None else seen_by_target).float()
            features = F.layer_norm(features, features.shape[-1:])
            target = features
            if self.config.targets == "instance":
                target = features - features.mean(1, keepdim=True)
            if self.config.targets in ("instance", "standardise"):
                target = standardise(target, frames)
            elif self.config.targets == "whiten":
                target = whiten(target, frames)
        losses, visible, variances, covariances = [], [], [], []
        for mask in masks:
            context = self.encoder(clips, mask.visible)
            predicted = self.predictor(context, mask, frames, grid).float()
            losses.append(self._error(predicted, gather_tokens(target, mask.hidden)))
            if self.visible_head is not None:
                visible.append(self._error(self.visible_head(context).float(), gather_tokens(target, mask.visible)))
            if self.config.variance_weight or self.config.covariance_weight:
                variance, covariance = regularise(context.flatten(0, 1))
                variances.append(variance)
                covariances.append(covariance)
        prediction = torch.stack(losses).mean()
        zero = prediction.new_zeros(())
        dense = torch.stack(visible).mean() if visible else zero
        variance = torch.stack(variances).mean() if variances else zero
        covariance = torch.stack(covariances).mean() if covariances else zero
        regularised = self.config.variance_weight * variance + self.config.covariance_weight * covariance
        loss = prediction + self.config.visible_weight * dense + regularised
        return {
            "loss": loss,
            "prediction": prediction,
            "visible": dense,
            "variance": variance,
            "covariance": covariance,
            "features": features,
        }

    def _error(self, predicted: Tensor, wanted: Tensor) -> Tensor:
        difference = predicted - wanted
        return difference.abs().mean() if self.config.loss == "l1" else difference.pow(2).mean()

    @torch.no_grad()
    def update_target(self, momentum: float) -> None:
        """Move the target encoder toward the context encoder."""
        for target, source in zip(self.target.parameters(), self.encoder.parameters(), strict=True):
            target.lerp_(source, 1.0 - momentum)

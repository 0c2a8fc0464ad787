"""The V-JEPA objective, which predicts features of hidden tokens. The features come from a slow copy of the encoder.

Shapes as in `worldmodel.encoders.vit`, `M` hidden tokens, and `L` levels of the encoder.
"""

from __future__ import annotations

import copy
import dataclasses
import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from worldmodel.core.errors import UserError
from worldmodel.encoders.base import Grid
from worldmodel.encoders.jepa.levels import FusedLevels, encode_levels
from worldmodel.encoders.jepa.losses import (
    LOSSES,
    PIXELS,
    TARGETS,
    context_weights,
    error,
    layer_normed,
    normalised,
    regularise,
    standardise,
    tubelet_pixels,
    whiten,
)
from worldmodel.encoders.jepa.masks import Mask
from worldmodel.encoders.vit import (
    Block,
    EncoderConfig,
    VisionTransformer,
    gather_tokens,
    initialise,
    sincos_positions,
    to_unit_range,
    token_coordinates,
)
from worldmodel.training.parallel import own

__all__ = ["Jepa", "JepaConfig", "MaskPredictor", "regularise", "standardise", "whiten"]


@dataclasses.dataclass(frozen=True)
class JepaConfig:
    """The mask predictor and the loss.

    Attributes:
        predictor_width: size of a predictor token. It is narrower than the encoder.
        predictor_depth: predictor blocks.
        predictor_heads: attention heads.
        mask_tokens: learned tokens that stand for hidden ones. Mask number i of a step takes token i modulo this
            number, so that the predictor knows which kind of mask it completes, as in V-JEPA's code.
        loss: `l1` (V-JEPA's default) or `l2`.
        targets: normalisation of the targets. `layer_norm` is V-JEPA's. `standardise` also removes the mean of each
            position over the batch, and scales each feature to unit spread. Constant features are then no target, and
            shrinking towards the mean no longer lowers the loss (data2vec, arXiv 2202.03555, normalises targets over
            time for the same reason). `instance` removes each clip's own mean before that. Then features that are
            constant in a clip, such as its light and the colour of its floor, are no target either. `whiten` scales
            each principal direction of the features instead of each feature, so that a few strong directions do not
            dominate the weak ones (ZCA, as in W-MSE, arXiv 2007.06346). `pixels` are no features but normalised pixels,
            which makes the training one of VideoMAE's kind (arXiv 2203.12602), with the same encoder, predictor and
            masks. It is a baseline. VideoMAE's loss is `l2`.
        levels: depths of the encoder that are predicted, evenly spaced, and that the predictor sees. V-JEPA 2.1 has 4.
        context_weight: weight of the same loss on the visible tokens, which the mask predictor predicts through a
            second projection (the dense loss of V-JEPA 2.1, with weight 0.5). 0 switches it off.
        context_distance_power: exponent p of the weights 1 / d^p in this loss, where d is the distance to the nearest
            hidden token. 1 is V-JEPA 2.1's paper, 0.5 its code, and 0 weights all visible tokens alike.
        context_warmup: when the loss on visible tokens sets in and when it has its full weight, as fractions of the
            training. In between, the weight rises linearly.
        visible_weight: weight of a loss on the visible tokens, whose targets a linear map of the context encoder's
            features predicts. It is useful only if the target encoder sees another version of the clip. 0 switches it
            off.
        variance_weight: weight of the hinge that keeps each feature's standard deviation above one (VICReg,
            arXiv 2105.04906). 0 switches it off.
        covariance_weight: weight of the squared off-diagonal covariance of the features (VICReg). 0 switches it off.
    """

    predictor_width: int = 64
    predictor_depth: int = 3
    predictor_heads: int = 2
    mask_tokens: int = 1
    loss: str = "l1"
    targets: str = "standardise"
    levels: int = 1
    context_weight: float = 0.0
    context_distance_power: float = 0.5
    context_warmup: tuple[float, ...] = (0.0, 0.0)
    visible_weight: float = 0.0
    variance_weight: float = 0.0
    covariance_weight: float = 0.0

    def __post_init__(self) -> None:
        if min(self.predictor_depth, self.predictor_heads) < 1 or self.predictor_width % (2 * self.predictor_heads):
            raise ValueError(
                f"predictor_width {self.predictor_width} is not a multiple of twice predictor_heads "
                f"({self.predictor_heads}), or predictor_depth {self.predictor_depth} is under 1"
            )
        if self.loss not in LOSSES:
            raise ValueError(f"loss '{self.loss}' is unknown: choose from {', '.join(LOSSES)}")
        if self.targets not in TARGETS:
            raise ValueError(f"targets '{self.targets}' is unknown: choose from {', '.join(TARGETS)}")
        if self.mask_tokens < 1:
            raise ValueError(f"mask_tokens {self.mask_tokens}: expected at least 1")
        if self.levels < 1:
            raise ValueError(f"levels {self.levels}: expected at least 1")
        if self.targets == PIXELS and (self.levels > 1 or self.visible_weight):
            raise ValueError(f"levels {self.levels} and visible_weight {self.visible_weight}: pixels need 1 and 0")
        for name in ("context_weight", "context_distance_power"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"{name} {getattr(self, name)}: expected a number of at least 0")
        if len(self.context_warmup) != 2 or not 0 <= self.context_warmup[0] <= self.context_warmup[1] <= 1:
            raise ValueError(f"context_warmup {self.context_warmup}: expected two ascending fractions from 0 to 1")

    def target_width(self, encoder: EncoderConfig) -> int:
        """Numbers that are predicted for each token."""
        if self.targets == PIXELS:
            if encoder.still_tubelet:
                raise UserError("jepa.targets=pixels with encoder.still_tubelet=true: single images have fewer pixels")
            return 3 * encoder.tubelet_frames * encoder.patch_size**2
        return self.levels * encoder.width

    def context_weight_at(self, progress: float) -> float:
        """Weight of the loss on visible tokens at `progress` of the training, from 0 to 1."""
        begin, end = self.context_warmup
        share = 1.0 if progress >= end else max(progress - begin, 0.0) / (end - begin)
        return self.context_weight * share


class MaskPredictor(nn.Module):
    """A narrow transformer from context tokens, and mask tokens with positions, to the hidden tokens' features.

    With several levels, it sees and predicts the features of all of them, one after the other in a token. With a loss
    on context tokens, a second projection predicts their features too.
    """

    def __init__(self, encoder: EncoderConfig, config: JepaConfig) -> None:
        super().__init__()
        width = config.predictor_width
        self.head_width, self.encoder_config = width // config.predictor_heads, encoder
        out = config.target_width(encoder)
        self.inward: nn.Module = (
            nn.Linear(encoder.width, width) if config.levels == 1 else FusedLevels(encoder.width, config.levels, width)
        )
        self.outward = nn.Linear(width, out)
        self.outward_visible = nn.Linear(width, out) if config.context_weight else None
        self.mask_token = nn.Parameter(torch.zeros(config.mask_tokens, 1, width))
        self.blocks = nn.ModuleList(
            Block(width, config.predictor_heads, encoder.mlp_ratio) for _ in range(config.predictor_depth)
        )
        self.norm = nn.LayerNorm(width)
        initialise(self, config.predictor_depth)

    def forward(self, context: Tensor, mask: Mask, frames: int, grid: Grid, number: int = 0) -> Tensor:
        """`context [B, K, L * D]` of the visible tokens → predictions `[B, M, L * D]`, or pixels, of hidden ones.

        `number` is that of the mask in its step.
        """
        tokens = self._transform(context, mask, frames, grid, number)
        return self.outward(self.norm(tokens[:, mask.visible.shape[1] :]))

    def predict_all(
        self, context: Tensor, mask: Mask, frames: int, grid: Grid, number: int = 0
    ) -> tuple[Tensor, Tensor]:
        """Predictions for the hidden tokens, `[B, M, L * D]`, and for the visible ones, `[B, K, L * D]`."""
        assert self.outward_visible is not None, "there is no loss on context tokens"
        tokens, num_visible = self._transform(context, mask, frames, grid, number), mask.visible.shape[1]
        hidden, visible = self.norm(tokens[:, num_visible:]), self.norm(tokens[:, :num_visible])
        return self.outward(hidden), self.outward_visible(visible)

    def _transform(self, context: Tensor, mask: Mask, frames: int, grid: Grid, number: int) -> Tensor:
        """Visible tokens, then hidden ones, after the blocks, `[B, K + M, width]`."""
        num_hidden = mask.hidden.shape[1]
        order = torch.cat([mask.visible, mask.hidden], dim=1)
        coordinates = token_coordinates(frames, grid).to(context.device)
        visible = self.inward(context)
        token = self.mask_token[number % len(self.mask_token)]
        hidden = token.expand(context.shape[0], num_hidden, -1).to(visible.dtype)
        tokens = torch.cat([visible, hidden], dim=1)
        angles = self.encoder_config.angles(coordinates, grid, self.head_width)
        if angles is None:
            tokens = tokens + sincos_positions(coordinates, tokens.shape[-1]).to(tokens.dtype)[order]
        else:
            angles = angles[order]
        for block in self.blocks:
            tokens = block(tokens, angles)
        return tokens


class Jepa(nn.Module):
    """Context encoder, mask predictor and target encoder.

    The loss is the mean over hidden tokens i of d(predictor(context)_i - sg(y_i)), y = n(layer_norm(target(clip))).
    d(e) is the mean over features of |e| (`loss` l1) or e² (l2). n is the normalisation that `targets` names. sg stops
    the gradient. The target encoder's weights xi follow those of the context encoder, xi <- m xi + (1 - m) theta.
    With `targets` pixels, y are the clip's normalised pixels, and there is no use for the target encoder.
    With several masks, the loss is their mean. Added to it, with their weights, are the same loss on visible tokens
    (`context_weight`: sum of d(...) / (K distance^p), as the predictor predicts them; `visible_weight`: as a linear map
    does) and VICReg's terms of the context encoder's features (`variance_weight`, `covariance_weight`).
    """

    def __init__(self, encoder: EncoderConfig, config: JepaConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = VisionTransformer(encoder)
        if config.levels > len(self.encoder.blocks):
            raise UserError(
                f"jepa.levels {config.levels}: expected at most the encoder's number of blocks, "
                f"{len(self.encoder.blocks)}"
            )
        self.predictor = MaskPredictor(encoder, config)
        self.target = copy.deepcopy(self.encoder)
        self.target.requires_grad_(False)
        self.visible_head = nn.Linear(encoder.width, encoder.width) if config.visible_weight else None

    def forward(
        self,
        clips: Tensor,
        masks: Sequence[Mask],
        seen_by_target: Tensor | None = None,
        progress: float = 1.0,
    ) -> dict[str, Tensor]:
        """Loss and its parts for clips `[B, T, H, W, 3]`. The key `features` has the target features `[B, N, D]`, or
        pixels.

        `seen_by_target` is another version of the clips for the target encoder, for example in another light. What
        differs between the two versions cannot be predicted, and features lose it. `progress` of the training, from 0
        to 1, decides on the weight of the loss on context tokens.
        """
        config, frames = self.config, self.encoder.config.layers(clips.shape[1])
        grid = self.encoder.config.grid(*clips.shape[2:4])
        with torch.no_grad():
            features, target = self._targets(clips if seen_by_target is None else seen_by_target, frames)
        terms: dict[str, list[Tensor]] = {}
        for number, mask in enumerate(masks):
            for name, value in self._terms(clips, mask, number, target, frames, grid).items():
                terms.setdefault(name, []).append(value)
        means = {name: torch.stack(values).mean() for name, values in terms.items()}
        zero = means["prediction"].new_zeros(())
        parts = {name: means.get(name, zero) for name in ("prediction", "visible", "variance", "covariance")}
        regularised = config.variance_weight * parts["variance"] + config.covariance_weight * parts["covariance"]
        loss = parts["prediction"] + config.visible_weight * parts["visible"] + regularised
        if "context" in means:
            loss = loss + config.context_weight_at(progress) * means["context"]
            parts["context"] = means["context"]
        return {"loss": loss, **parts, "features": features}

    def _targets(self, clips: Tensor, frames: int) -> tuple[Tensor, Tensor]:
        """Features of the last level, `[B, N, D]`, and what is predicted, `[B, N, L * D]`. Both may be pixels."""
        config, encoder = self.config, self.encoder.config
        if config.targets == PIXELS:
            pixels = to_unit_range(clips) if clips.dtype == torch.uint8 else clips.float()
            pixels = tubelet_pixels(pixels, encoder.tubelet_frames, encoder.patch_size)
            return pixels, pixels
        features = layer_normed(encode_levels(self.target, clips, None, config.levels).float(), config.levels)
        return features[..., -encoder.width :], normalised(features, frames, config.targets)

    def _terms(
        self, clips: Tensor, mask: Mask, number: int, target: Tensor, frames: int, grid: Grid
    ) -> dict[str, Tensor]:
        """The terms of the loss for mask `number` that are switched on."""
        config, terms = self.config, {}
        levels = encode_levels(self.encoder, clips, mask.visible, config.levels)
        hidden_target = gather_tokens(target, mask.hidden)
        if config.context_weight:
            predicted, seen = self.predictor.predict_all(levels, mask, frames, grid, number)
            weights = context_weights(mask, frames, grid, config.context_distance_power)
            wanted = gather_tokens(target, mask.visible)
            terms["context"] = error(seen.float(), wanted, config.loss, weights)
        else:
            predicted = self.predictor(levels, mask, frames, grid, number)
        terms["prediction"] = error(predicted.float(), hidden_target, config.loss)
        context = levels[..., -self.encoder.config.width :]
        if self.visible_head is not None:
            wanted = gather_tokens(target, mask.visible)[..., -self.encoder.config.width :]
            terms["visible"] = error(self.visible_head(context).float(), wanted, config.loss)
        if config.variance_weight or config.covariance_weight:
            terms["variance"], terms["covariance"] = regularise(context.flatten(0, 1))
        return terms

    @torch.no_grad()
    def update_target(self, momentum: float) -> None:
        """Move the target encoder toward the context encoder."""
        for target, source in zip(self.target.parameters(), self.encoder.parameters(), strict=True):
            own(target).lerp_(own(source), 1.0 - momentum)

"""What a step of V-JEPA pretraining costs: parameters, operations and memory of every component.

Everything is computed from sizes, and nothing is allocated. Operations are those of matrix products, two for each
multiplication with addition. Memory is what training keeps from the forward to the backward pass in half precision, and
the parameters with their gradients and two averages of AdamW in single precision. What torch needs in between is not
counted.

Shapes: `B` clips of a batch, `N` tokens of a clip, `K` of them that are computed, `D` width.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Final

import torch

from worldmodel.encoders.attention import FEW_TOKENS, mlp_size
from worldmodel.encoders.base import Grid
from worldmodel.encoders.jepa.losses import PIXELS
from worldmodel.encoders.jepa.objective import JepaConfig, MaskPredictor
from worldmodel.encoders.vit import DROP, FACTORISED, EncoderConfig, VisionTransformer

_SINGLE, _HALF = 4, 2  # bytes of a number
_ADAMW: Final = 4  # a parameter, its gradient and two averages
# Bytes that a block keeps for each token and feature in half precision, without attention weights and dropout, where
# the MLP is four times as wide: 34 less two masks of one byte (Korthikanti et al., arXiv 2205.05198, section 4.1).
_KEPT_BY_A_BLOCK: Final = 32.0
_BACKWARD: Final = 2  # the backward pass has two products for each one of the forward pass


@dataclasses.dataclass(frozen=True)
class Cost:
    """One component, in one training step.

    Attributes:
        name: name of the component.
        parameters: number of parameters.
        operations: operations of forward and backward pass.
        parameter_bytes: memory of the parameters, and of what training keeps for each.
        activation_bytes: memory of what is kept for the backward pass.
    """

    name: str
    parameters: int
    operations: float
    parameter_bytes: int
    activation_bytes: float


@dataclasses.dataclass(frozen=True)
class Stack:
    """Transformer blocks that run over the same tokens.

    Attributes:
        depth: number of blocks.
        width: size of a token, D.
        hidden: hidden size of the MLP.
        heads: attention heads.
        groups: groups of tokens that attend to each other.
        tokens: tokens of a group.
    """

    depth: int
    width: int
    hidden: int
    heads: int
    groups: float
    tokens: float

    @property
    def operations(self) -> float:
        """Operations of a forward pass: `2 K (4 D² + 2 D hidden) + 4 K² D` for each block and group of K tokens."""
        each = 2 * self.tokens * (4 * self.width**2 + 2 * self.width * self.hidden) + 4 * self.tokens**2 * self.width
        return self.depth * self.groups * each

    def kept_bytes(self, checkpointing: bool) -> float:
        """Memory that a forward pass leaves for the backward pass [bytes].

        With checkpointing it is the input of every block, and all of one block, which is computed again.
        """
        features = self.groups * self.tokens * self.width
        # The MLP keeps its hidden numbers before and after the activation.
        block = features * (_KEPT_BY_A_BLOCK + 2 * _HALF * (self.hidden / self.width - 4))
        if self.tokens <= FEW_TOKENS:  # the weights of attention, on a CPU
            block += _HALF * self.groups * self.heads * self.tokens**2
        return self.depth * features * _HALF + block if checkpointing else self.depth * block


def encoder_stacks(config: EncoderConfig, frames: int, places: float) -> list[Stack]:
    """The blocks of an encoder for one clip of `frames` tubelet layers with `places` computed tokens each."""
    hidden = mlp_size(config.width, config.mlp_ratio)
    shape = (config.width, hidden, config.heads)
    if config.attention == FACTORISED:
        spatial = Stack(config.depth, *shape, groups=frames, tokens=places)
        return [spatial, Stack(config.temporal_depth, *shape, groups=places, tokens=frames)]
    return [Stack(config.depth, *shape, groups=1, tokens=frames * places)]


def costs(
    encoder: EncoderConfig, jepa: JepaConfig, batch: int, frames: int, grid: Grid, visible: Sequence[float]
) -> list[Cost]:
    """The context encoder, the target encoder and the mask predictor in one step, and their sum.

    Args:
        encoder: shape of the encoder.
        jepa: shape of the mask predictor.
        batch: clips, B.
        frames: tubelet layers of a clip.
        grid: tokens of a layer.
        visible: share of the tokens that each of the masks leaves visible.
    """
    with torch.device("meta"):
        whole = sum(p.numel() for p in VisionTransformer(encoder).parameters())
        predictor = sum(p.numel() for p in MaskPredictor(encoder, jepa).parameters())
    tokens = frames * grid.tokens
    embedding = 2.0 * tokens * 3 * encoder.tubelet_frames * encoder.patch_size**2 * encoder.width
    passes = 1 + _BACKWARD + (1 if encoder.checkpointing else 0)
    context, context_kept, guessed, guessed_kept = 0.0, 0.0, 0.0, 0.0
    for share in visible:
        computed = share if encoder.hidden == DROP else 1.0
        for stack in encoder_stacks(encoder, frames, computed * grid.tokens):
            context += passes * stack.operations
            context_kept += stack.kept_bytes(encoder.checkpointing)
        context += (1 + _BACKWARD) * embedding
        hidden = mlp_size(jepa.predictor_width, encoder.mlp_ratio)
        blocks = Stack(jepa.predictor_depth, jepa.predictor_width, hidden, jepa.predictor_heads, 1, tokens)
        outward = jepa.target_width(encoder) if jepa.targets == PIXELS else encoder.width
        ends = 2.0 * tokens * (share * encoder.width + (1 - share) * outward) * jepa.predictor_width
        guessed += (1 + _BACKWARD) * (blocks.operations + ends)
        guessed_kept += blocks.kept_bytes(False)
    target = embedding + sum(stack.operations for stack in encoder_stacks(encoder, frames, grid.tokens))
    if jepa.targets == PIXELS:
        target = 0.0
    parts = [
        Cost("context encoder", whole, batch * context, _ADAMW * _SINGLE * whole, batch * context_kept),
        Cost("target encoder", whole, batch * target, _SINGLE * whole, 0.0),
        Cost("mask predictor", predictor, batch * guessed, _ADAMW * _SINGLE * predictor, batch * guessed_kept),
    ]
    return [*parts, total(parts)]


def total(parts: Sequence[Cost]) -> Cost:
    """The sum of all parts."""
    return Cost(
        "total",
        sum(part.parameters for part in parts),
        sum(part.operations for part in parts),
        sum(part.parameter_bytes for part in parts),
        sum(part.activation_bytes for part in parts),
    )

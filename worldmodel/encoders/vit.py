"""Vision transformer over tubelet tokens (V-JEPA, arXiv 2404.08471, section 3; V-JEPA 2, arXiv 2506.09985).

Shapes: `B` clips, `T` frames, `H, W` image height and width, `N` tokens of a clip in (t, y, x) order, `K` of them that
are kept, `D` width, `E` numbers of the rotary angles.
"""

from __future__ import annotations

import dataclasses
from typing import Final

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from worldmodel.encoders.attention import Attention, Block, attend, drawing_again, initialise
from worldmodel.encoders.base import Encoder, Grid, PatchGrid
from worldmodel.encoders.factorised import attend_in_turn
from worldmodel.encoders.positions import (
    POSITIONS,
    SINCOS,
    rotary_angles,
    rotate,
    sincos_positions,
    stretched,
    token_coordinates,
)

__all__ = [
    "Attention", "Block", "EncoderConfig", "VisionTransformer", "attend", "gather_tokens", "initialise",
    "rotary_angles", "rotate", "sincos_positions", "to_unit_range", "token_coordinates",
]  # fmt: skip

JOINT: Final = "joint"
FACTORISED: Final = "factorised"
DROP: Final = "drop"
MASK_TOKEN: Final = "mask_token"


@dataclasses.dataclass(frozen=True)
class EncoderConfig(PatchGrid):
    """Shape of the encoder.

    Attributes:
        tubelet_frames: frames that one tubelet spans.
        width: size of a token.
        depth: transformer blocks. With factorised attention, blocks over space.
        heads: attention heads. `width / heads` must be even.
        mlp_ratio: ratio of the hidden size of a block's MLP to `width`.
        positions: `sincos` (added once, V-JEPA) or rotary (in every attention). Of the rotary kinds, `rotary_vjepa2`
            and `rotary_vjepa2_1` are those of Meta's weights, and `rotary` is this project's (`rotary_angles`).
        position_grid: side of the grid that rotary positions are stretched to for images of any size. V-JEPA 2.1 has 16
            for patches of 16 pixels. 0 leaves rows and columns as they are.
        attention: `joint` among all tokens of a clip, or `factorised` over space and then over time.
        temporal_depth: blocks over time that follow those over space, with factorised attention.
        hidden: what becomes of hidden tokens in training. `drop` leaves them out (V-JEPA). `mask_token` keeps a learned
            token with their position in their place, at the cost of computing all tokens.
        still_tubelet: whether single images have a tubelet of one frame with its own weights (V-JEPA 2.1). Otherwise an
            image is repeated over a tubelet.
        norm_epsilon: number that the layer norms add to the variance.
        drop_path: share of samples for which the last block's branches are left out in training. It grows linearly from
            0 in the first block.
        checkpointing: whether training computes the blocks again in the backward pass, and keeps less in memory.
    """

    kind = "vit"
    tubelet_frames: int = 2
    width: int = 128
    depth: int = 4
    heads: int = 4
    mlp_ratio: float = 4.0
    positions: str = SINCOS
    position_grid: int = 0
    attention: str = JOINT
    temporal_depth: int = 4
    hidden: str = DROP
    still_tubelet: bool = False
    norm_epsilon: float = 1e-5
    drop_path: float = 0.0
    checkpointing: bool = False

    def __post_init__(self) -> None:
        for name in ("patch_size", "tubelet_frames", "width", "depth", "heads", "temporal_depth"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.width % (2 * self.heads):
            raise ValueError(f"width {self.width} is not a multiple of twice the heads ({self.heads})")
        if not 1 / self.width <= self.mlp_ratio <= 1024:
            raise ValueError(f"mlp_ratio {self.mlp_ratio} must be at least 1 / width and at most 1024")
        for name, choices in (
            ("positions", POSITIONS),
            ("attention", (JOINT, FACTORISED)),
            ("hidden", (DROP, MASK_TOKEN)),
        ):
            if getattr(self, name) not in choices:
                raise ValueError(f"{name} '{getattr(self, name)}' is unknown: choose from {', '.join(sorted(choices))}")
        if self.position_grid < 0:
            raise ValueError(f"position_grid {self.position_grid}: expected 0 or the side of a grid")
        if not 0 < self.norm_epsilon < 1:
            raise ValueError(f"norm_epsilon {self.norm_epsilon}: expected a number between 0 and 1")
        if not 0 <= self.drop_path < 1:
            raise ValueError(f"drop_path {self.drop_path}: expected a number from 0 to below 1")

    @property
    def blocks(self) -> int:
        """Number of all transformer blocks."""
        return self.depth + (self.temporal_depth if self.attention == FACTORISED else 0)

    @property
    def image_frames(self) -> int:
        """Frames of the clip that a single image is made into."""
        return 1 if self.still_tubelet else self.tubelet_frames

    def layers(self, frames: int) -> int:
        """Tubelet layers of a clip of `frames` frames, or of a single image."""
        return 1 if frames == self.image_frames else frames // self.tubelet_frames

    def angles(self, coordinates: Tensor, grid: Grid, head_width: int) -> Tensor | None:
        """Rotary angles `[N, E]` of tokens at `coordinates [N, 3]`. None if positions are added instead."""
        if self.positions == SINCOS:
            return None
        places = stretched(coordinates, grid, self.position_grid) if self.position_grid else coordinates
        return rotary_angles(places, head_width, self.positions)


def to_unit_range(pixels: Tensor) -> Tensor:
    """uint8 pixels to floats in [-2, 2], with roughly zero mean and unit spread for images of any kind."""
    return (pixels.float() / 63.75).sub_(2.0)


def gather_tokens(tokens: Tensor, keep: Tensor) -> Tensor:
    """Pick `keep [B, K]` out of `tokens [B, N, D]` → `[B, K, D]`."""
    return torch.gather(tokens, 1, keep[..., None].expand(-1, -1, tokens.shape[-1]))


def _tubelet(config: EncoderConfig, frames: int) -> nn.Linear:
    return nn.Linear(3 * frames * config.patch_size**2, config.width)


class VisionTransformer(Encoder):
    """The V-JEPA encoder: tubelets → tokens → blocks → layer norm."""

    config: EncoderConfig

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.config = config
        self.tubelet = _tubelet(config, config.tubelet_frames)
        # One by one, since a stranger's checkpoint may ask for any number of blocks, and is refused on the way.
        rates = (config.drop_path * i / max(config.blocks - 1, 1) for i in range(config.blocks))
        self.blocks = nn.ModuleList(
            Block(config.width, config.heads, config.mlp_ratio, rate, config.norm_epsilon) for rate in rates
        )
        self.norm = nn.LayerNorm(config.width, config.norm_epsilon)
        # Made last, so that the other parameters do not depend on them.
        self.still = _tubelet(config, 1) if config.still_tubelet else None
        self.mask_token = nn.Parameter(torch.zeros(config.width)) if config.hidden == MASK_TOKEN else None
        initialise(self, config.blocks)
        # Pixels are correlated within a tubelet, so unit-gain weights keep them visible beside the positions.
        for tubelet in (self.tubelet, self.still):
            if tubelet is not None:
                nn.init.xavier_uniform_(tubelet.weight)

    def embed(self, clips: Tensor) -> Tensor:
        """Clips, uint8 or float `[B, T, H, W, 3]`, → tubelet embeddings `[B, N, D]` without positions."""
        size, frames = self.config.patch_size, self._tubelet_frames(clips)
        pixels = to_unit_range(clips) if clips.dtype == torch.uint8 else clips
        patches = rearrange(pixels, "b (t f) (y p) (x q) c -> b (t y x) (f p q c)", f=frames, p=size, q=size)
        tubelet = self.still if self.still is not None and clips.shape[1] == 1 else self.tubelet
        return tubelet(patches)

    def forward(self, clips: Tensor, keep: Tensor | None = None) -> Tensor:
        """Encode clips `[B, T, H, W, 3]` to `[B, N, D]`, or only their tokens `keep [B, K]` to `[B, K, D]`."""
        tokens = self.embed(clips)
        frames, grid = self.config.layers(clips.shape[1]), self.config.grid(*clips.shape[2:4])
        coordinates = token_coordinates(frames, grid).to(clips.device)
        masked = None
        if keep is not None and self.mask_token is not None:
            seen = torch.zeros(tokens.shape[:2], dtype=torch.bool, device=tokens.device).scatter_(1, keep, True)
            tokens = torch.where(seen[..., None], tokens, self.mask_token.to(tokens.dtype))
            masked, keep = keep, None
        angles = self.config.angles(coordinates, grid, self.config.width // self.config.heads)
        if angles is None:
            tokens = tokens + sincos_positions(coordinates, self.config.width).to(tokens.dtype)
        if keep is not None:
            tokens = gather_tokens(tokens, keep)
        if angles is not None:
            angles = angles[None] if keep is None else angles[keep]
        if self.config.attention == JOINT:
            tokens = self._run(slice(None), tokens, angles)
        else:
            tokens = attend_in_turn(tokens, angles, keep, frames, grid.tokens, self._spatial, self._temporal)
        return self.norm(tokens if masked is None else gather_tokens(tokens, masked))

    def _tubelet_frames(self, clips: Tensor) -> int:
        """Frames of a tubelet of `clips [B, T, H, W, 3]`."""
        is_image = clips.shape[1] == self.config.image_frames
        return self.config.image_frames if is_image else self.config.tubelet_frames

    def _spatial(self, tokens: Tensor, angles: Tensor | None, allowed: Tensor | None) -> Tensor:
        return self._run(slice(self.config.depth), tokens, angles, allowed)

    def _temporal(self, tokens: Tensor, angles: Tensor | None, allowed: Tensor | None) -> Tensor:
        return self._run(slice(self.config.depth, None), tokens, angles, allowed)

    def _run(self, part: slice, tokens: Tensor, angles: Tensor | None, allowed: Tensor | None = None) -> Tensor:
        """`tokens [B, K, D]` after the blocks in `part`."""
        for block in self.blocks[part]:
            if self.config.checkpointing and self.training and torch.is_grad_enabled():
                tokens = checkpoint(block, tokens, angles, allowed, use_reentrant=False, context_fn=drawing_again)
            else:
                tokens = block(tokens, angles, allowed)
        return tokens

    def encode_frames(self, pixels: Tensor) -> Tensor:
        """Images, uint8 or float `[B, H, W, 3]` → `[B, N, D]`. Each is repeated over one tubelet, or is a still one.

        V-JEPA 2-AC encodes robot frames by repeating them, and V-JEPA 2.1 has a tubelet for single images.
        """
        return self(pixels[:, None].expand(-1, self.config.image_frames, -1, -1, -1))

    @property
    def tubelet_frames(self) -> int:
        """See `Encoder.tubelet_frames`."""
        return self.config.tubelet_frames

    def encode_tubelets(self, clips: Tensor) -> Tensor:
        """See `Encoder.encode_tubelets`."""
        return self(clips).unflatten(1, (self.config.layers(clips.shape[1]), -1))

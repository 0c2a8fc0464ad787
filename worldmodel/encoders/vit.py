"""Vision transformer over tubelet tokens (V-JEPA, arXiv 2404.08471, section 3; V-JEPA 2, arXiv 2506.09985).

Shapes: `B` clips, `T` frames, `H, W` image height and width, `N` tokens of a clip in (t, y, x) order, `K` of them that
are kept, `D` width.
"""

from __future__ import annotations

import dataclasses
import math

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from worldmodel.encoders.base import Encoder, Grid, PatchGrid


@dataclasses.dataclass(frozen=True)
class EncoderConfig(PatchGrid):
    """Shape of the encoder.

    Attributes:
        tubelet_frames: frames that one tubelet spans.
        width: size of a token.
        depth: transformer blocks.
        heads: attention heads. `width / heads` must be even.
        mlp_ratio: ratio of the hidden size of a block's MLP to `width`.
        positions: `sincos` (added once, V-JEPA) or `rotary` (in every attention, V-JEPA 2).
    """

    kind = "vit"
    tubelet_frames: int = 2
    width: int = 128
    depth: int = 4
    heads: int = 4
    mlp_ratio: float = 4.0
    positions: str = "sincos"

    def __post_init__(self) -> None:
        for name in ("patch_size", "tubelet_frames", "width", "depth", "heads"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.width % (2 * self.heads):
            raise ValueError(f"width {self.width} is not a multiple of twice the heads ({self.heads})")
        if not 1 / self.width <= self.mlp_ratio <= 1024:
            raise ValueError(f"mlp_ratio {self.mlp_ratio} must be at least 1 / width and at most 1024")
        if self.positions not in ("sincos", "rotary"):
            raise ValueError(f"positions '{self.positions}' is unknown: choose from rotary, sincos")


def token_coordinates(frames: int, grid: Grid) -> Tensor:
    """(t, y, x) of every token of a clip with `frames` tubelet layers, integer `[N, 3]` in token order."""
    axes = torch.meshgrid(*(torch.arange(count) for count in (frames, grid.rows, grid.columns)), indexing="ij")
    return torch.stack(axes, dim=-1).reshape(-1, 3)


def _axis_sizes(width: int) -> tuple[int, int, int]:
    """Split an even `width` into even parts for t, y and x. Space gets the remainder of the division by three."""
    time = width // 3 // 2 * 2
    y = (width - time) // 2 // 2 * 2
    return time, y, width - time - y


def sincos_positions(coordinates: Tensor, width: int) -> Tensor:
    """Fixed 3-D sine-cosine embedding `[..., width]` of `coordinates [..., 3]`."""
    parts = []
    for axis, size in enumerate(_axis_sizes(width)):
        frequency = torch.exp(-math.log(10_000.0) * torch.arange(size // 2, device=coordinates.device) / (size // 2))
        angle = coordinates[..., axis, None].float() * frequency
        parts += [angle.sin(), angle.cos()]
    return torch.cat(parts, dim=-1)


def rotary_angles(coordinates: Tensor, head_width: int) -> Tensor:
    """Rotation angles `[..., head_width / 2]` of `coordinates [..., 3]`. Every axis has a share of the pairs."""
    parts = []
    for axis, size in enumerate(_axis_sizes(head_width)):
        frequency = 10_000.0 ** (-torch.arange(size // 2, device=coordinates.device) / max(size // 2, 1))
        parts.append(coordinates[..., axis, None].float() * frequency)
    return torch.cat(parts, dim=-1)


def rotate(tokens: Tensor, angles: Tensor) -> Tensor:
    """Rotate the pairs of `tokens [B, heads, K, head_width]` by `angles [B or 1, K, head_width / 2]`."""
    first, second = tokens.chunk(2, dim=-1)
    cos, sin = angles.cos()[:, None].to(tokens.dtype), angles.sin()[:, None].to(tokens.dtype)
    return torch.cat([first * cos - second * sin, first * sin + second * cos], dim=-1)


def attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Softmax attention over `[B, heads, K, head_width]`.

    For the few tokens of a small image, torch's fused attention in bf16 on a CPU takes 3 to 6 times as long, forward
    and backward, as the two batched products. In float32, which planning uses for encoding, it is faster.
    """
    if query.device.type == "cpu" and query.dtype == torch.bfloat16:
        return torch.softmax((query * query.shape[-1] ** -0.5) @ key.transpose(-1, -2), dim=-1) @ value
    return F.scaled_dot_product_attention(query, key, value)


class Attention(nn.Module):
    """Multi-head self-attention, with rotary positions where angles are given."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)

    def forward(self, tokens: Tensor, angles: Tensor | None = None) -> Tensor:
        """`tokens [B, K, D]` → `[B, K, D]`."""
        query, key, value = rearrange(self.qkv(tokens), "b k (n h d) -> n b h k d", n=3, h=self.heads)
        if angles is not None:
            query, key = rotate(query, angles), rotate(key, angles)
        return self.out(rearrange(attend(query, key, value), "b h k d -> b k (h d)"))


class Block(nn.Module):
    """Pre-norm transformer block: x + attention(norm(x)), then x + mlp(norm(x))."""

    def __init__(self, width: int, heads: int, mlp_ratio: float) -> None:
        super().__init__()
        hidden = int(width * mlp_ratio)
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = Attention(width, heads)
        self.mlp = nn.Sequential(nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, width))

    def forward(self, tokens: Tensor, angles: Tensor | None = None) -> Tensor:
        """`tokens [B, K, D]` → `[B, K, D]`."""
        tokens = tokens + self.attention(self.norm1(tokens), angles)
        return tokens + self.mlp(self.norm2(tokens))


def initialise(module: nn.Module, depth: int) -> None:
    """Truncated normal of 0.02. The layers that write into the residual stream are scaled by 1 / sqrt(2 depth)."""
    for name, parameter in module.named_parameters():
        if parameter.ndim >= 2:
            is_residual = name.endswith(("attention.out.weight", "mlp.2.weight"))
            nn.init.trunc_normal_(parameter, std=0.02 / (math.sqrt(2 * depth) if is_residual else 1.0))
        elif name.endswith("bias"):
            nn.init.zeros_(parameter)


def to_unit_range(pixels: Tensor) -> Tensor:
    """uint8 pixels to floats in [-2, 2], with roughly zero mean and unit spread for images of any kind."""
    return (pixels.float() / 63.75).sub_(2.0)


def gather_tokens(tokens: Tensor, keep: Tensor) -> Tensor:
    """Pick `keep [B, K]` out of `tokens [B, N, D]` → `[B, K, D]`."""
    return torch.gather(tokens, 1, keep[..., None].expand(-1, -1, tokens.shape[-1]))


class VisionTransformer(Encoder):
    """The V-JEPA encoder: tubelets → tokens → blocks → layer norm."""

    config: EncoderConfig

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.config = config
        self.tubelet = nn.Linear(3 * config.tubelet_frames * config.patch_size**2, config.width)
        self.blocks = nn.ModuleList(Block(config.width, config.heads, config.mlp_ratio) for _ in range(config.depth))
        self.norm = nn.LayerNorm(config.width)
        initialise(self, config.depth)
        # Pixels are correlated within a tubelet, so unit-gain weights keep them visible beside the positions.
        nn.init.xavier_uniform_(self.tubelet.weight)

    def embed(self, clips: Tensor) -> Tensor:
        """Clips, uint8 or float `[B, T, H, W, 3]`, → tubelet embeddings `[B, N, D]` without positions."""
        size = self.config.patch_size
        pixels = to_unit_range(clips) if clips.dtype == torch.uint8 else clips
        patches = rearrange(
            pixels, "b (t f) (y p) (x q) c -> b (t y x) (f p q c)", f=self.config.tubelet_frames, p=size, q=size
        )
        return self.tubelet(patches)

    def forward(self, clips: Tensor, keep: Tensor | None = None) -> Tensor:
        """Encode clips `[B, T, H, W, 3]` to `[B, N, D]`, or only their tokens `keep [B, K]` to `[B, K, D]`."""
        tokens = self.embed(clips)
        frames = clips.shape[1] // self.config.tubelet_frames
        coordinates = token_coordinates(frames, self.config.grid(*clips.shape[2:4])).to(clips.device)
        angles = None
        if self.config.positions == "sincos":
            tokens = tokens + sincos_positions(coordinates, self.config.width).to(tokens.dtype)
        else:
            angles = rotary_angles(coordinates, self.config.width // self.config.heads)[None]
        if keep is not None:
            tokens = gather_tokens(tokens, keep)
            angles = None if angles is None else angles[0][keep]
        for block in self.blocks:
            tokens = block(tokens, angles)
        return self.norm(tokens)

    def encode_frames(self, pixels: Tensor) -> Tensor:
        """Images, uint8 `[B, H, W, 3]`, each repeated over one tubelet → `[B, N, D]`.

        V-JEPA 2-AC encodes robot frames the same way.
        """
        clips = pixels[:, None].expand(-1, self.config.tubelet_frames, -1, -1, -1)
        return self(clips)

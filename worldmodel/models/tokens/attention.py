"""Attention among the tokens of several frames, with its mask over frames and its position embeddings.

Shapes: `B` sequences, `Q` query tokens, `K` key tokens (cached ones first), `D` width,
`E = D / heads` width of a head.
"""

from __future__ import annotations

import dataclasses

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from worldmodel.encoders.vit import rotate


@dataclasses.dataclass(frozen=True)
class KeyValue:
    """Keys and values `[B, heads, K, E]` of the previous frames in one block. The keys are rotated already."""

    key: Tensor
    value: Tensor

    def followed_by(self, later: KeyValue) -> KeyValue:
        """The tokens of both, `later` at the end. A single row of this one is shared by all rows of `later`."""
        rows = len(later.key)
        key, value = (part.expand(rows, -1, -1, -1) for part in (self.key, self.value))
        return KeyValue(torch.cat([key, later.key], 2), torch.cat([value, later.value], 2))

    def last(self, count: int) -> KeyValue:
        """The last `count` tokens."""
        start = max(self.key.shape[2] - count, 0)
        return KeyValue(self.key[:, :, start:], self.value[:, :, start:])


def attend(query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None) -> Tensor:
    """`softmax(Q K^T / sqrt(E) + bias) V`, `[B, heads, Q, E]`, with `bias [heads or 1, Q, K]`.

    In bf16 on a CPU, two batched products are several times as fast as torch's fused attention (`encoders.vit.attend`).
    """
    if query.device.type == "cpu" and query.dtype == torch.bfloat16:
        scores = (query * query.shape[-1] ** -0.5) @ key.transpose(-1, -2)
        return torch.softmax(scores if bias is None else scores + bias.to(scores.dtype), dim=-1) @ value
    mask = None if bias is None else bias.to(query.dtype)[None].expand(len(query), -1, -1, -1)
    return F.scaled_dot_product_attention(query, key, value, attn_mask=mask)


class CachedAttention(nn.Module):
    """Multi-head attention of new tokens to themselves and to those of a cache."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(
        self, tokens: Tensor, bias: Tensor | None, angles: Tensor | None, past: KeyValue | None
    ) -> tuple[Tensor, KeyValue]:
        """`tokens [B, Q, D]` → `[B, Q, D]`, and the keys and values of `past` and `tokens`."""
        query, key, value = rearrange(self.qkv(tokens), "b q (n h e) -> n b h q e", n=3, h=self.heads)
        if angles is not None:
            query, key = rotate(query, angles), rotate(key, angles)
        known = KeyValue(key, value)
        if past is not None:
            known = past.followed_by(known)
        attended = attend(query, known.key, known.value, bias)
        return self.out(rearrange(attended, "b h q e -> b q (h e)")), known


class CausalBlock(nn.Module):
    """Pre-norm transformer block, `x + attention(norm(x))`, then `x + mlp(norm(x))`.

    With `adaptive`, a condition c scales and shifts the input of both branches and gates their output (AdaLN-zero,
    Peebles and Xie 2023, arXiv 2212.09748): `x + g(c) branch((1 + s(c)) norm(x) + b(c))`. The functions g, s and b are
    zero at first, so a block begins as the identity.
    """

    def __init__(self, width: int, heads: int, mlp_ratio: float, adaptive: bool) -> None:
        super().__init__()
        hidden = int(width * mlp_ratio)
        self.norm1, self.norm2 = (nn.LayerNorm(width, elementwise_affine=not adaptive) for _ in range(2))
        self.attention = CachedAttention(width, heads)
        self.mlp = nn.Sequential(nn.Linear(width, hidden), nn.GELU(approximate="tanh"), nn.Linear(hidden, width))
        self.modulation = nn.Linear(width, 6 * width) if adaptive else None

    def forward(
        self,
        tokens: Tensor,
        condition: Tensor | None,
        bias: Tensor | None,
        angles: Tensor | None,
        past: KeyValue | None,
    ) -> tuple[Tensor, KeyValue]:
        """`tokens [B, Q, D]` → `[B, Q, D]`, keys and values. `condition [B, T, D]` has one row per group of tokens."""
        if self.modulation is None or condition is None:
            attended, known = self.attention(self.norm1(tokens), bias, angles, past)
            tokens = tokens + attended
            return tokens + self.mlp(self.norm2(tokens)), known
        modulation = self.modulation(F.silu(condition)).repeat_interleave(tokens.shape[1] // condition.shape[1], dim=1)
        shift1, scale1, gate1, shift2, scale2, gate2 = modulation.chunk(6, dim=-1)
        attended, known = self.attention(self.norm1(tokens) * (1 + scale1) + shift1, bias, angles, past)
        tokens = tokens + gate1 * attended
        return tokens + gate2 * self.mlp(self.norm2(tokens) * (1 + scale2) + shift2), known


class FrameOrder(nn.Module):
    """Which frames a token attends to: its own and the `window - 1` previous ones, and no later one.

    Without rotary positions, a learned number per head weights the frames of each age. The age of a frame does not
    depend on when the sequence began, so a rollout may have any length.
    """

    def __init__(self, window: int, heads: int, by_age: bool) -> None:
        super().__init__()
        self.window = window
        self.age = nn.Parameter(torch.zeros(heads, window)) if by_age else None

    def forward(self, query_steps: Tensor, key_steps: Tensor) -> Tensor:
        """Bias `[heads or 1, Q, K]` on the attention of tokens of frames `query_steps [Q]` to `key_steps [K]`."""
        age = query_steps[:, None] - key_steps[None]
        outside = (age < 0) | (age >= self.window)
        if self.age is None:
            return torch.zeros(outside.shape, device=outside.device).masked_fill(outside, -torch.inf)[None]
        return self.age[:, age.clamp(0, self.window - 1)].masked_fill(outside, -torch.inf)

"""The blocks of vision transformers.

Shapes: `B` clips, `K` tokens of each, `D` width, `E` width of an attention head.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Final

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from worldmodel.core.ranks import ALONE, Rank
from worldmodel.encoders.positions import rotate

# Up to this number of tokens, two batched products in bf16 on a CPU take less time than torch's fused attention
# (`benchmarks.learning.attention`, EXPERIMENTS.md). They also keep K² numbers per head for the backward pass.
FEW_TOKENS: Final = 784


def attend(query: Tensor, key: Tensor, value: Tensor, allowed: Tensor | None = None) -> Tensor:
    """Softmax attention over `[B, heads, K, E]`, among pairs that are True in `allowed [B or 1, 1, K, K]`.

    On a CPU in bf16, two batched products are several times as fast as torch's fused attention for the few tokens of a
    small image, and slower for many. In float32, which planning uses for encoding, fused attention is faster.
    """
    if query.device.type == "cpu" and query.dtype == torch.bfloat16 and key.shape[2] <= FEW_TOKENS:
        scores = (query * query.shape[-1] ** -0.5) @ key.transpose(-1, -2)
        if allowed is not None:
            scores = scores.masked_fill(~allowed, -torch.inf)
        return torch.softmax(scores, dim=-1) @ value
    return F.scaled_dot_product_attention(query, key, value, attn_mask=allowed)


class Attention(nn.Module):
    """Multi-head self-attention, with rotary positions where angles are given."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)

    def forward(self, tokens: Tensor, angles: Tensor | None = None, allowed: Tensor | None = None) -> Tensor:
        """`tokens [B, K, D]` → `[B, K, D]`. `angles` are those of `rotary_angles`, `allowed` is that of `attend`."""
        query, key, value = rearrange(self.qkv(tokens), "b k (n h d) -> n b h k d", n=3, h=self.heads)
        if angles is not None:
            query, key = rotate(query, angles), rotate(key, angles)
        return self.out(rearrange(attend(query, key, value, allowed), "b h k d -> b k (h d)"))


@dataclasses.dataclass(frozen=True)
class _Drawn:
    """Which samples `drop_path` draws for: the share of `rank` in a batch of which it has `clips`."""

    rank: Rank
    clips: int | None


_drawn = _Drawn(ALONE, None)


@contextmanager
def repeatable(seed: int, rank: Rank = ALONE, clips: int | None = None) -> Iterator[None]:
    """A context in which `drop_path` depends on `seed` alone. The state of torch's generator is restored at its end.

    Args:
        seed: seed of all that is drawn.
        rank: the rank whose share of the batch is encoded. It draws for all ranks, so that a clip's draw does not
            depend on their number.
        clips: clips of the share. A block may see several rows of each.
    """
    with _drawing(_Drawn(rank, clips)), torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


@contextmanager
def _drawing(drawn: _Drawn) -> Iterator[None]:
    global _drawn
    before, _drawn = _drawn, drawn
    try:
        yield
    finally:
        _drawn = before


def drawing_again() -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
    """Contexts for the forward pass of `checkpoint`, and for the second one, which comes after `repeatable` has ended.

    torch restores the state of its generator for the second pass, and `drop_path` then draws for the same samples.
    """
    return nullcontext(), _drawing(_drawn)


def drop_path(branch: Tensor, rate: float) -> Tensor:
    """`branch [B, K, D]` with `rate` of its samples set to 0, and the others divided by `1 - rate`.

    The expected value is unchanged (stochastic depth, arXiv 1603.09382, per sample). The samples are drawn with torch's
    generator for the CPU, whatever the device (`repeatable`).
    """
    rank, clips = _drawn.rank, _drawn.clips or len(branch)
    kept = rank.share(torch.rand(len(branch) * rank.count, 1, 1), len(branch) // clips) >= rate
    return branch * (kept / (1 - rate)).to(branch)


class Block(nn.Module):
    """Pre-norm transformer block: x + attention(norm(x)), then x + mlp(norm(x)).

    Where gradients are computed in training, each of the two branches is left out for a share `drop_path` of the
    samples. The targets of V-JEPA need no gradients and are whole.
    """

    def __init__(
        self, width: int, heads: int, mlp_ratio: float, drop_path: float = 0.0, norm_epsilon: float = 1e-5
    ) -> None:
        super().__init__()
        hidden = mlp_size(width, mlp_ratio)
        self.drop_path = drop_path
        self.norm1, self.norm2 = nn.LayerNorm(width, norm_epsilon), nn.LayerNorm(width, norm_epsilon)
        self.attention = Attention(width, heads)
        self.mlp = nn.Sequential(nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, width))

    def forward(self, tokens: Tensor, angles: Tensor | None = None, allowed: Tensor | None = None) -> Tensor:
        """`tokens [B, K, D]` → `[B, K, D]`. The other arguments are those of `Attention`."""
        tokens = tokens + self._dropped(self.attention(self.norm1(tokens), angles, allowed))
        return tokens + self._dropped(self.mlp(self.norm2(tokens)))

    def _dropped(self, branch: Tensor) -> Tensor:
        dropped = self.training and self.drop_path and torch.is_grad_enabled()
        return drop_path(branch, self.drop_path) if dropped else branch


def mlp_size(width: int, mlp_ratio: float) -> int:
    """Hidden size of a block's MLP. A ratio such as 48 / 11 is not exact, so a product just below a number counts."""
    return math.floor(width * mlp_ratio + 1e-6)


def initialise(module: nn.Module, depth: int) -> None:
    """Truncated normal of 0.02. The layers that write into the residual stream are scaled by 1 / sqrt(2 depth)."""
    for name, parameter in module.named_parameters():
        if parameter.ndim >= 2:
            is_residual = name.endswith(("attention.out.weight", "mlp.2.weight"))
            nn.init.trunc_normal_(parameter, std=0.02 / (math.sqrt(2 * depth) if is_residual else 1.0))
        elif name.endswith("bias"):
            nn.init.zeros_(parameter)

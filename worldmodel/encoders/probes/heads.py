"""The heads of probes, which are trained on features of a frozen encoder.

Shapes: `B` clips, `K` tokens of a clip, `D` width, `Q` queries, `C` numbers to predict, `F` tubelets, `N` tokens of a
tubelet.
"""

from __future__ import annotations

import torch
from einops import rearrange
from torch import Tensor, nn

from worldmodel.encoders.attention import Block, attend, initialise, mlp_size

_MLP_RATIO = 4.0


class CrossAttention(nn.Module):
    """Queries look at tokens: q + attention(q, norm(tokens)), then q + mlp(norm(q)), as in V-JEPA's evaluations."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        hidden = mlp_size(width, _MLP_RATIO)
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.query, self.key_value = nn.Linear(width, width), nn.Linear(width, 2 * width)
        self.out = nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, width))

    def forward(self, queries: Tensor, tokens: Tensor) -> Tensor:
        """`queries [B, Q, D]` and `tokens [B, K, D]` → `[B, Q, D]`."""
        query = rearrange(self.query(queries), "b q (h d) -> b h q d", h=self.heads)
        key, value = rearrange(self.key_value(self.norm1(tokens)), "b k (n h d) -> n b h k d", n=2, h=self.heads)
        queries = queries + self.out(rearrange(attend(query, key, value), "b h q d -> b q (h d)"))
        return queries + self.mlp(self.norm2(queries))


class AttentiveHead(nn.Module):
    """The attentive probe of V-JEPA (arXiv 2404.08471, section 4) and V-JEPA 2 (arXiv 2506.09985, section 5).

    Learned queries look at the tokens in a block of cross-attention. In V-JEPA 2, three blocks of self-attention among
    the tokens come before it (`depth` 4). V-JEPA has none (`depth` 1). A linear map of each query is the prediction.

    Args:
        width: width of the tokens, D.
        heads: attention heads, which divide the width.
        depth: number of all blocks.
        queries: number of queries, Q: one for a class, one for each frame for a point.
        out: numbers that are predicted from each, C.
    """

    def __init__(self, width: int, heads: int, depth: int, queries: int, out: int) -> None:
        super().__init__()
        self.queries = nn.Parameter(torch.zeros(1, queries, width))
        self.blocks = nn.ModuleList(Block(width, heads, _MLP_RATIO) for _ in range(depth - 1))
        self.cross = CrossAttention(width, heads)
        self.predict = nn.Linear(width, out)
        initialise(self, depth)

    def forward(self, tokens: Tensor) -> Tensor:
        """`tokens [B, K, D]` → `[B, Q, C]`."""
        for block in self.blocks:
            tokens = block(tokens)
        return self.predict(self.cross(self.queries.expand(len(tokens), -1, -1), tokens))


class MeanHead(nn.Module):
    """The linear probe: a linear map of the mean of all tokens.

    Args:
        width: width of the tokens, D.
        out: numbers that are predicted, C.
    """

    def __init__(self, width: int, out: int) -> None:
        super().__init__()
        self.predict = nn.Linear(width, out)

    def forward(self, tokens: Tensor) -> Tensor:
        """`tokens [B, K, D]` → `[B, 1, C]`."""
        return self.predict(tokens.mean(1, keepdim=True))


class TubeletHead(nn.Module):
    """A linear map from all tokens of a tubelet to the numbers of its frames, alike for all tubelets.

    Args:
        tokens: tokens of a tubelet, N.
        width: width of the tokens, D.
        frames: frames of a tubelet.
        out: numbers of a frame, C.
    """

    def __init__(self, tokens: int, width: int, frames: int, out: int) -> None:
        super().__init__()
        self._tokens, self._frames = tokens, frames
        self.predict = nn.Linear(tokens * width, frames * out)

    def forward(self, tokens: Tensor) -> Tensor:
        """`tokens [B, F * N, D]` → `[B, F * frames, C]`."""
        by_tubelet = rearrange(tokens, "b (f n) d -> b f (n d)", n=self._tokens)
        return rearrange(self.predict(by_tubelet), "b f (t c) -> b (f t) c", t=self._frames)

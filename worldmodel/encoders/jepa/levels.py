"""Features of several depths of an encoder at once (V-JEPA 2.1).

Shapes: `B` clips, `T, H, W` their frames, height and width, `N` tokens of a clip, `K` of them that are kept, `L`
levels, `D` width.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from worldmodel.encoders.vit import VisionTransformer, gather_tokens


def level_blocks(depth: int, levels: int) -> tuple[int, ...]:
    """Numbers of the blocks whose outputs are the levels, evenly spaced. The last block is the last level.

    They are those of V-JEPA 2.1 for 12, 24 and 40 blocks and four levels.
    """
    return tuple(depth * (level + 1) // levels - 1 for level in range(levels))


def encode_levels(encoder: VisionTransformer, clips: Tensor, keep: Tensor | None, levels: int) -> Tensor:
    """Encode clips `[B, T, H, W, 3]`, or only their tokens `keep [B, K]`, to `[B, N or K, L * D]`.

    The parts before the last are outputs of blocks. The last one is the output of the encoder, after its norm.
    """
    if levels == 1:
        return encoder(clips, keep)
    found: list[Tensor] = []
    blocks = [encoder.blocks[number] for number in level_blocks(len(encoder.blocks), levels)[:-1]]
    hooks = [block.register_forward_hook(lambda _module, _inputs, output: found.append(output)) for block in blocks]
    try:
        last = encoder(clips, keep)
    finally:
        for hook in hooks:
            hook.remove()
    if keep is not None:  # an encoder may replace hidden tokens, and drop them after its last block
        found = [level if level.shape[1] == keep.shape[1] else gather_tokens(level, keep) for level in found]
    return torch.cat([*found, last], dim=-1)


class FusedLevels(nn.Module):
    """Normalises the levels of a token, and projects them together: the input of the mask predictor.

    Args:
        width: width of a level, D.
        levels: number of levels, L, at least 2.
        out: size of the result.
    """

    def __init__(self, width: int, levels: int, out: int) -> None:
        super().__init__()
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(levels - 1))  # the last level is normed already
        self.project = nn.Sequential(nn.Linear(width * levels, width), nn.GELU(), nn.Linear(width, out))

    def forward(self, tokens: Tensor) -> Tensor:
        """`tokens [B, K, L * D]` → `[B, K, out]`."""
        *inner, last = tokens.chunk(len(self.norms) + 1, dim=-1)
        normed = [norm(level) for norm, level in zip(self.norms, inner, strict=True)]
        return self.project(torch.cat([*normed, last], dim=-1))

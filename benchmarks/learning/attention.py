"""Time of attention in bf16 on a CPU: two batched products over torch's fused attention, by number of tokens.

    python -m benchmarks.learning.attention                  # heads of 32 and of 64 numbers, one thread

Below 1, the two products are faster. They are used up to `worldmodel.encoders.attention.FEW_TOKENS` tokens.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from unittest.mock import patch

import torch
from torch import Tensor

from worldmodel.encoders import attention

SHAPES = ((4, 32), (6, 64), (12, 64))  # heads and their width: the encoder of this project, ViT-S and ViT-B
TOKENS = (16, 64, 196, 392, 784, 1024, 1568, 3136)  # 784 are 8 frames of 224² in tubelets of two, 1568 are 16
NUMBERS = 4_000_000  # weights of attention in a batch, so that all sizes take a similar time


def seconds(few: int, parts: list[Tensor], backward: bool) -> float:
    """The least time of three calls with `FEW_TOKENS` set to `few` [s]."""

    def call() -> None:
        result = attention.attend(*parts)
        if backward:
            result.backward(result.detach())

    with patch.object(attention, "FEW_TOKENS", few):
        return min(_timed(call) for _ in range(4))


def _timed(call: Callable[[], None]) -> float:
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


def main() -> None:
    """Print a line for each shape and number of tokens."""
    torch.set_num_threads(1)
    for heads, width in SHAPES:
        for tokens in TOKENS:
            batch = max(1, min(64, NUMBERS // (heads * tokens**2)))
            ratios = []
            for backward in (False, True):
                shape = (batch, heads, tokens, width)
                parts = [torch.randn(shape, dtype=torch.bfloat16, requires_grad=backward) for _ in range(3)]
                ratios.append(seconds(2**31, parts, backward) / seconds(0, parts, backward))
            print(
                f"{heads} heads of {width}, {batch} x {tokens} tokens: {ratios[0]:.2f}, with gradients {ratios[1]:.2f}"
            )


if __name__ == "__main__":
    main()

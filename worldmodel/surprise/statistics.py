"""Uncertainty of a rate over scenes, and tests of whether one differs from chance or from another."""

from __future__ import annotations

import math
from typing import Final

import numpy as np
from numpy.typing import NDArray

_Z: Final = 1.959963985  # 95 %


def wilson(rate: float, n: int) -> tuple[float, float]:
    """95 % interval of a `rate` over `n` independent trials (Wilson 1927). A trial may count in part."""
    if n == 0:
        return 0.0, 1.0
    centre = rate + _Z * _Z / (2 * n)
    spread = _Z * math.sqrt(rate * (1 - rate) / n + _Z * _Z / (4 * n * n))
    scale = 1 + _Z * _Z / n
    return max(0.0, (centre - spread) / scale), min(1.0, (centre + spread) / scale)


def sign_test(differences: NDArray[np.float64]) -> float:
    """Two-sided exact p-value for the hypothesis that `differences` are as often above 0 as below.

    Zeros do not count.
    """
    above, below = int((differences > 0).sum()), int((differences < 0).sum())
    n = above + below
    if n == 0:
        return 1.0
    tail = sum(math.comb(n, k) for k in range(min(above, below) + 1))
    return min(1.0, tail / 2 ** (n - 1))

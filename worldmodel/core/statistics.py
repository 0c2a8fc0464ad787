"""Uncertainty of a rate, the sign test, and how well a score tells two groups apart."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray


def wilson_interval(successes: float, n: int, z: float = 1.959963985) -> tuple[float, float]:
    """Interval for a rate of `successes` out of `n` (Wilson 1927). `z` 1.96 gives 95 %. A trial may count in part.

    `(p + z^2/2n ± z sqrt(p(1-p)/n + z^2/4n^2)) / (1 + z^2/n)`. Unlike the textbook `p ± z sqrt(p(1-p)/n)`, it has its
    nominal coverage near 0 and 1. Without a trial, it is (0, 1).
    """
    if not 0 <= successes <= n:
        raise ValueError(f"{successes} successes out of {n}")
    if n == 0:
        return 0.0, 1.0
    rate = successes / n
    centre = rate + z * z / (2 * n)
    spread = z * math.sqrt(rate * (1 - rate) / n + z * z / (4 * n * n))
    scale = 1 + z * z / n
    # At the ends, and next to them, the formula gives 0 and 1 except for rounding.
    low = 0.0 if successes == 0 else max(0.0, (centre - spread) / scale)
    high = 1.0 if successes == n else min(1.0, (centre + spread) / scale)
    return low, high


def sign_test_p(above: int, below: int) -> float:
    """Two-sided exact p-value for the hypothesis that differences are as often `above` 0 as `below`.

    Differences of 0 say nothing. If there are no others, p is 1.
    """
    if min(above, below) < 0:
        raise ValueError(f"counts must not be negative, got {above} and {below}")
    n = above + below
    tail = sum(math.comb(n, k) for k in range(min(above, below) + 1))
    return min(1.0, tail / 2 ** (n - 1)) if n else 1.0


def auroc(scores: NDArray[np.float64], positive: NDArray[np.bool_]) -> float:
    """Chance that a positive of `[n]` has a higher score than a negative. Ties count half. NaN without one of them."""
    ordered, ranks = np.unique(scores, return_inverse=True)
    counts = np.bincount(ranks, minlength=len(ordered))
    # Equal scores share the middle of their ranks (Mann and Whitney 1947).
    middle = np.cumsum(counts) - (counts - 1) / 2
    positives = int(positive.sum())
    pairs = positives * (len(scores) - positives)
    if not pairs:
        return float("nan")
    return float((middle[ranks][positive].sum() - positives * (positives + 1) / 2) / pairs)

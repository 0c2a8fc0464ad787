"""Uncertainty of a success rate, and of the difference between two."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray


def wilson_interval(successes: int, n: int, z: float = 1.959963985) -> tuple[float, float]:
    """Interval for a rate of `successes` out of `n` (Wilson 1927). `z` 1.96 gives 95 %.

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
    # At the ends, the formula gives 0 and 1 except for rounding.
    low = 0.0 if successes == 0 else (centre - spread) / scale
    high = 1.0 if successes == n else (centre + spread) / scale
    return low, high


def mcnemar_p(a_only: int, b_only: int) -> float:
    """Two-sided exact p-value for the hypothesis that `a` alone and `b` alone succeed equally often (McNemar 1947).

    Attempts that both or neither solved say nothing about which method is better. If there are no others, p is 1.
    """
    if min(a_only, b_only) < 0:
        raise ValueError(f"counts must not be negative, got {a_only} and {b_only}")
    n = a_only + b_only
    tail = sum(math.comb(n, k) for k in range(min(a_only, b_only) + 1))
    return min(1.0, tail / 2 ** (n - 1)) if n else 1.0


def paired_bootstrap_interval(
    a: NDArray[np.bool_], b: NDArray[np.bool_], resamples: int, seed: int, coverage: float = 0.95
) -> tuple[float, float]:
    """Percentile interval for `mean(a) - mean(b)` of outcomes `[trainings, pairs]` on the same pairs.

    Pairs are drawn with replacement, and so are trainings if there are several (Efron and Tibshirani 1993), because
    both the pairs and the seeds of the trainings are samples.
    """
    if a.shape != b.shape or a.ndim != 2 or a.size == 0:
        raise ValueError(f"expected outcomes [trainings, pairs] of one shape, got {a.shape} and {b.shape}")
    gain = a.astype(np.float64) - b
    trainings, pairs = gain.shape
    rng = np.random.default_rng(seed)
    means = np.empty(resamples)
    for i in range(resamples):
        means[i] = gain[rng.integers(trainings, size=trainings)][:, rng.integers(pairs, size=pairs)].mean()
    low, high = np.quantile(means, [(1 - coverage) / 2, (1 + coverage) / 2])
    return float(low), float(high)

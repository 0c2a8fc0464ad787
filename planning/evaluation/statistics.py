"""Whether two success rates differ, and by how much."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from worldmodel.core.statistics import sign_test_p


def mcnemar_p(a_only: int, b_only: int) -> float:
    """Two-sided exact p-value for the hypothesis that `a` alone and `b` alone succeed equally often (McNemar 1947).

    Attempts that both or neither solved say nothing about which method is better. If there are no others, p is 1.
    """
    return sign_test_p(a_only, b_only)


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

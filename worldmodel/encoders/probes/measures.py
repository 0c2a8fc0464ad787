"""Figures of probes with their uncertainty.

Shapes: `n` clips, `m` training runs.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from worldmodel.core.statistics import auroc

Floats = NDArray[np.float64]
_COVERAGE = 0.95


def bootstrap_interval(values: Floats, resamples: int = 2000, seed: int = 0) -> tuple[float, float]:
    """Percentile interval of 95 % for the mean of `values [m, n]` (Efron and Tibshirani 1993).

    Clips are drawn with replacement, and so are training runs if there are several, since both are samples.
    """
    assert values.ndim == 2 and values.size
    rng, (runs, clips) = np.random.default_rng(seed), values.shape
    means = [values[rng.integers(runs, size=runs)][:, rng.integers(clips, size=clips)].mean() for _ in range(resamples)]
    return _bounds(np.array(means))


def auroc_interval(
    scores: Floats, positive: NDArray[np.bool_], resamples: int = 2000, seed: int = 0
) -> tuple[float, float]:
    """Percentile interval of 95 % for `auroc`. Positives and negatives are drawn each from their own."""
    rng = np.random.default_rng(seed)
    groups = [np.flatnonzero(positive), np.flatnonzero(~positive)]
    found = []
    for _ in range(resamples):
        rows = np.concatenate([rng.choice(group, len(group)) for group in groups])
        found.append(auroc(scores[rows], positive[rows]))
    return _bounds(np.array(found))


def _bounds(values: Floats) -> tuple[float, float]:
    low, high = np.quantile(values, [(1 - _COVERAGE) / 2, (1 + _COVERAGE) / 2])
    return float(low), float(high)

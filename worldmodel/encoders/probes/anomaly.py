"""Whether clips of other classes than the normal one stand out, to a score that has only seen the normal one.

Shapes: `n` clips, `F` tubelets, `N` tokens of a tubelet, `D` width, `P = F * D` numbers of a clip.
"""

from __future__ import annotations

import dataclasses
from typing import Final

import numpy as np
from numpy.typing import NDArray

from worldmodel.core.statistics import auroc
from worldmodel.encoders.probes.classify import Splits
from worldmodel.encoders.probes.features import ClipShape
from worldmodel.encoders.probes.measures import auroc_interval

Floats = NDArray[np.float64]
GAUSSIAN: Final = "gaussian"
NEAREST: Final = "nearest"
SCORES: Final = (GAUSSIAN, NEAREST)
# What is added to the variance of every direction, as a share of the mean variance. Fewer clips than numbers leave most
# directions without any variance, and these would dominate.
_SHRINKAGE: Final = 0.1
_NEIGHBOURS: Final = 5  # a single neighbour may be an outlier itself


@dataclasses.dataclass(frozen=True)
class Detected:
    """The result of one score.

    Attributes:
        auroc: chance that a clip that is not normal has a higher score than one that is.
        low, high: its 95 % interval, by bootstrap over clips.
        scores: the score of each clip, float `[n]`.
    """

    auroc: float
    low: float
    high: float
    scores: Floats


def detect(splits: Splits, normal: int, shape: ClipShape) -> dict[str, Detected]:
    """AUROC of both scores, on the clips to report on.

    Features are the means over the tokens of every tubelet, side by side, so that what is unusual only by its place is
    not seen. Only clips of class `normal` are trained on. `gaussian` is the Mahalanobis distance to their mean, and
    `nearest` the mean distance to the five nearest of them.
    """
    train, test = splits.train, splits.test
    known = _by_tubelet(train.features, train.rows[train.targets == normal], shape)
    mean, spread = known.mean(0), known.std(0) + 1e-6
    known, seen = (known - mean) / spread, (_by_tubelet(test.features, test.rows, shape) - mean) / spread
    positive = np.asarray(test.targets != normal)
    found = {}
    for name, scores in ((GAUSSIAN, mahalanobis(known, seen)), (NEAREST, nearest(known, seen))):
        found[name] = Detected(auroc(scores, positive), *auroc_interval(scores, positive), scores)
    return found


def _by_tubelet(features: NDArray[np.float16], rows: NDArray[np.int64], shape: ClipShape) -> Floats:
    """Means over the tokens of every tubelet of the clips `rows [n]`, `[n, P]`."""
    parts = []
    for part in np.array_split(rows, -(-len(rows) // 256)):  # a memory map need not fit into memory
        tokens = features[part].astype(np.float32).reshape(len(part), shape.tubelets, -1, shape.width)
        parts.append(tokens.mean(2).reshape(len(part), -1))
    return np.concatenate(parts).astype(np.float64)


def mahalanobis(known: Floats, seen: Floats) -> Floats:
    """Distance of each row of `seen [n, P]` from the mean of `known [m, P]`, in units of the spread of `known`.

    d² = (x - mean)ᵀ (S + c I)⁻¹ (x - mean), where S is the covariance of `known` and c a share of its mean variance.
    """
    mean = known.mean(0)
    _, scales, directions = np.linalg.svd(known - mean, full_matrices=False)
    variances = scales**2 / max(len(known) - 1, 1)
    added = _SHRINKAGE * variances.sum() / known.shape[1] + 1e-12
    away = seen - mean
    along = away @ directions.T
    # Outside of the directions of `known`, there is nothing but what was added.
    outside = np.maximum((away**2).sum(1) - (along**2).sum(1), 0)
    return np.sqrt((along**2 / (variances + added)).sum(1) + outside / added)


def nearest(known: Floats, seen: Floats) -> Floats:
    """Mean distance of each row of `seen [n, P]` to the nearest rows of `known [m, P]`."""
    count = min(_NEIGHBOURS, len(known))
    squares = (seen**2).sum(1)[:, None] + (known**2).sum(1) - 2 * seen @ known.T
    return np.sqrt(np.maximum(np.partition(squares, count - 1, axis=1)[:, :count], 0)).mean(1)

"""LeRobot's statistics of every column, for each episode and over all episodes.

Shapes: `n` rows, `D` numbers per row, `C` channels of an image. Statistics of images are `[C, 1, 1]`, in 0 to 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

QUANTILES: Final = {"q01": 0.01, "q10": 0.1, "q50": 0.5, "q90": 0.9, "q99": 0.99}
_MOST_PICTURES = 100  # images per episode
_MOST_SIDE = 150  # pixels; larger images are subsampled

Statistics = dict[str, NDArray[Any]]


def of_numbers(values: NDArray[Any]) -> Statistics:
    """Statistics of a column `[n]` or `[n, D]`, which are `[D]` each, and `[1]` for `count`."""
    rows = values.reshape(len(values), -1).astype(np.float64)
    with np.errstate(over="ignore", invalid="ignore"):  # squares of numbers near the largest there are
        return _of_rows(rows, len(rows))


def of_pictures(pixels: NDArray[np.uint8]) -> Statistics:
    """Statistics of up to 100 images of an episode, spread evenly over `pixels`, uint8 `[n, H, W, C]`."""
    chosen = np.unique(np.linspace(0, len(pixels) - 1, min(len(pixels), _MOST_PICTURES)).round().astype(int))
    step = max(1, min(pixels.shape[1:3]) // _MOST_SIDE)
    points = pixels[chosen, ::step, ::step].reshape(-1, pixels.shape[3])
    found = _of_rows(points / 255.0, len(chosen))
    return {name: value if name == "count" else value[:, None, None] for name, value in found.items()}


def combine(parts: Sequence[dict[str, Statistics]]) -> dict[str, Statistics]:
    """Statistics over all episodes, from those of each episode. Quantiles are averaged, as LeRobot does."""
    with np.errstate(over="ignore", invalid="ignore"):  # squares of numbers near the largest there are
        return {name: _combined([part[name] for part in parts]) for name in parts[0]}


def _of_rows(rows: NDArray[np.float64], count: int) -> Statistics:
    found: Statistics = {"min": rows.min(0), "max": rows.max(0), "mean": rows.mean(0), "std": rows.std(0)}
    found["count"] = np.array([count])
    for name, value in zip(QUANTILES, np.quantile(rows, list(QUANTILES.values()), axis=0), strict=True):
        found[name] = value
    return found


def _combined(parts: Sequence[Statistics]) -> Statistics:
    counts = np.concatenate([part["count"] for part in parts])
    weights = counts / counts.sum()

    def weighted(values: Sequence[NDArray[Any]]) -> NDArray[Any]:
        return np.tensordot(weights, np.stack(values), axes=1)

    mean = weighted([part["mean"] for part in parts])
    variance = weighted([part["std"] ** 2 + (part["mean"] - mean) ** 2 for part in parts])
    found: Statistics = {
        "min": np.min([part["min"] for part in parts], axis=0),
        "max": np.max([part["max"] for part in parts], axis=0),
        "mean": mean,
        "std": np.sqrt(variance),
        "count": np.array([counts.sum()]),
    }
    return found | {name: weighted([part[name] for part in parts]) for name in QUANTILES}

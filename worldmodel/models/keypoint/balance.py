"""Weights of keypoints, by which every thing in the scene counts alike, however many keypoints follow it.

The reconstruction decides how many keypoints follow a thing. Of two blocks of equal size, one may have eight and the
other one. The distance to a goal is a sum over keypoints, so that the second block would hardly count. Things are not
known, but the keypoints on one thing move together:

    w_k = v_k / sum_j c_kj² v_j

with the variance `v` of the keypoints' motions and the correlation `c` of these. A thing with n keypoints gives each of
them 1/n. A keypoint that belongs to no thing, and only wobbles when one passes, has almost no weight.

Shapes: `R` frames of a recording, `K` keypoints.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from worldmodel.data.clips import rows_followed

# Control steps over which motion is measured, so that it is larger than the noise of the keypoints.
_GAP: Final = 6


def balanced_weights(places: Tensor, episode_ends: NDArray[np.int64]) -> Tensor:
    """Weights `[K]` of keypoints at `places [R, K, 2]`, with a mean of 1.

    Args:
        places: keypoints of all frames, in half widths of the image.
        episode_ends: for every episode, the row after its last frame.
    """
    rows = torch.from_numpy(rows_followed(episode_ends, _GAP))
    moved = (places[rows + _GAP] - places[rows]).norm(dim=-1).double()
    if not len(moved):
        return torch.ones(places.shape[1])
    apart = moved - moved.mean(0)
    covariance = apart.T @ apart / len(apart)
    variance = covariance.diagonal()
    # c_kj² v_j = cov_kj² / v_k. What never moves has no weight.
    weights = variance.pow(2) / covariance.pow(2).sum(1).clamp_min(torch.finfo(torch.float64).tiny)
    total = weights.sum()
    return (weights * len(weights) / total).float() if total > 0 else torch.ones(len(weights))

"""Checks that a self-supervised loss does not replace: whether features still vary, and what can be read from them.

Shapes: `R` frames (rows), `N` tokens of a frame, `D` width, `Y` quantities to be read.
"""

from __future__ import annotations

import torch
from torch import Tensor


def spread(features: Tensor) -> float:
    """Root mean square of `features [R, N, D]` around each position's own mean.

    Features that depend on the position alone look healthy in every statistic that pools positions. Here they give 0.
    """
    return float((features - features.mean(0)).pow(2).mean().sqrt())


def effective_rank(features: Tensor) -> float:
    """exp(entropy) of the normalised covariance spectrum of `features [R, N, D]` around position means (1 to D).

    Roy and Vetterli, "The effective rank", EUSIPCO 2007, on variances.
    """
    centred = (features - features.mean(0)).flatten(0, 1)
    spectrum = torch.linalg.eigvalsh(centred.T @ centred / len(centred)).clamp_min(0)
    share = spectrum / spectrum.sum().clamp_min(1e-12)
    return float(torch.exp(-(share * torch.log(share.clamp_min(1e-12))).sum()))


def linear_probe(train_x: Tensor, train_y: Tensor, test_x: Tensor, test_y: Tensor, ridge: float = 1e-2) -> Tensor:
    """Coefficient of determination R² `[Y]` on held-out rows of a ridge regression `x [R, D] -> y [R, Y]`.

    Solved in the dual (R x R), because flattened tokens are wider than there are frames. Quantities that do not
    vary in the held-out rows get NaN.
    """
    mean_x, mean_y = train_x.mean(0), train_y.mean(0)
    scale = (train_x - mean_x).pow(2).sum(1).mean().sqrt().clamp_min(1e-12)
    inner, outer = (train_x - mean_x) / scale, (test_x - mean_x) / scale
    # Features have unit mean square, so `ridge` means the same for all encoders. Identical rows give 0.
    dual = torch.linalg.solve(inner @ inner.T + ridge * torch.eye(len(inner)), train_y - mean_y)
    residual = test_y - mean_y - outer @ (inner.T @ dual)
    total = (test_y - test_y.mean(0)).pow(2).sum(0)
    varies = total > 1e-8 * len(test_y)
    return torch.where(varies, 1 - residual.pow(2).sum(0) / total.clamp_min(1e-12), torch.nan)

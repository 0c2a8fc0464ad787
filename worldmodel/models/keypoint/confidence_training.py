"""What the calibration of confidence is made from: features that the predictor knows, and rollouts with their errors.

Shapes: `B` sequences of `T` frames (two of context and the rollout of `H = T - 2` control steps), `W` features.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from worldmodel.core.statistics import auroc
from worldmodel.models.keypoint.confidence import Confidence
from worldmodel.models.keypoint.model import KeypointModel
from worldmodel.models.keypoint.prediction_training import Recording, load_batch

_AT_ONCE: Final = 512
# Added to the variance of every direction of the features, as a share of the mean: those of hardly any would dominate.
_SHRINKAGE: Final = 0.01
REPORTED: Final = (0.5, 0.8, 0.9, 0.95)  # levels
_FOLDS: Final = 6  # each is judged by what five sixths of the rollouts say


@torch.no_grad()
def whiten_features(model: KeypointModel, recording: Recording, rows: NDArray[np.int64], device: torch.device) -> None:
    """Note mean and spread of the predictor's features on sequences `rows [B, T]`, for `strangeness`."""
    predictor, found = model.predictor, []
    steps = predictor.config.prediction_steps
    for part in _parts(rows):
        batch = load_batch(model, recording, part, device)
        actions = batch.actions[:, 1 : 1 + steps]
        padded = F.pad(actions, (0, 0, 0, steps - actions.shape[1]))  # as in a rollout that is shorter
        found.append(predictor.features(batch.start(), padded))
    features = torch.cat(found).double()
    predictor.feature_mean.copy_(features.mean(0))
    covariance = torch.cov(features.T)
    variances, directions = torch.linalg.eigh(covariance)
    variances = variances + _SHRINKAGE * variances.mean()
    predictor.feature_whitening.copy_(directions * variances.rsqrt())


@torch.no_grad()
def measure_rollouts(
    model: KeypointModel, recording: Recording, rows: NDArray[np.int64], device: torch.device
) -> tuple[Tensor, Tensor, Tensor]:
    """Errors, disagreement and strangeness `[B, H]` of imagining what was recorded at `rows [B, T]`, on the CPU."""
    errors, doubts = [], []
    for part in _parts(rows):
        batch = load_batch(model, recording, part, device)
        ahead = model.predictor.rollout(batch.start(), batch.actions[:, 1:], doubting=True)
        errors.append(model.between(ahead, batch.future()).cpu())
        doubts.append(torch.stack(model.doubts(ahead)).cpu())
    disagreement, strangeness = torch.cat(doubts, dim=1)
    return torch.cat(errors), disagreement, strangeness


def cross_fitted_coverage(errors: Tensor, disagreement: Tensor, strangeness: Tensor) -> dict[str, Any]:
    """The coverage of `coverage` on all rollouts `[B, H]`, each judged by a calibration that has not seen its fold.

    Rollouts of one episode follow each other, so that folds share no episode, but for those at their limits.
    """
    numbers = torch.arange(len(errors)).tensor_split(_FOLDS)
    rollouts = (errors, disagreement, strangeness)
    judged = []
    for fold in range(_FOLDS):
        others = torch.cat([part for number, part in enumerate(numbers) if number != fold])
        calibration = Confidence(errors.shape[1])
        calibration.fit(*(part[others] for part in rollouts))
        judged.append(judge(calibration, disagreement[numbers[fold]], strangeness[numbers[fold]]))
    expected, bounds = (torch.cat(parts, dim=-2) for parts in zip(*judged, strict=True))
    return coverage(errors, expected, bounds)


def judge(calibration: Confidence, disagreement: Tensor, strangeness: Tensor) -> tuple[Tensor, Tensor]:
    """Errors `[B, H]` that `calibration` expects, and its bounds `[Q, B, H]` at the levels that are reported."""
    bounds = torch.stack([calibration.bound(disagreement, strangeness, level) for level in REPORTED])
    return calibration.expected(disagreement, strangeness), bounds


def coverage(errors: Tensor, expected: Tensor, bounds: Tensor) -> dict[str, Any]:
    """How many of the errors `[B, H]` are within their bounds, by level and step; and how well doubt tells them apart.

    Args:
        errors: `[B, H]`.
        expected: errors that were expected, `[B, H]`.
        bounds: `[Q, B, H]`, at the levels of `REPORTED`.

    Returns:
        `coverage` by level and step. `auroc` by step: the probability that more was expected of one of the tenth of
        rollouts with the largest errors than of another one. 0.5 is chance.
    """
    covered = (errors <= bounds).float().mean(1)
    return {
        "rollouts": len(errors),
        "coverage": {str(level): row.tolist() for level, row in zip(REPORTED, covered, strict=True)},
        "auroc": [_auroc(expected[:, step], errors[:, step]) for step in range(errors.shape[1])],
    }


def _auroc(score: Tensor, error: Tensor) -> float:
    return auroc(score.double().numpy(), (error >= error.quantile(0.9)).numpy())


def _parts(rows: NDArray[np.int64]) -> list[NDArray[np.int64]]:
    return np.array_split(rows, max(1, -(-len(rows) // _AT_ONCE)))

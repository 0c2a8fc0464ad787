"""The parts of the V-JEPA losses: normalisation of targets, errors, weights of context tokens, and VICReg's terms.

Shapes: `B` clips, `T` tubelet layers, `N` tokens of a clip in (t, y, x) order, `K` visible and `M` hidden ones, `D`
features of a token, `R` rows. Statistics of a batch are over the rows of all ranks
(`worldmodel.training.collectives`).
"""

from __future__ import annotations

from typing import Final

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from worldmodel.core.ranks import here
from worldmodel.encoders.base import Grid
from worldmodel.encoders.jepa.masks import Mask
from worldmodel.encoders.vit import token_coordinates
from worldmodel.training.collectives import mean, total, variance

LOSSES: Final = ("l1", "l2")
PIXELS: Final = "pixels"
TARGETS: Final = ("instance", "layer_norm", PIXELS, "standardise", "whiten")


def error(predicted: Tensor, wanted: Tensor, loss: str, weights: Tensor | None = None) -> Tensor:
    """Mean of |e| (`l1`) or e² (`l2`) over tokens and features of `predicted` and `wanted [B, K, D]`.

    `weights [B, K]` multiply the errors of tokens before the mean, as in V-JEPA 2.1.
    """
    difference = predicted - wanted
    errors = difference.abs() if loss == "l1" else difference.pow(2)
    return errors.mean() if weights is None else (errors * weights[..., None]).mean()


def context_weights(mask: Mask, frames: int, grid: Grid, power: float) -> Tensor:
    """Weights `[B, K]` of the visible tokens, 1 / d^power. d is the distance to the nearest hidden token, in tokens.

    V-JEPA 2.1 weights the loss on context tokens with them. Its paper speaks of the distance (`power` 1), and its code
    takes the root of it (0.5, `masks_dist.py`). A power of 0 weights all alike.
    """
    coordinates = token_coordinates(frames, grid).to(mask.visible.device).float()
    distances = torch.cdist(coordinates[mask.visible], coordinates[mask.hidden])
    return distances.min(dim=-1).values.pow(-power)


def layer_normed(features: Tensor, levels: int) -> Tensor:
    """Layer norm without parameters of each of the `levels` parts of `features [B, N, levels * D]`."""
    parts = features.unflatten(-1, (levels, -1))
    return F.layer_norm(parts, parts.shape[-1:]).flatten(-2)


def normalised(features: Tensor, frames: int, targets: str) -> Tensor:
    """The targets of the loss from layer-normed `features [B, N, D]`. `JepaConfig` explains the names."""
    if targets == "instance":
        features = features - features.mean(1, keepdim=True)
    if targets in ("instance", "standardise"):
        return standardise(features, frames)
    return whiten(features, frames) if targets == "whiten" else features


def tubelet_pixels(clips: Tensor, frames: int, size: int) -> Tensor:
    """Normalised pixels of the tubelets of float `clips [B, T, H, W, 3]`, `[B, N, 3 * frames * size²]`.

    Each channel of a tubelet has its own mean and standard deviation removed, as in VideoMAE (arXiv 2203.12602).

    Args:
        clips: the clips.
        frames: frames of a tubelet.
        size: height and width of its patch [pixels].
    """
    patches = rearrange(clips, "b (t f) (y p) (x q) c -> b (t y x) (f p q) c", f=frames, p=size, q=size)
    # The small number is VideoMAE's. It keeps tubelets of one colour at 0.
    return ((patches - patches.mean(2, keepdim=True)) / (patches.std(2, keepdim=True) + 1e-6)).flatten(2)


def regularise(features: Tensor) -> tuple[Tensor, Tensor]:
    """VICReg's variance and covariance terms of `features [R, D]`: equations (1) and (3) of arXiv 2105.04906."""
    features = features.float() - mean(features.float().mean(0))
    std = torch.sqrt(variance(features) + 1e-4)
    covariance = total(features.T @ features) / (here().count * len(features) - 1)
    off_diagonal = covariance - torch.diag(covariance.diagonal())
    return F.relu(1 - std).mean(), off_diagonal.pow(2).sum() / features.shape[1]


def _without_place_means(features: Tensor, frames: int) -> Tensor:
    """`features [B, N, D]` minus each position's mean over clips and time, as `[B, T, positions, D]`."""
    by_place = features.unflatten(1, (frames, -1))
    return by_place - mean(by_place.mean((0, 1)))


def standardise(features: Tensor, frames: int) -> Tensor:
    """Remove each position's mean over clips and time from `features [B, N, D]`, and scale features to unit spread."""
    centred = _without_place_means(features, frames)
    return (centred / mean(centred.pow(2).mean((0, 1, 2))).sqrt().clamp_min(1e-4)).flatten(1, 2)


def whiten(features: Tensor, frames: int) -> Tensor:
    """Remove each position's mean from `features [B, N, D]`, and scale each principal direction to the same spread."""
    centred = _without_place_means(features, frames)
    rows = centred.flatten(0, 2)
    # Computed on the CPU, because other devices lack the decomposition or double precision.
    variances, directions = torch.linalg.eigh(mean(rows.T @ rows / len(rows)).cpu().double())
    # Directions with less than a thousandth of the largest variance are noise, and stay small.
    scale = (variances + 1e-3 * variances[-1]).clamp_min(1e-8).rsqrt()
    rows = rows @ ((directions * scale) @ directions.T).to(rows)
    rows = rows / mean(rows.pow(2).mean()).sqrt().clamp_min(1e-4)
    return rows.unflatten(0, centred.shape[:3]).flatten(1, 2)

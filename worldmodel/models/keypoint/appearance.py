"""The appearance embedding, a few numbers for what does not depend on position, such as the orientation of an object.

The features that the decoder needs (`keypoints`) mostly depend on how an object's edges fall on the grid of tokens.
They change as much when a block slides by a centimetre as when it turns by ten degrees, and their future is hard to
predict. The appearance embedding holds what remains once the position is known. It is learned by contrastive predictive
coding with hard negatives (van den Oord et al. 2018, arXiv 1807.03748). Positives are neighbours in time. Negatives are
other frames whose keypoints have nearly the same positions. If the scene rests while the robot moves, the embedding
must not change.

Shapes: `R` rows, `E` episodes, `K` keypoints, `Z` raw state, `L` numbers of an embedding.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn


class AppearanceEmbedding(nn.Module):
    """Raw state → appearance embedding, of unit length.

    Args:
        raw_size: Z.
        embedding: L.
        width: of the hidden layers.
    """

    raw_mean: Tensor
    raw_std: Tensor

    def __init__(self, raw_size: int, embedding: int, width: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for inner in (raw_size, width, width):
            layers += [nn.Linear(inner, width), nn.GELU(approximate="tanh")]
        self.layers = nn.Sequential(*layers, nn.Linear(width, embedding))
        self.register_buffer("raw_mean", torch.zeros(raw_size))
        self.register_buffer("raw_std", torch.ones(raw_size))

    def calibrate(self, raw: Tensor) -> None:
        """Store mean and spread of the raw states `[R, Z]`, which standardise the input. Called before training."""
        self.raw_mean.copy_(raw.mean(0))
        self.raw_std.copy_(raw.std(0).clamp_min(1e-4))

    def forward(self, raw: Tensor) -> Tensor:
        """`[..., Z]` → `[..., L]`."""
        return F.normalize(self.layers((raw - self.raw_mean) / self.raw_std).float(), dim=-1)


def rests(keypoints: Tensor, episode_ends: NDArray[np.int64], threshold: float) -> Tensor:
    """Numbers `[R]` of the periods of rest. Two rows have the same number if nothing moved between them.

    Args:
        keypoints: positions `[R, 2 K]` in half widths of the image.
        episode_ends: row after the last one of each episode `[E]`. Two episodes never share a number.
        threshold: keypoints that move less than this from row to row, root mean square over keypoints, are at rest.
            It is above 0 because a robot in front of an object shifts the object's keypoints a little.
    """
    step = torch.diff(keypoints, dim=0).unflatten(1, (-1, 2)).pow(2).sum(-1).mean(-1).sqrt()
    moved = F.pad(step > threshold, (1, 0))
    moved[torch.from_numpy(episode_ends[:-1])] = True
    return moved.long().cumsum(0)


def principal_places(keypoints: Tensor, kept: float = 0.98) -> Tensor:
    """The principal components `[R, ·]` of `keypoints [R, 2 K]` that hold the share `kept` of their variance.

    Several keypoints lie on one object. The omitted variance is small, and may be how they shift when it turns.
    """
    centred = keypoints - keypoints.mean(0)
    variances, directions = torch.linalg.eigh(centred.T @ centred / len(centred))
    share = variances.flip(0).cumsum(0) / variances.sum().clamp_min(1e-12)
    count = int((share < kept).sum()) + 1
    return centred @ directions.flip(1)[:, :count]

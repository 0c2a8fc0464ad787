"""Normalisation by dataset statistics, which are stored with a model's weights.

Shapes: `P` proprioception, `A` action.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from worldmodel.data.statistics import compute_statistics
from worldmodel.data.store.reader import TrajectoryStore


class Normaliser(nn.Module):
    """Dataset statistics of proprioception and actions, kept with the model as buffers: `(value - mean) / std`."""

    proprio_mean: Tensor
    proprio_std: Tensor
    action_mean: Tensor
    action_std: Tensor

    def __init__(self, proprio_size: int, action_size: int) -> None:
        super().__init__()
        for name, size in (("proprio", proprio_size), ("action", action_size)):
            self.register_buffer(f"{name}_mean", torch.zeros(size))
            self.register_buffer(f"{name}_std", torch.ones(size))

    def fit(self, store: TrajectoryStore, episodes: NDArray[np.int64]) -> None:
        """Store the statistics of the training `episodes`. Raises UserError if there are none."""
        statistics = compute_statistics(store, episodes)
        for name in ("proprio_mean", "proprio_std", "action_mean", "action_std"):
            getattr(self, name).copy_(torch.tensor(getattr(statistics, name)))

    def proprio(self, raw: Tensor) -> Tensor:
        """Standardise `[..., P]`."""
        return (raw - self.proprio_mean) / self.proprio_std

    def actions(self, raw: Tensor) -> Tensor:
        """Standardise `[..., A]`."""
        return (raw - self.action_mean) / self.action_std

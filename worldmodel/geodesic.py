"""How far apart two frames are along the frames that were recorded (landmark Isomap, de Silva and Tenenbaum 2002).

The distance between tokens says much about a block that is a little off and nothing about one that is far away: once
two pictures of it no longer overlap, every position is equally wrong, and a planner has nothing to follow. But short
distances can be trusted, and chains of them lead through the recording from any frame to any other. The length of the
shortest chain keeps growing with the way to go. It is computed between some frames of the recording, and a small
network learns to embed features so that Euclidean distances equal it.

No action, state or reward is used.

Shapes: `R` frames, `L` landmarks among them, `K` compressed features, `E` embedding.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import csr_array
from scipy.sparse.csgraph import dijkstra
from torch import Tensor, nn

from worldmodel.compression import Compression


@dataclasses.dataclass(frozen=True)
class GeodesicConfig:
    """Options of `GeodesicEmbedding`.

    Attributes:
        frames: nodes of the graph, R.
        landmarks: nodes from which path lengths are computed, L.
        neighbours: edges per node.
        coarseness: directions count with their variance to this power more than in the tokens' distance; what is large
            decides which frames are neighbours.
        inputs: leading components that are embedded; fine detail has no say in how far the way is.
        size: of the embedding, E.
        hidden: width of the network.
        steps: of its training.
        weight: of the path length beside the tokens' distance, when a planner asks how far a goal is.
    """

    frames: int = 4000
    landmarks: int = 800
    neighbours: int = 12
    coarseness: float = 0.5
    inputs: int = 64
    size: int = 16
    hidden: int = 256
    steps: int = 1500
    weight: float = 1.0

    def __post_init__(self) -> None:
        sizes = (self.frames, self.landmarks, self.neighbours, self.inputs, self.size, self.hidden, self.steps)
        if min(sizes) < 1 or self.coarseness < 0 or self.weight < 0:
            raise ValueError(f"sizes must be at least 1, coarseness and weight not negative, got {self}")


class GeodesicEmbedding(nn.Module):
    """phi with |phi(z) - phi(z')| ≈ length of the shortest path from z to z' through the recording.

    Scaled so that two random frames are 2 apart on average, as they are in `Compression.distance`.
    """

    def __init__(self, config: GeodesicConfig, feature_size: int) -> None:
        super().__init__()
        self.config, self.inputs = config, min(config.inputs, feature_size)
        hidden = config.hidden
        self.network = nn.Sequential(
            nn.Linear(self.inputs, hidden),
            nn.GELU(approximate="tanh"),
            nn.Linear(hidden, hidden),
            nn.GELU(approximate="tanh"),
            nn.Linear(hidden, config.size),
        )

    def forward(self, features: Tensor) -> Tensor:
        """Features `[..., K]` → `[..., E]`."""
        return self.network(features[..., : self.inputs])

    def distance(self, features: Tensor, goal: Tensor) -> Tensor:
        """Estimated path length `[...]` between features `[..., K]`."""
        return (self(features) - self(goal)).pow(2).sum(-1).clamp_min(1e-12).sqrt()

    def fit(self, features: Tensor, compression: Compression, seed: int) -> float:
        """Learn from `features [R, K]` of recorded frames; returns the relative error on pairs of frames.

        The recording need not be connected: pairs without a path are left out.
        """
        rng = np.random.default_rng(seed)
        points = (features * compression.coarse_weights(self.config.coarseness)).numpy()
        landmarks = np.sort(rng.choice(len(points), min(self.config.landmarks, len(points)), replace=False))
        lengths = torch.from_numpy(path_lengths(points, landmarks, self.config.neighbours)).float()
        reachable = torch.isfinite(lengths)
        lengths = torch.where(reachable, lengths, 0) * (2 / lengths[reachable].mean().clamp_min(1e-12))
        self.requires_grad_(True)  # the world model around it keeps it frozen
        optimiser = torch.optim.AdamW(self.parameters(), lr=1e-3, weight_decay=1e-3)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 2e-3, total_steps=self.config.steps)
        error = torch.zeros(())
        for _ in range(self.config.steps):
            rows = torch.from_numpy(rng.choice(len(landmarks), min(128, len(landmarks)), replace=False))
            columns = torch.from_numpy(rng.choice(len(points), min(256, len(points)), replace=False))
            wanted, counts = lengths[rows][:, columns], reachable[rows][:, columns]
            found = torch.cdist(self(features[landmarks][rows]), self(features[columns]))
            # Relative to the length, so that short ways are as right as long ones; a quarter is below any interest.
            relative = ((found - wanted) / (wanted + 0.25))[counts]
            error = relative.pow(2).mean()
            optimiser.zero_grad()
            error.backward()
            optimiser.step()
            schedule.step()
        self.requires_grad_(False)
        return float(error.detach().sqrt())


def path_lengths(points: NDArray[np.float32], sources: NDArray[np.int64], neighbours: int) -> NDArray[np.float64]:
    """Shortest path lengths `[L, R]` from `points[sources]` to all `points [R, K]` over edges to nearest neighbours."""
    squares = (points**2).sum(1)
    rows, columns, weights = [], [], []
    for start in range(0, len(points), 512):
        block = points[start : start + 512]
        distance = np.sqrt(np.maximum(squares[start : start + 512, None] + squares - 2 * block @ points.T, 1e-12))
        count = min(neighbours + 1, len(points))  # the nearest is the point itself
        nearest = np.argpartition(distance, count - 1, axis=1)[:, :count]
        rows.append(np.repeat(np.arange(start, start + len(block)), count))
        columns.append(nearest.ravel())
        weights.append(np.take_along_axis(distance, nearest, axis=1).ravel())
    graph = csr_array(
        (np.concatenate(weights), (np.concatenate(rows), np.concatenate(columns))), shape=(len(points), len(points))
    )
    return np.asarray(dijkstra(graph, directed=False, indices=sources))

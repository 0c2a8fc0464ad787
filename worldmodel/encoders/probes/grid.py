"""Trains heads with a grid of learning rates and weight decays at once, on the same features.

The recipe is that of V-JEPA 2's evaluations: AdamW on all parameters, and a learning rate that falls to 0 by a cosine,
without a warm-up. The head that is best on the videos to choose by is kept. Theirs is the best on the videos that are
reported. They also augment the videos, which needs the encoder in every step. Here clips are encoded once.

Shapes: `V` clips, `B` of a batch, `K` tokens, `D` width, `Q` predictions of a clip, `C` numbers of each.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from itertools import product
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from worldmodel.core.device import autocast, check_precision
from worldmodel.core.seeds import seed_of_step

Rows = NDArray[np.int64]
# `(prediction [B, Q, C], targets [B, ...]) → mean loss`
Loss = Callable[[Tensor, Tensor], Tensor]
_MOST = 1e6  # far more than any training endures, and far less than float32 holds


@dataclasses.dataclass(frozen=True)
class GridConfig:
    """Options of attentive and linear probes.

    Attributes:
        epochs: how often each clip is seen.
        batch_size: clips of a step.
        learning_rates: learning rates of AdamW.
        weight_decays: weight decays, each of which is combined with each learning rate.
        depth: blocks of an attentive head: 4 as in V-JEPA 2, or 1 as in V-JEPA.
        heads: largest number of attention heads. It is lowered until it divides the width of the features.
        precision: `bf16` (autocast), `fp32`, or `auto`, which is bf16 where the device has instructions for it.
        seed: seed of initial weights and of the order of the clips.
    """

    epochs: int = 20
    batch_size: int = 64
    learning_rates: tuple[float, ...] = (5e-3, 3e-3, 1e-3, 3e-4, 1e-4)
    weight_decays: tuple[float, ...] = (0.01, 0.1, 0.4, 0.8)
    depth: int = 4
    heads: int = 4
    precision: str = "auto"
    seed: int = 0

    def __post_init__(self) -> None:
        for name, most in (("epochs", 10_000), ("batch_size", 65_536), ("depth", 64), ("heads", 256)):
            if not 1 <= getattr(self, name) <= most:
                raise ValueError(f"{name} {getattr(self, name)}: expected a whole number from 1 to {most}")
        for name in ("learning_rates", "weight_decays"):
            values = getattr(self, name)
            if not values or not all(0 <= value <= _MOST for value in values):
                raise ValueError(f"{name} {list(values)}: expected numbers from 0 to {_MOST:g}")
        check_precision(self.precision)
        if self.seed < 0:
            raise ValueError(f"seed {self.seed}: expected a whole number of at least 0")

    @property
    def corners(self) -> list[tuple[float, float]]:
        """Pairs of learning rate and weight decay, one for each head."""
        return list(product(self.learning_rates, self.weight_decays))

    def heads_for(self, width: int) -> int:
        """The largest number of heads up to `heads` that divides `width`."""
        return next(count for count in range(min(self.heads, width), 0, -1) if width % count == 0)


@dataclasses.dataclass(frozen=True)
class Standardised:
    """Features in unit spread, with positions where they have none.

    Attributes:
        features: tokens `[V, K, D]`, float16.
        mean: mean of each number of a token over the clips to train on, `[D]`.
        spread: its standard deviation, `[D]`.
        positions: what is added, `[K, D]`, or None.
        device: where the tokens are needed.
    """

    features: NDArray[np.float16]
    mean: Tensor
    spread: Tensor
    positions: Tensor | None
    device: torch.device

    @classmethod
    def of(
        cls, features: NDArray[np.float16], rows: Rows, positions: Tensor | None, device: torch.device
    ) -> Standardised:
        """Features that are standardised over the clips `rows`."""
        total, squares, count = 0.0, 0.0, 0
        for part in np.array_split(rows, -(-len(rows) // 256)):  # a memory map need not fit into memory
            tokens = features[part].astype(np.float64).reshape(-1, features.shape[-1])
            total, squares, count = total + tokens.sum(0), squares + (tokens**2).sum(0), count + len(tokens)
        mean = total / count
        # A number that never varies has a spread of 0 and carries nothing.
        spread = np.sqrt(np.maximum(squares / count - mean**2, 0)) + 1e-6
        middle, scale = (torch.from_numpy(values).float().to(device) for values in (mean, spread))
        return cls(features, middle, scale, None if positions is None else positions.to(device), device)

    def rows(self, rows: Rows) -> Tensor:
        """The tokens of the clips `rows [B]`, `[B, K, D]`."""
        tokens = torch.from_numpy(self.features[rows]).to(self.device).float()
        tokens = (tokens - self.mean) / self.spread
        return tokens if self.positions is None else tokens + self.positions

    def elsewhere(self, features: NDArray[np.float16]) -> Standardised:
        """Other features, standardised alike."""
        return dataclasses.replace(self, features=features)


def train_grid(
    make: Callable[[], nn.Module],
    tokens: Standardised,
    rows: Rows,
    targets: Tensor,
    loss: Loss,
    config: GridConfig,
    progress: Callable[[int, int], None],
) -> list[nn.Module]:
    """One trained head for each of `config.corners`.

    Args:
        make: makes a head with the weights that torch's generator draws. All heads begin alike.
        tokens: features of clips.
        rows: clips to train on.
        targets: what is to be predicted for each of `rows`.
        loss: the loss.
        config: the grid.
        progress: called with (steps done, steps in all).
    """
    heads, groups = [], list[dict[str, Any]]()
    for rate, decay in config.corners:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            heads.append(make().to(tokens.device))
        groups.append({"params": list(heads[-1].parameters()), "lr": rate, "weight_decay": decay, "peak": rate})
    optimiser = torch.optim.AdamW(groups)
    per_epoch = -(-len(rows) // config.batch_size)
    total, targets = per_epoch * config.epochs, targets.to(tokens.device)
    for step in range(total):
        if step % per_epoch == 0:
            order = np.random.default_rng(seed_of_step(config.seed, step)).permutation(len(rows))
        begin = step % per_epoch * config.batch_size
        batch = np.sort(order[begin : begin + config.batch_size])  # ascending, since the file is read in order
        seen, wanted = tokens.rows(rows[batch]), targets[torch.from_numpy(batch).to(tokens.device)]
        for group in optimiser.param_groups:
            group["lr"] = group["peak"] * 0.5 * (1 + math.cos(math.pi * step / total))
        optimiser.zero_grad(set_to_none=True)
        with autocast(config.precision, tokens.device):
            losses = [loss(head(seen).float(), wanted) for head in heads]
        torch.stack(losses).sum().backward()  # the heads share no parameter, so each gets its own gradient
        optimiser.step()
        progress(step + 1, total)
    return [head.eval() for head in heads]


@torch.no_grad()
def predict(head: nn.Module, tokens: Standardised, rows: Rows, config: GridConfig) -> Tensor:
    """Predictions of `head` for the clips `rows [V]`, `[V, Q, C]`, on the CPU."""
    parts = []
    for part in np.array_split(rows, -(-len(rows) // config.batch_size)):
        with autocast(config.precision, tokens.device):
            parts.append(head(tokens.rows(part)).float().cpu())
    return torch.cat(parts)

"""Training of an inverse-dynamics head on the recording, after everything else is frozen, as a `TrainingTask`.

Every later moment of an episode is a goal that the recorded actions reached (hindsight, Andrychowicz et al. 2017, arXiv
1707.01495).

Shapes: `R` rows of the selected episodes, `E` episodes, `B` rows of a batch, `D` numbers of a code, `C` control steps
of a chunk, `A` action dimensions.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from worldmodel.core.errors import UserError
from worldmodel.models.inverse.network import InverseNetwork
from worldmodel.training.trainer import TrainingTask

Rows = NDArray[np.int64]


@dataclasses.dataclass(frozen=True)
class InverseData:
    """Options of the training data.

    Attributes:
        frames: largest number of training frames, in whole episodes.
        held_out_frames: largest number of frames of held-out episodes on which figures are computed.
        farthest: largest number of control steps from a moment to its goal.
    """

    frames: int = 400_000
    held_out_frames: int = 2000
    farthest: int = 30

    def __post_init__(self) -> None:
        if min(dataclasses.astuple(self)) < 1:
            raise ValueError(f"frames, held_out_frames and farthest must be at least 1, got {self}")


@dataclasses.dataclass(frozen=True)
class Episodes:
    """Whole episodes, one after the other.

    Attributes:
        codes: codes of what was observed, `[R, D]`.
        goals: codes of the same images as goals, `[R, D]`.
        actions: `[R, A]`. The last of every episode was never taken.
        ends: `[E]`, the row after each episode's last.
    """

    codes: Tensor
    goals: Tensor
    actions: Tensor
    ends: Rows

    @property
    def able(self) -> Rows:
        """Rows that have a later one in their episode."""
        return np.setdiff1d(np.arange(len(self.codes)), self.ends - 1)

    def last_of(self, rows: Rows) -> Rows:
        """The last row of each row's episode."""
        last: Rows = self.ends[np.searchsorted(self.ends, rows, side="right")] - 1
        return last


@dataclasses.dataclass(frozen=True)
class Batch:
    """Rows `[B, ...]`: codes, goals, steps between them, the actions `[B, C, A]` taken, and which of them count."""

    codes: Tensor
    goals: Tensor
    steps: Tensor
    actions: Tensor
    counts: Tensor

    @classmethod
    def of(cls, episodes: Episodes, rows: Rows, steps: Rows, chunk: int) -> Batch:
        """From `rows` to goals `steps` later. Actions after the goal do not count."""
        ahead = np.arange(chunk)
        places = np.minimum(rows[:, None] + ahead, len(episodes.codes) - 1)
        counts = torch.from_numpy(ahead < steps[:, None])
        return cls(
            episodes.codes[rows],
            episodes.goals[rows + steps],
            torch.from_numpy(steps),
            episodes.actions[places],
            counts,
        )


class InverseTask(TrainingTask):
    """Training to predict the recorded actions between two moments.

    loss = mean of (â - a)² over the actions before the goal, actions standardised

    Args:
        module: the network, whose scales are set here.
        train: training episodes.
        held_out: episodes for figures.
        farthest: largest number of control steps to a goal.
        batch_size: rows per step, B.
        seed: seed of all randomness.
        device: device of the training.

    Raises:
        UserError: if no episode has two frames.
    """

    def __init__(
        self,
        module: InverseNetwork,
        train: Episodes,
        held_out: Episodes,
        farthest: int,
        batch_size: int,
        seed: int,
        device: torch.device,
    ) -> None:
        self.module: InverseNetwork = module
        self._train, self._held_out, self._farthest = train, held_out, farthest
        self._batch_size, self._seed, self._device = batch_size, seed, device
        self._able = train.able
        if not len(self._able) or not len(held_out.able):
            raise UserError("every recorded or held-out episode has one frame: expected some with actions")
        module.set_scales(train.codes, train.actions[torch.from_numpy(self._able)])

    def loss(self, step: int) -> dict[str, Tensor]:
        """The loss of one batch."""
        rng = np.random.default_rng([self._seed, step])
        rows = self._able[rng.integers(len(self._able), size=self._batch_size)]
        most = np.minimum(self._train.last_of(rows) - rows, self._farthest)
        steps = rng.integers(1, most + 1)
        return {"loss": self._error(Batch.of(self._train, rows, steps, self.module.config.chunk))[0]}

    def _error(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Mean squared errors of the prediction and of the mean action, standardised."""
        inputs = (part.to(self._device) for part in (batch.codes, batch.goals, batch.steps))
        wanted = (batch.actions.to(self._device) - self.module.action_mean) / self.module.action_std
        counts = batch.counts.to(self._device)
        return (self.module(*inputs) - wanted)[counts].pow(2).mean(), wanted[counts].pow(2).mean()

    @torch.no_grad()
    def evaluate(self, step: int) -> dict[str, float]:
        """Share of the variance of held-out actions that is explained, for near and for far goals.

        Near goals are `C` control steps away, far ones `farthest`, or as far as an episode goes.
        """
        found = {}
        for name, away in (("near", self.module.config.chunk), ("far", self._farthest)):
            rows = self._held_out.able
            steps = np.minimum(self._held_out.last_of(rows) - rows, away)
            error, variance = self._error(Batch.of(self._held_out, rows, steps, self.module.config.chunk))
            found[f"explained_{name}"] = 1 - float(error / variance.clamp_min(1e-12))
        return found

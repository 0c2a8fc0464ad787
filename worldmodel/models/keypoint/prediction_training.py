"""Training the action-conditioned predictor on frozen features, as a `TrainingTask`.

Shapes: `B` sequences, `T` frames (two of context and those of the rollout), `Z` state, `P` proprioception, `A` action,
`R` rows of the recording.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from worldmodel.models.keypoint.model import KeypointModel
from worldmodel.models.keypoint.predictor import Belief
from worldmodel.models.reports import error_report, share_won, with_rivals
from worldmodel.training.trainer import TrainingTask

# `(step) -> row numbers [B, T]` of the sequences of that step.
SequenceRows = Callable[[int], NDArray[np.int64]]

# Errors below this [standard deviations] count quadratically, because such errors are noise of the encoder.
_HUBER_BETA = 0.1
# Share of the batches without a past, as at the start of an episode. Most steps of a rollout have a past, which helps.
_NO_HISTORY = 0.25


@dataclasses.dataclass(frozen=True)
class PredictionConfig:
    """Options of the training of the predictor.

    Attributes:
        rollout_steps: control steps of the open-loop rollout in the loss.
        proprio_weight: weight of the error in proprioception beside that in the state (both standardised).
    """

    rollout_steps: int = 12
    proprio_weight: float = 0.3

    def __post_init__(self) -> None:
        if self.rollout_steps < 1:
            raise ValueError(f"rollout_steps must be at least 1, got {self.rollout_steps}")


@dataclasses.dataclass(frozen=True)
class Recording:
    """The data that the predictor learns from. Row t of `actions` was taken at t.

    Attributes:
        states: standardised states of the frames, float32 `[R, Z]`.
        proprio: proprioception in physical units, float32 `[R, P]`.
        actions: actions in physical units, float32 `[R, A]`.
    """

    states: Tensor
    proprio: NDArray[np.float32]
    actions: NDArray[np.float32]


@dataclasses.dataclass(frozen=True)
class Batch:
    """Standardised sequences: states `[B, T, Z]`, proprio `[B, T, P]`, actions `[B, T-1, A]`."""

    states: Tensor
    proprio: Tensor
    actions: Tensor

    def start(self) -> Belief:
        """The belief at the second frame, where the rollout starts."""
        return Belief(self.states[:, 1], self.states[:, 1] - self.states[:, 0], self.proprio[:, 1])

    def future(self) -> Belief:
        """The beliefs at the following frames, `[B, T-2, ·]`."""
        return Belief(self.states[:, 2:], torch.diff(self.states[:, 1:], dim=1), self.proprio[:, 2:])


class PredictionTask(TrainingTask):
    """An open-loop rollout from the second frame, compared with the recording.

    loss = huber(ŝ_t - s_t) + w_p huber(p̂_t - p_t), mean over the frames of the rollout.
    In one of four batches the first frame is hidden, as at the start of an episode.
    """

    def __init__(
        self,
        model: KeypointModel,
        config: PredictionConfig,
        recording: Recording,
        train_rows: SequenceRows,
        held_out_rows: NDArray[np.int64],
        seed: int,
        device: torch.device,
    ) -> None:
        self.module: KeypointModel = model
        self._config, self._recording, self._train_rows = config, recording, train_rows
        self._held_out_rows, self._seed, self._device = held_out_rows, seed, device

    def batch(self, rows: NDArray[np.int64]) -> Batch:
        """Load and standardise the sequences at `rows [B, T]`."""
        norm, data, device = self.module.normaliser, self._recording, self._device
        proprio, actions = (torch.from_numpy(x[rows]).to(device) for x in (data.proprio, data.actions))
        return Batch(data.states[rows].to(device), norm.proprio(proprio), norm.actions(actions[:, :-1]))

    def loss(self, step: int) -> dict[str, Tensor]:
        """One batch."""
        with torch.autocast(self._device.type, enabled=False):
            batch = self.batch(self._train_rows(step))
            start = batch.start()
            if np.random.default_rng([self._seed, step]).random() < _NO_HISTORY:
                start = Belief(start.state, torch.zeros_like(start.motion), start.proprio)
        ahead = self.module.predictor.rollout(start, batch.actions[:, 1:])
        state = F.smooth_l1_loss(ahead.state, batch.states[:, 2:], beta=_HUBER_BETA)
        proprio = state.new_zeros(())  # for a recording without proprioception
        if ahead.proprio.shape[-1]:
            proprio = F.smooth_l1_loss(ahead.proprio, batch.proprio[:, 2:], beta=_HUBER_BETA)
        return {"loss": state + self._config.proprio_weight * proprio, "state": state, "proprio": proprio}

    @torch.no_grad()
    def evaluate(self, step: int) -> dict[str, float]:
        """Rollout error by step against "copy the last frame", and whether the true actions are recognised.

        Errors are distances as a planner measures them, between imagined and observed states.
        """
        model = self.module
        copies: list[Tensor] = []
        errors: list[Tensor] = []
        ranks: list[Tensor] = []
        generator = torch.Generator().manual_seed(self._seed)
        for rows in np.array_split(self._held_out_rows, max(1, len(self._held_out_rows) // 64)):
            batch = self.batch(rows)
            last, future = batch.start(), batch.future()
            ahead = model.predictor.rollout(last, batch.actions[:, 1:])
            errors.append(model.between(ahead, future))
            copies.append(model.between(last.map(lambda part: part[:, None]), future))
            goal = future.map(lambda part: part[:, -1:])
            ranks.append(self._rank(last, batch.actions[:, 1:], goal, generator))
        report = error_report(torch.cat(errors), torch.cat(copies))
        return {**report, "action_ranking": float(torch.cat(ranks).mean())}

    def _rank(self, belief: Belief, actions: Tensor, goal: Belief, generator: torch.Generator) -> Tensor:
        """`share_won [B]` for the rollouts from `belief`, whose ends are compared with `goal [B, 1, ·]`."""
        candidates = with_rivals(actions, generator)
        ahead = self.module.predictor.rollout(belief.repeat(candidates.shape[1]), candidates)
        return share_won(self.module.between(ahead.map(lambda part: part[:, :, -1]), goal))

"""Training the action-conditioned predictor on frozen features, as a `TrainingTask`.

Shapes: `B` sequences, `T` frames (two of context and those of the rollout), `Z` state, `P` proprioception, `A` action,
`R` rows of the recording.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from worldmodel.core.ranks import ALONE, Rank
from worldmodel.core.seeds import seed_of_step
from worldmodel.models.keypoint.model import KeypointModel
from worldmodel.models.keypoint.predictor import Belief
from worldmodel.models.reports import error_report, share_won, with_rivals
from worldmodel.training.collectives import total
from worldmodel.training.trainer import TrainingTask

# `(step) -> row numbers [B, T]` of the sequences of that step.
SequenceRows = Callable[[int], NDArray[np.int64]]

# Errors below this [standard deviations] count quadratically, because such errors are noise of the encoder.
_HUBER_BETA = 0.1
# Share of the batches without a past, as at the start of an episode. Most steps of a rollout have a past, which helps.
_NO_HISTORY = 0.25
# Rows that are drawn together for a head to learn from. They are about one episode, whose frames are alike.
_BLOCK = 64
# Share of the blocks that a head learns from. A bootstrap sample contains 63 % of the original items.
_LEARNED_SHARE = 0.63


@dataclasses.dataclass(frozen=True)
class PredictionConfig:
    """Options of the training of the predictor.

    Attributes:
        rollout_steps: control steps of the open-loop rollout in the loss.
        proprio_weight: weight of the error in proprioception beside that in the state (both standardised).
        motion_noise: largest standard deviation of noise on the state's last change (standardised). Each sequence
            draws its own. A noisy camera makes this difference of two frames noisier than anything else.
    """

    rollout_steps: int = 12
    proprio_weight: float = 0.3
    motion_noise: float = 0.08

    def __post_init__(self) -> None:
        if self.rollout_steps < 1:
            raise ValueError(f"rollout_steps must be at least 1, got {self.rollout_steps}")
        if not 0 <= self.motion_noise < math.inf:
            raise ValueError(f"motion_noise {self.motion_noise}: expected a finite number of at least 0")


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


def load_batch(model: KeypointModel, data: Recording, rows: NDArray[np.int64], device: torch.device) -> Batch:
    """Load and standardise the sequences at `rows [B, T]`."""
    norm = model.normaliser
    proprio, actions = (torch.from_numpy(x[rows]).to(device) for x in (data.proprio, data.actions))
    return Batch(data.states[rows].to(device), norm.proprio(proprio), norm.actions(actions[:, :-1]))


class PredictionTask(TrainingTask):
    """An open-loop rollout from the second frame, compared with the recording.

    loss = huber(ŝ_t - s_t) + w_p huber(p̂_t - p_t), mean over the frames of the rollout. The errors of keypoints have
    their weights, if `state.balanced`.
    It is the mean over the heads, and each head learns from its own part of the recording.
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
        self._held_out_rows, self._seed, self._device, self._rank = held_out_rows, seed, device, ALONE
        heads, blocks = model.config.predictor.heads, len(recording.states) // _BLOCK + 1
        drawn = np.random.default_rng(seed).random((blocks, heads)) < _LEARNED_SHARE
        self._learns = (drawn if heads > 1 else np.ones_like(drawn)).astype(np.float32)

    def batch(self, rows: NDArray[np.int64]) -> Batch:
        """Load and standardise the sequences at `rows [B, T]`."""
        return load_batch(self.module, self._recording, rows, self._device)

    def share(self, rank: Rank) -> None:
        """See `TrainingTask.share`."""
        self._rank = rank

    def loss(self, step: int) -> dict[str, Tensor]:
        """This rank's share of one batch."""
        with torch.autocast(self._device.type, enabled=False):
            rows = self._rank.share(self._train_rows(step))
            batch = self.batch(rows)
            start = batch.start()
            if np.random.default_rng([self._seed, step]).random() < _NO_HISTORY:
                start = dataclasses.replace(start, motion=torch.zeros_like(start.motion))
            elif self._config.motion_noise > 0:
                start = dataclasses.replace(start, motion=start.motion + self._motion_noise(step, start.motion))
        ahead = self.module.predictor.rollout_heads(start, batch.actions[:, 1:])
        learns = torch.from_numpy(self._learns[rows[:, 0] // _BLOCK]).to(self._device)
        state = self._error(ahead.state, batch.states[:, 2:], learns, self.module.state_weight())
        proprio = state.new_zeros(())  # for a recording without proprioception
        if ahead.proprio.shape[-1]:
            proprio = self._error(ahead.proprio, batch.proprio[:, 2:], learns)
        return {"loss": state + self._config.proprio_weight * proprio, "state": state, "proprio": proprio}

    def _motion_noise(self, step: int, motion: Tensor) -> Tensor:
        """Noise for `motion [B, Z]`."""
        generator = torch.Generator().manual_seed(seed_of_step(self._seed, step))
        batch = len(motion) * self._rank.count
        level = self._config.motion_noise * torch.rand(batch, 1, generator=generator)
        noise = level * torch.randn((batch, *motion.shape[1:]), generator=generator)
        return self._rank.share(noise).to(self._device)

    def _error(self, ahead: Tensor, wanted: Tensor, learns: Tensor, weight: Tensor | float = 1.0) -> Tensor:
        """Mean error of `ahead [B, K, H, ·]`, weighted, of the heads that learn from a sequence, `learns [B, K]`."""
        error = F.smooth_l1_loss(ahead, wanted[:, None].expand_as(ahead), beta=_HUBER_BETA, reduction="none") * weight
        count = total(learns.sum()).clamp_min(1) / self._rank.count  # the same for all ranks
        return (error.mean((2, 3)) * learns).sum() / count

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
            ranks.append(self._recognised(last, batch.actions[:, 1:], goal, generator))
        report = error_report(torch.cat(errors), torch.cat(copies))
        return {**report, "action_ranking": float(torch.cat(ranks).mean())}

    def _recognised(self, belief: Belief, actions: Tensor, goal: Belief, generator: torch.Generator) -> Tensor:
        """`share_won [B]` for the rollouts from `belief`, whose ends are compared with `goal [B, 1, ·]`."""
        candidates = with_rivals(actions, generator)
        ahead = self.module.predictor.rollout(belief.repeat(candidates.shape[1]), candidates)
        return share_won(self.module.between(ahead.map(lambda part: part[:, :, -1]), goal))

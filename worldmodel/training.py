"""Training the action-conditioned predictor on frozen features, as a `TrainingTask`.

Shapes: `B` sequences, `T` frames (context and rollout), `C` context frames, `Z` scene code, `P` proprioception, `A`
action, `R` rows of the recording.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from worldmodel.predictor import Belief, Observed
from worldmodel.trainer import TrainingTask
from worldmodel.world_model import Latent, WorldModel

# `(step) -> row numbers [B, T]` of the sequences of that step.
SequenceRows = Callable[[int], NDArray[np.int64]]

# Below this, in standard deviations, errors count quadratically: there they are noise of the encoder.
_HUBER_BETA = 0.1


@dataclasses.dataclass(frozen=True)
class PredictionConfig:
    """What the predictor is trained for.

    Attributes:
        rollout_steps: control steps that the rollout loss looks ahead, open loop.
        proprio_weight: weight of the error in proprioception beside that in the scene code (both standardised).
    """

    rollout_steps: int = 8
    proprio_weight: float = 0.3

    def __post_init__(self) -> None:
        if self.rollout_steps < 1:
            raise ValueError(f"rollout_steps must be at least 1, got {self.rollout_steps}")


@dataclasses.dataclass(frozen=True)
class Recording:
    """What the predictor learns from: row t of `actions` was taken at t.

    Attributes:
        codes: standardised scene codes of the frames, float32 `[R, Z]`.
        proprio: float32 `[R, P]`, physical units.
        actions: float32 `[R, A]`, physical units.
    """

    codes: Tensor
    proprio: NDArray[np.float32]
    actions: NDArray[np.float32]


@dataclasses.dataclass(frozen=True)
class Batch:
    """Standardised sequences: codes `[B, T, Z]`, proprio `[B, T, P]`, actions `[B, T-1, A]`."""

    codes: Tensor
    proprio: Tensor
    actions: Tensor

    def last(self, frames: int) -> Batch:
        """The same sequences without their earliest frames."""
        return Batch(self.codes[:, -frames:], self.proprio[:, -frames:], self.actions[:, 1 - frames :])


class PredictionTask(TrainingTask):
    """Teacher forcing over the context, then an open-loop rollout.

    loss = huber(ĉ_t - c_t) + w_p huber(p̂_t - p_t), mean over the frames after the first.
    The context is 1 to `history` frames long, drawn anew for every batch, because an episode begins with one.
    """

    def __init__(
        self,
        model: WorldModel,
        config: PredictionConfig,
        recording: Recording,
        train_rows: SequenceRows,
        held_out_rows: NDArray[np.int64],
        seed: int,
        device: torch.device,
    ) -> None:
        self.module: WorldModel = model
        self._config, self._recording, self._train_rows = config, recording, train_rows
        self._held_out_rows, self._seed, self._device = held_out_rows, seed, device

    def batch(self, rows: NDArray[np.int64]) -> Batch:
        """Load and standardise the sequences at `rows [B, T]`."""
        norm, data, device = self.module.normaliser, self._recording, self._device
        proprio, actions = (torch.from_numpy(x[rows]).to(device) for x in (data.proprio, data.actions))
        return Batch(data.codes[rows].to(device), norm.proprio(proprio), norm.actions(actions[:, :-1]))

    def loss(self, step: int) -> dict[str, Tensor]:
        """One batch."""
        rng = np.random.default_rng([self._seed, step])
        context = int(rng.integers(1, self.module.history + 1))
        with torch.autocast(self._device.type, enabled=False):
            batch = self.batch(self._train_rows(step)).last(context + self._config.rollout_steps)
        observed, ahead = self._look_and_roll(batch, context)
        codes = torch.cat([observed.predictions.code, ahead.code], dim=1).float()
        proprios = torch.cat([observed.predictions.proprio, ahead.proprio], dim=1).float()
        code = F.smooth_l1_loss(codes, batch.codes[:, 1:], beta=_HUBER_BETA)
        proprio = F.smooth_l1_loss(proprios, batch.proprio[:, 1:], beta=_HUBER_BETA)
        return {"loss": code + self._config.proprio_weight * proprio, "code": code, "proprio": proprio}

    def _look_and_roll(self, batch: Batch, context: int) -> tuple[Observed, Belief]:
        """Observe the first `context` frames, then roll out over the actions that are left."""
        observed = self.module.predictor.observe(
            batch.codes[:, :context], batch.proprio[:, :context], batch.actions[:, : context - 1]
        )
        return observed, self.module.predictor.rollout(observed.now, batch.actions[:, context - 1 :])

    @torch.no_grad()
    def evaluate(self, step: int) -> dict[str, float]:
        """Rollout error by step against "copy the last frame", and whether the true actions are recognised.

        Errors are distances as a planner measures them, between the imagined moment and the real one.
        """
        context, model = self.module.history, self.module
        copies: list[Tensor] = []
        errors: list[Tensor] = []
        ranks: list[Tensor] = []
        generator = torch.Generator().manual_seed(self._seed)
        for rows in np.array_split(self._held_out_rows, max(1, len(self._held_out_rows) // 64)):
            batch = self.batch(rows)
            future = Latent(batch.codes[:, context:], batch.proprio[:, context:])
            last = Latent(batch.codes[:, context - 1 : context], batch.proprio[:, context - 1 : context])
            observed, ahead = self._look_and_roll(batch, context)
            errors.append(model.between(Latent(ahead.code, ahead.proprio), future))
            copies.append(model.between(last, future))
            goal = Latent(future.code[:, -1:], future.proprio[:, -1:])
            ranks.append(self._rank(observed.now, batch.actions[:, context - 1 :], goal, generator))
        error, copy = torch.cat(errors).mean(0), torch.cat(copies).mean(0)
        by_step = {f"error_over_copy_{h + 1:02d}": float(error[h] / copy[h]) for h in range(len(error))}
        return {
            "held_out_error": float(error.mean()),
            "action_ranking": float(torch.cat(ranks).mean()),
            **by_step,
        }

    def _rank(self, belief: Belief, actions: Tensor, goal: Latent, generator: torch.Generator) -> Tensor:
        """How often `[B]` the actions that were taken lead nearer to the `goal [B, 1, ·]` than another sequence's do.

        The rivals are the actions of the other sequences in the batch: as plausible, but for another situation.
        0.5 is chance, 1 is perfect. Sequences in which nothing moves are ties for everybody and count as chance.
        """
        number = len(actions)
        others = torch.randint(1, max(number, 2), (number, 16), generator=generator)  # never the sequence itself
        rivals = ((torch.arange(number)[:, None] + others) % number).to(actions.device)
        candidates = torch.cat([actions[:, None], actions[rivals]], dim=1)  # [B, 17, H, A]
        parts = (belief.code, belief.proprio, belief.memory)
        start = Belief(*(x[:, None].expand(-1, candidates.shape[1], -1) for x in parts))
        ahead = self.module.predictor.rollout(start, candidates)
        to_goal = self.module.between(Latent(ahead.code[:, :, -1], ahead.proprio[:, :, -1]), goal)
        wins = (to_goal[:, :1] < to_goal[:, 1:]).float() + 0.5 * (to_goal[:, :1] == to_goal[:, 1:]).float()
        return wins.mean(1)

"""Training the action-conditioned predictor on frozen features, as a `TrainingTask`.

Shapes: `B` sequences, `T` frames (context and rollout), `C` context frames, `K` compressed features, `P`
proprioception, `A` action, `R` rows of the recording.
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
from worldmodel.world_model import WorldModel

# `(step) -> row numbers [B, T]` of the sequences of that step.
SequenceRows = Callable[[int], NDArray[np.int64]]


@dataclasses.dataclass(frozen=True)
class PredictionConfig:
    """What the predictor is trained for.

    Attributes:
        rollout_steps: control steps that the rollout loss looks ahead, open loop.
        proprio_weight: weight of the error in proprioception beside that in features (both standardised).
        reconstruction_weight: weight of reading back the frame that the state has just seen.
    """

    rollout_steps: int = 8
    proprio_weight: float = 0.3
    reconstruction_weight: float = 0.2

    def __post_init__(self) -> None:
        if self.rollout_steps < 1:
            raise ValueError(f"rollout_steps must be at least 1, got {self.rollout_steps}")


@dataclasses.dataclass(frozen=True)
class Recording:
    """What the predictor learns from: row t of `actions` was taken at t.

    Attributes:
        features: compressed frozen features float16 `[R, K]`.
        proprio: float32 `[R, P]`, physical units.
        actions: float32 `[R, A]`, physical units.
    """

    features: NDArray[np.float16]
    proprio: NDArray[np.float32]
    actions: NDArray[np.float32]


@dataclasses.dataclass(frozen=True)
class Batch:
    """Standardised sequences: features `[B, T, K]`, proprio `[B, T, P]`, actions `[B, T-1, A]`."""

    features: Tensor
    proprio: Tensor
    actions: Tensor

    def last(self, frames: int) -> Batch:
        """The same sequences without their earliest frames."""
        return Batch(self.features[:, -frames:], self.proprio[:, -frames:], self.actions[:, 1 - frames :])


def prefer_motion(candidates: NDArray[np.int64], places: NDArray[np.float32], first: int) -> NDArray[np.int64]:
    """Half of `candidates [2B, T]`: the `B / 2` in which the scene changes most, and as many of the rest as they come.

    In most of a recording nothing but the robot moves, which is quickly learned. How much changes is the distance
    between the geodesic embeddings `places [R, E]` of frame `first` and of the last one; the robot itself weighs little
    there.
    """
    half = len(candidates) // 4
    change = np.linalg.norm(places[candidates[:, -1]] - places[candidates[:, first]], axis=1)
    order = np.argsort(-change, kind="stable")
    rest = np.sort(order[half:])
    return candidates[np.concatenate([order[:half], rest[: len(candidates) // 2 - half]])]


class PredictionTask(TrainingTask):
    """Teacher forcing over the context, then an open-loop rollout.

    loss = mean_t |ẑ_t - z_t|² + w_p |p̂_t - p_t|² over the frames after the first, plus w_r |read(s_C) - z_C|².
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
        features = torch.from_numpy(data.features[rows]).to(device)
        proprio, actions = (torch.from_numpy(x[rows]).to(device) for x in (data.proprio, data.actions))
        return Batch(features.float(), norm.proprio(proprio), norm.actions(actions[:, :-1]))

    def loss(self, step: int) -> dict[str, Tensor]:
        """One batch."""
        rng = np.random.default_rng([self._seed, step])
        context = int(rng.integers(1, self.module.history + 1))
        with torch.autocast(self._device.type, enabled=False):
            batch = self.batch(self._train_rows(step)).last(context + self._config.rollout_steps)
        predictor = self.module.predictor
        observed, ahead = self._look_and_roll(batch, context)
        states = torch.cat([observed.predictions.state, ahead.state], dim=1)
        proprios = torch.cat([observed.predictions.proprio, ahead.proprio], dim=1)
        features = F.mse_loss(predictor.read(states).float(), batch.features[:, 1:])
        proprio = F.mse_loss(proprios.float(), batch.proprio[:, 1:])
        seen = F.mse_loss(predictor.read(observed.now.state).float(), batch.features[:, context - 1])
        weights = self._config
        loss = features + weights.proprio_weight * proprio + weights.reconstruction_weight * seen
        return {"loss": loss, "features": features, "proprio": proprio, "reconstruction": seen}

    def _look_and_roll(self, batch: Batch, context: int) -> tuple[Observed, Belief]:
        """Observe the first `context` frames, then roll out over the actions that are left."""
        observed = self.module.predictor.observe(
            batch.features[:, :context], batch.proprio[:, :context], batch.actions[:, : context - 1]
        )
        return observed, self.module.predictor.rollout(observed.now, batch.actions[:, context - 1 :])

    @torch.no_grad()
    def evaluate(self, step: int) -> dict[str, float]:
        """Rollout error by step against "copy the last frame", and whether the true actions are recognised."""
        context, predictor = self.module.history, self.module.predictor
        distance = self.module.compression.distance
        copies: list[Tensor] = []
        errors: list[Tensor] = []
        ranks: list[Tensor] = []
        generator = torch.Generator().manual_seed(self._seed)
        for rows in np.array_split(self._held_out_rows, max(1, len(self._held_out_rows) // 64)):
            batch = self.batch(rows)
            future, last = batch.features[:, context:], batch.features[:, context - 1 : context]
            observed, ahead = self._look_and_roll(batch, context)
            errors.append(distance(predictor.read(ahead.state), future))
            copies.append(distance(last, future))
            ranks.append(self._rank(observed.now, batch.actions[:, context - 1 :], future[:, -1], generator))
        error, copy = torch.cat(errors).mean(0), torch.cat(copies).mean(0)
        by_step = {f"error_over_copy_{h + 1:02d}": float(error[h] / copy[h]) for h in range(len(error))}
        return {
            "held_out_error": float(error.mean()),
            "action_ranking": float(torch.cat(ranks).mean()),
            **by_step,
        }

    def _rank(self, belief: Belief, actions: Tensor, goal: Tensor, generator: torch.Generator) -> Tensor:
        """How often `[B]` the actions that were taken lead nearer to `goal [B, K]` than another sequence's do.

        The rivals are the actions of the other sequences in the batch: as plausible, but for another situation.
        0.5 is chance, 1 is perfect. Sequences in which nothing moves are ties for everybody and count as chance.
        """
        number = len(actions)
        others = torch.randint(1, max(number, 2), (number, 16), generator=generator)  # never the sequence itself
        rivals = ((torch.arange(number)[:, None] + others) % number).to(actions.device)
        candidates = torch.cat([actions[:, None], actions[rivals]], dim=1)  # [B, 17, H, A]
        start = Belief(
            belief.state[:, None].expand(-1, candidates.shape[1], -1),
            belief.proprio[:, None].expand(-1, candidates.shape[1], -1),
        )
        ends = self.module.predictor.rollout(start, candidates).state[:, :, -1]
        to_goal = self.module.compression.distance(self.module.predictor.read(ends), goal[:, None])
        wins = (to_goal[:, :1] < to_goal[:, 1:]).float() + 0.5 * (to_goal[:, :1] == to_goal[:, 1:]).float()
        return wins.mean(1)

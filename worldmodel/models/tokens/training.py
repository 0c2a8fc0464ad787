"""Training the transformer on frozen tokens, as a `TrainingTask`.

Shapes as in `worldmodel.models.tokens.predictor`, and `R` rows of the recording, `L = T k + 1` frames of a sequence.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from worldmodel.core.ranks import ALONE, Rank
from worldmodel.models.reports import error_report, share_won, with_rivals
from worldmodel.models.tokens.frames import join_cameras, token_distance
from worldmodel.models.tokens.predictor import Moments, TokenPredictor
from worldmodel.training.trainer import TrainingTask

# `(step) -> row numbers [B, L]` of the sequences of that step.
SequenceRows = Callable[[int], NDArray[np.int64]]
_REPORTED_AT_ONCE = 64


@dataclasses.dataclass(frozen=True)
class PredictionConfig:
    """Options of the training of the transformer.

    Attributes:
        rollout_steps: control steps of the open-loop rollout in the loss. It is a multiple of the transformer's
            `prediction_steps`, and at least twice that number.
        rollout_weight: weight of the rollout loss beside the teacher-forcing loss.
        proprio_weight: weight of the error in proprioception beside that in the tokens (both standardised).
        smooth: errors below this count quadratically (Huber). 0 is V-JEPA 2-AC's absolute error. Most tokens of a small
            scene stand still, and an absolute error has as large a gradient for their noise as for moving objects.
    """

    rollout_steps: int = 8
    rollout_weight: float = 1.0
    proprio_weight: float = 0.1
    smooth: float = 0.1

    def __post_init__(self) -> None:
        if self.rollout_steps < 1:
            raise ValueError(f"rollout_steps must be at least 1, got {self.rollout_steps}")
        if not (self.rollout_weight >= 0 and self.proprio_weight >= 0 and self.smooth >= 0):
            raise ValueError(f"weights and smooth must not be negative, got {self}")


@dataclasses.dataclass(frozen=True)
class Recording:
    """The data that the transformer learns from. Row t of `actions` was taken at t.

    Attributes:
        patches: compressed frozen features of every camera, float16 `[R, N, C]` each.
        scales: factors of the channels, `[C]` for every camera.
        grids: rows and columns of every camera's patches.
        pool: side of the squares of patches that become one token.
        proprio: standardised proprioception, float32 `[R, P]`.
        actions: standardised actions, float32 `[R, A]`.
    """

    patches: Sequence[NDArray[np.float16]]
    scales: Sequence[Tensor]
    grids: Sequence[tuple[int, int]]
    pool: int
    proprio: Tensor
    actions: Tensor

    def moments(self, rows: NDArray[np.int64], device: torch.device) -> Moments:
        """The frames at `rows [...]`."""
        patches = [torch.from_numpy(of_one[rows]).to(device).float() for of_one in self.patches]
        scales = [scale.to(device) for scale in self.scales]
        return Moments(join_cameras(patches, scales, self.grids, self.pool), self.proprio[rows].to(device))


class TokenTask(TrainingTask):
    """Teacher forcing, and an open-loop rollout from frame c of the sequence, compared with what was recorded.

    loss = |x̂_t - x_t| + w_p |p̂_t - p_t|, mean over the frames that are predicted from true blocks
         + w_r (the same over the frames of the rollout)                        (V-JEPA 2-AC, arXiv 2506.09985, eq. 2-4)

    The number of blocks before frame c is drawn anew for every batch, from 0 to window - 1, because a plan may be made
    early in an episode, when few frames have been observed.

    Args:
        module: the predictor that is trained.
        recording: the data that it is trained on.
        train_rows: rows `[B, L]` for a step. `sequence_frames` gives L.
        held_out_rows: rows `[B, L]` to report on.
        weight: weight `[N]` of the tokens in the reported distance.
    """

    def __init__(
        self,
        module: TokenPredictor,
        config: PredictionConfig,
        recording: Recording,
        train_rows: SequenceRows,
        held_out_rows: NDArray[np.int64],
        weight: Tensor,
        seed: int,
        device: torch.device,
    ) -> None:
        self.module: TokenPredictor = module
        self._config, self._recording, self._train_rows = config, recording, train_rows
        self._held_out_rows, self._weight = held_out_rows, weight.to(device)
        self._seed, self._device, self._rank = seed, device, ALONE

    def share(self, rank: Rank) -> None:
        """See `TrainingTask.share`."""
        self._rank = rank

    def batch(self, rows: NDArray[np.int64]) -> tuple[Moments, Tensor]:
        """Frames `[B, L, ·]` at `rows [B, L]`, and the actions between them, grouped by block `[B, T, k, A]`."""
        actions = self._recording.actions[rows[:, :-1]].to(self._device)
        return self._recording.moments(rows, self._device), actions.unflatten(
            1, (-1, self.module.config.prediction_steps)
        )

    def loss(self, step: int) -> dict[str, Tensor]:
        """This rank's share of one batch."""
        with torch.autocast(self._device.type, enabled=False):
            moments, actions = self.batch(self._rank.share(self._train_rows(step)))
        forced, rolled_out = self._forced(moments, actions), self._rolled_out(moments, actions, self._context(step))
        config = self._config
        losses = [tokens + config.proprio_weight * proprio for tokens, proprio in (forced, rolled_out)]
        return {
            "loss": losses[0] + config.rollout_weight * losses[1],
            "forced": forced[0],
            "rollout": rolled_out[0],
            "proprio": rolled_out[1],
        }

    def _context(self, step: int) -> int:
        """Number of blocks before the rollout in the batch of `step`."""
        return int(np.random.default_rng([self._seed, step]).integers(self.module.config.window))

    def _forced(self, moments: Moments, actions: Tensor) -> tuple[Tensor, Tensor]:
        block = self.module.config.prediction_steps
        ahead, _ = self.module(moments.at((slice(None), slice(0, -1, block))), actions)
        return self._errors(
            ahead, Moments(*(x[:, 1:].unflatten(1, (-1, block)) for x in (moments.tokens, moments.proprio)))
        )

    def _rolled_out(self, moments: Moments, actions: Tensor, context: int) -> tuple[Tensor, Tensor]:
        blocks = self._config.rollout_steps // self.module.config.prediction_steps
        ahead = self._imagine(moments, actions[:, : context + blocks], context)
        first = context * self.module.config.prediction_steps
        return self._errors(ahead, moments.at((slice(None), slice(first + 1, first + 1 + self._config.rollout_steps))))

    def _imagine(self, moments: Moments, actions: Tensor, context: int) -> Moments:
        """Rollout `[B, H, ·]` from the frame after `context` blocks, under the remaining `actions [B, T, k, A]`."""
        first, cache = context * self.module.config.prediction_steps, None
        if context:
            seen = moments.at((slice(None), slice(0, first, self.module.config.prediction_steps)))
            _, cache = self.module(seen, actions[:, :context])
        return self.module.rollout(moments.at((slice(None), first)), actions[:, context:].flatten(1, 2), cache)

    def _errors(self, ahead: Moments, truth: Moments) -> tuple[Tensor, Tensor]:
        """Mean error of tokens and of proprioception. The latter is 0 for a recording without proprioception."""
        tokens = F.smooth_l1_loss(ahead.tokens, truth.tokens, beta=self._config.smooth)
        if not truth.proprio.shape[-1]:
            return tokens, tokens.new_zeros(())
        return tokens, F.smooth_l1_loss(ahead.proprio, truth.proprio, beta=self._config.smooth)

    @torch.no_grad()
    def evaluate(self, step: int) -> dict[str, float]:
        """Rollout error by step against "copy the last frame", and whether the true actions are recognised.

        Errors are distances as a planner measures them, between the imagined frame and the real one.
        """
        context = self.module.config.window - 1
        first = context * self.module.config.prediction_steps
        errors, copies, ranks = [], [], []
        generator = torch.Generator().manual_seed(self._seed)
        for rows in np.array_split(self._held_out_rows, max(1, len(self._held_out_rows) // _REPORTED_AT_ONCE)):
            moments, actions = self.batch(rows)
            ahead = self._imagine(moments, actions, context)
            future = moments.tokens[:, first + 1 :]
            errors.append(token_distance(ahead.tokens, future, self._weight))
            copies.append(token_distance(moments.tokens[:, first, None], future, self._weight))
            ranks.append(self._recognised(moments, actions, context, generator))
        report = error_report(torch.cat(errors), torch.cat(copies))
        return {**report, "action_ranking": float(torch.cat(ranks).mean())}

    def _recognised(self, moments: Moments, actions: Tensor, context: int, generator: torch.Generator) -> Tensor:
        candidates = with_rivals(actions[:, context:].flatten(1, 2), generator)
        reached = []
        for chosen in candidates.unbind(1):
            blocks = chosen.unflatten(1, (-1, self.module.config.prediction_steps))
            ahead = self._imagine(moments, torch.cat([actions[:, :context], blocks], 1), context)
            reached.append(token_distance(ahead.tokens[:, -1], moments.tokens[:, -1], self._weight))
        return share_won(torch.stack(reached, dim=1))


def sequence_frames(window: int, block: int, rollout_steps: int) -> int:
    """Frames L of a sequence. They are those of the longest context, those of the rollout, and one more at the end."""
    return (window - 1) * block + rollout_steps + 1

"""The training stages of the tokens family. They are compression and features of every camera, then the transformer.

Shapes: `R` rows of the recording, `N'` tokens of a frame over all cameras.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from worldmodel.core.ranks import here
from worldmodel.data.clips import ClipSampler, Split
from worldmodel.data.store.reader import TrajectoryStore
from worldmodel.models.compression import Compression, CompressionConfig
from worldmodel.models.features import FeatureStage, StatisticsStage
from worldmodel.models.stages import Stage, TrainingContext
from worldmodel.models.tokens.frames import token_distance
from worldmodel.models.tokens.model import CHANGING, TokenModel, TokensConfig
from worldmodel.models.tokens.predictor import TransformerConfig
from worldmodel.models.tokens.training import PredictionConfig, Recording, TokenTask, sequence_frames
from worldmodel.training.trainer import TrainerConfig

_CHANGE_SAMPLES = 4096  # pairs of frames that token weights and distances are measured on


@dataclasses.dataclass(frozen=True)
class TokensOptions:
    """The sections of `worldmodel.train family=tokens`. `configs/family/tokens.yaml` explains each option."""

    compression: CompressionConfig
    tokens: TokensConfig
    transformer: TransformerConfig
    prediction: PredictionConfig
    trainer: TrainerConfig

    def __post_init__(self) -> None:
        block, ahead = self.transformer.prediction_steps, self.prediction.rollout_steps
        if ahead % block or ahead < 2 * block:
            raise ValueError(
                f"prediction.rollout_steps {ahead} must be a multiple of transformer.prediction_steps {block}, and at "
                "least twice as much"
            )


def make_stages(options: TokensOptions, store: TrajectoryStore, split: Split) -> Sequence[Stage]:
    """All stages, in their order. Raises UserError when no episode is long enough."""
    here().require_divisible("trainer.batch_size", options.trainer.batch_size)
    frames = sequence_frames(
        options.transformer.window, options.transformer.prediction_steps, options.prediction.rollout_steps
    )

    def sampler(episodes: NDArray[np.int64]) -> ClipSampler:
        return ClipSampler(store.episode_ends, frames, (1,), options.trainer.seed, episodes)

    features = [
        FeatureStage(camera, options.compression, functools.partial(_compression, index))
        for index, camera in enumerate(store.spec.camera_names)
    ]
    prediction = TransformerStage(options, sampler(split.train), sampler(split.held_out), features)
    return [StatisticsStage(lambda model: _model(model).normaliser), *features, prediction]


def _model(model: Any) -> TokenModel:
    assert isinstance(model, TokenModel)
    return model


def _compression(index: int, model: Any) -> Compression:
    compression = _model(model).compressions[index]
    assert isinstance(compression, Compression)
    return compression


class TransformerStage(Stage):
    """Trains the transformer on the tokens of all cameras."""

    name = "transformer"

    def __init__(
        self,
        options: TokensOptions,
        sequences: ClipSampler,
        held_out: ClipSampler,
        features: Sequence[FeatureStage],
    ) -> None:
        self._options, self._sequences, self._held_out, self._features = options, sequences, held_out, features

    def run(self, context: TrainingContext) -> None:
        """See `Stage.run`."""
        model, config = _model(context.model), self._options.trainer
        recording = self._recording(context, model)
        if self._options.tokens.weight == CHANGING:
            model.token_weight.copy_(change_by_token(recording, self._sequences))
        model.step_distance.copy_(distance_of_a_step(recording, self._held_out, model.token_weight))
        task = TokenTask(
            model.predictor,
            self._options.prediction,
            recording,
            lambda step: self._sequences.sample(step, config.batch_size).rows,
            self._held_out.sample(0, context.held_out).rows,
            model.token_weight,
            config.seed,
            context.device,
        )
        context.train(task, config, self.name, "trainer", context.folder)
        model.cpu().requires_grad_(False)

    def _recording(self, context: TrainingContext, model: TokenModel) -> Recording:
        store, normaliser = context.store, model.normaliser.cpu()
        proprio, actions = (torch.from_numpy(store.read(name, 0, store.num_rows)) for name in ("proprio", "action"))
        return Recording(
            [stage.tokens for stage in self._features],
            model.scales,
            model.grids,
            self._options.tokens.pool,
            normaliser.proprio(proprio),
            normaliser.actions(actions),
        )


def distance_of_a_step(recording: Recording, sequences: ClipSampler, weight: Tensor) -> Tensor:
    """The mean distance `[]` between frames one control step apart, with the token weights `weight [N']`."""
    rows = sequences.sample(0, _CHANGE_SAMPLES).rows[:, :2]
    tokens = recording.moments(rows, torch.device("cpu")).tokens
    return token_distance(tokens[:, 0], tokens[:, 1], weight).mean()


def change_by_token(recording: Recording, sequences: ClipSampler) -> Tensor:
    """Mean change of each token from the beginning to the end of a sequence, `[N']`, relative to the mean of all.

    A token that never changes tells nothing about a goal. Its weight is near zero, so its noise does not count.
    """
    rows = sequences.sample(0, _CHANGE_SAMPLES).rows[:, [0, -1]]
    tokens = recording.moments(rows, torch.device("cpu")).tokens
    change = (tokens[:, 1] - tokens[:, 0]).abs().mean((0, 2))
    return change / change.mean().clamp_min(1e-12)

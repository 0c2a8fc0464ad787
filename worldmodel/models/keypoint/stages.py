"""The training stages of the keypoint family.

They are compression, keypoints and appearance embedding of each camera, and then the predictor.

Shapes: `R` rows of the recording, `N` tokens of a frame, `C` channels, `K` keypoints, `L` numbers of the appearance
embedding, raw state `Z`, `P` proprioception.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from worldmodel.core.ranks import Rank, here
from worldmodel.data.clips import ClipSampler, Split, rows_of
from worldmodel.data.store.reader import TrajectoryStore
from worldmodel.encoders.variation import VariationConfig
from worldmodel.models.compression import Compression, CompressionConfig
from worldmodel.models.features import FeatureStage, StatisticsStage, camera_folder
from worldmodel.models.keypoint.alignment_training import AlignmentStage
from worldmodel.models.keypoint.appearance_training import (
    AppearanceTask,
    AppearanceTrainingConfig,
    GroupSampler,
    VariedStates,
)
from worldmodel.models.keypoint.balance import balanced_weights
from worldmodel.models.keypoint.confidence_training import cross_fitted_coverage, measure_rollouts, whiten_features
from worldmodel.models.keypoint.keypoint_training import (
    KeypointAutoencoder,
    KeypointTask,
    RobotTask,
    StateTrainingConfig,
    encode_tokens,
    neighbours,
)
from worldmodel.models.keypoint.keypoints import StateConfig
from worldmodel.models.keypoint.model import DistanceConfig, KeypointModel
from worldmodel.models.keypoint.novelty_training import NoveltyStage
from worldmodel.models.keypoint.prediction_training import PredictionConfig, PredictionTask, Recording
from worldmodel.models.keypoint.predictor import PredictorConfig
from worldmodel.models.keypoint.view import View
from worldmodel.models.stages import Stage, TrainingContext
from worldmodel.training.trainer import TrainerConfig

_CALIBRATION_SEQUENCES = 6144  # of 240 episodes in 6,000, so that many of one episode follow each other


@dataclasses.dataclass(frozen=True)
class KeypointOptions:
    """The sections of `worldmodel.train family=keypoint`. `configs/family/keypoint.yaml` explains each option."""

    compression: CompressionConfig
    variation: VariationConfig
    state: StateConfig
    predictor: PredictorConfig
    distance: DistanceConfig
    state_training: StateTrainingConfig
    robot_trainer: TrainerConfig
    state_trainer: TrainerConfig
    appearance_training: AppearanceTrainingConfig
    appearance_trainer: TrainerConfig
    prediction: PredictionConfig
    trainer: TrainerConfig

    def __post_init__(self) -> None:
        calibrated, ahead = self.predictor.calibrated_steps, self.prediction.rollout_steps
        if self.predictor.heads > 1 and calibrated != ahead:
            raise ValueError(f"predictor.calibrated_steps {calibrated} must be prediction.rollout_steps {ahead}")
        together = self.state_training.frames_per_episode
        for name, trainer in self._on_pairs.items():
            if trainer.batch_size % together:
                raise ValueError(
                    f"{name}.batch_size {trainer.batch_size} must be a multiple of "
                    f"state_training.frames_per_episode {together}"
                )

    @property
    def _on_pairs(self) -> dict[str, TrainerConfig]:
        """The sections of the trainings, by name, whose batches are pairs of frames."""
        robot = {"robot_trainer": self.robot_trainer} if self.state.robot_width else {}
        return {**robot, "state_trainer": self.state_trainer}

    def require_divisible(self, rank: Rank) -> None:
        """Raises UserError for batches that cannot be divided equally among the ranks."""
        rank.require_divisible("trainer.batch_size", self.trainer.batch_size)
        together = self.state_training.frames_per_episode
        for name, trainer in self._on_pairs.items():
            rank.require_divisible(f"{name}.batch_size", trainer.batch_size, together)
        groups = max(1, self.appearance_trainer.batch_size // self.appearance_training.group)
        rank.require_divisible("appearance_trainer.batch_size / appearance_training.group", groups)


@dataclasses.dataclass(frozen=True)
class Samplers:
    """Samplers of neighbouring frames and of sequences, each for training and for held-out episodes."""

    pairs: ClipSampler
    held_out_pairs: ClipSampler
    sequences: ClipSampler
    held_out_sequences: ClipSampler

    @classmethod
    def of(cls, store: TrajectoryStore, split: Split, options: KeypointOptions) -> Samplers:
        """Samplers of the episodes in `split`. Raises UserError when no episode is long enough."""

        def sampler(frames: int, episodes: NDArray[np.int64]) -> ClipSampler:
            return ClipSampler(store.episode_ends, frames, (1,), options.trainer.seed, episodes)

        pair, sequence = 1 + options.state_training.gap, 2 + options.prediction.rollout_steps
        return cls(
            pairs=sampler(pair, split.train),
            held_out_pairs=sampler(pair, split.held_out),
            sequences=sampler(sequence, split.train),
            held_out_sequences=sampler(sequence, split.held_out),
        )


def make_stages(
    options: KeypointOptions,
    store: TrajectoryStore,
    split: Split,
    keypoint_stage: Callable[[str, KeypointOptions, Samplers, FeatureStage], KeypointStage] | None = None,
) -> Sequence[Stage]:
    """All stages, in their order. `keypoint_stage` makes that of the keypoints.

    Raises:
        UserError: when no episode is long enough.
    """
    keypoints_of = KeypointStage if keypoint_stage is None else keypoint_stage
    options.require_divisible(here())
    samplers = Samplers.of(store, split, options)
    stages: list[Stage] = [StatisticsStage(lambda model: model.normaliser)]
    if options.state.alignment:
        stages.append(AlignmentStage())
    views: list[AppearanceStage] = []
    features = {}
    for camera in store.spec.camera_names:
        of_camera = functools.partial(compression_of, camera)
        features[camera] = FeatureStage(
            camera, options.compression, of_camera, functools.partial(_variation, camera, options)
        )
        keypoints = keypoints_of(camera, options, samplers, features[camera])
        views.append(AppearanceStage(camera, options, keypoints))
        stages += [features[camera], keypoints, views[-1]]
    if options.state.novelty:
        stages.append(NoveltyStage(features))
    return [*stages, *prediction_stages(options, samplers, views)]


def prediction_stages(options: KeypointOptions, samplers: Samplers, views: Sequence[StatesStage]) -> list[Stage]:
    """The stages that follow when the states of all cameras are known."""
    predictor = PredictionStage(options, samplers, views)
    return [predictor, ConfidenceStage(options, samplers, views)] if options.predictor.heads > 1 else [predictor]


def model_of(context: TrainingContext) -> KeypointModel:
    """The model that is trained."""
    assert isinstance(context.model, KeypointModel)
    return context.model


def compression_of(camera: str, model: Any) -> Compression:
    """The compression of a camera's features in a model of this family."""
    assert isinstance(model, KeypointModel)
    return model.view(camera).compression


def _variation(camera: str, options: KeypointOptions, model: Any) -> VariationConfig:
    assert isinstance(model, KeypointModel)
    alignment = model.view(camera).alignment
    is_aligned = alignment is not None and alignment.is_reliable
    return options.variation.of_aligned() if is_aligned else options.variation


def standardised_proprio(context: TrainingContext) -> Tensor:
    """The standardised proprioception of the whole recording, float32 `[R, P]`, on the CPU."""
    proprio = context.store.column("proprio")
    return model_of(context).normaliser.cpu().proprio(torch.from_numpy(proprio))


class KeypointStage(Stage):
    """Trains the keypoints of one camera.

    Attributes:
        raw: raw states of all frames `[R, Z]`. They exist once the stage has run.
        robot_read: estimate of the standardised proprioception `[R, P]` from the frames.
        varied_raw: raw states of the varied images `[V, Z]`.
    """

    raw: Tensor
    robot_read: Tensor
    varied_raw: Tensor

    def __init__(self, camera: str, options: KeypointOptions, samplers: Samplers, features: FeatureStage) -> None:
        self.name, self._camera = f"keypoints of {camera}", camera
        self._options, self._samplers, self._features = options, samplers, features

    def run(self, context: TrainingContext) -> None:
        """See `Stage.run`."""
        view, proprio = model_of(context).view(self._camera), standardised_proprio(context)
        folder, encoder = camera_folder(context, self._camera), view.keypoints
        torch.manual_seed(self._options.state_trainer.seed)
        encoder.requires_grad_(True)
        if encoder.robot_image is not None:
            self._train_robot_image(context, proprio, folder / "robot")
        task = self._task(context, *self._of_task(context, proprio, self._options.state_trainer))
        context.train(task, self._options.state_trainer, self.name, "state_trainer", folder / "keypoints")
        encoder.requires_grad_(False)
        self._finish(context)
        tokens, varied, device = self._features.tokens, self._features.varied, context.device
        with context.counting("raw states") as progress:
            self.raw, self.robot_read = encode_tokens(encoder, tokens, device, progress)
            self.varied_raw, _ = encode_tokens(encoder, varied.tokens, device, progress)
        self.varied = varied

    def _train_robot_image(self, context: TrainingContext, proprio: Tensor, folder: Path) -> None:
        """Train what reads and shows the robot. It does not change afterwards."""
        encoder = model_of(context).view(self._camera).keypoints
        encoder.requires_grad_(False)
        for part in encoder.robot_parts():
            part.requires_grad_(True)
        module = KeypointAutoencoder(encoder, self._features.tokens.shape[2], proprio.shape[1])
        module.decoder.requires_grad_(False)
        config = self._options.robot_trainer
        task = RobotTask(module, *self._of_task(context, proprio, config))
        context.train(task, config, f"robot of {self._camera}", "robot_trainer", folder)
        encoder.requires_grad_(True)
        for part in encoder.robot_parts():
            part.requires_grad_(False)

    def _of_task(self, context: TrainingContext, proprio: Tensor, config: TrainerConfig) -> tuple[Any, ...]:
        """What a `KeypointTask` is made of beside its module, for standardised proprioception `[R, P]`."""
        options, samplers = self._options.state_training, self._samplers
        seed, together = config.seed, options.frames_per_episode

        def pairs(step: int) -> NDArray[np.int64]:
            rows = samplers.pairs.sample(step, config.batch_size, together).rows
            return neighbours(rows, np.random.default_rng([seed, step]))

        groups = max(1, context.held_out // together)
        held_out = samplers.held_out_pairs.sample(0, groups * together, together).rows
        reported = neighbours(held_out, np.random.default_rng(seed))
        tokens, varied = self._features.tokens, self._features.varied
        return options, tokens, varied, proprio, pairs, reported, seed, context.device

    def _task(self, context: TrainingContext, *given: Any) -> KeypointTask:
        """The task with the arguments `given`, which follow its module."""
        view = model_of(context).view(self._camera)
        sizes = view.compression.channels, context.store.spec.proprio_size
        return KeypointTask(KeypointAutoencoder(view.keypoints, *sizes), *given)

    def _finish(self, context: TrainingContext) -> None:
        """What follows the training, before all states are computed."""


class StatesStage(Stage):
    """A stage that knows the states of one camera in the end.

    Attributes:
        states: standardised states of all frames `[R, 2 K + L]`. They exist once the stage has run.
    """

    states: Tensor


class AppearanceStage(StatesStage):
    """Trains the appearance embedding of one camera, and stores the spread of its states."""

    def __init__(self, camera: str, options: KeypointOptions, keypoints: KeypointStage) -> None:
        self.name, self._camera, self._keypoints = f"appearance of {camera}", camera, keypoints
        self._trainer, self._options = options.appearance_trainer, options.appearance_training
        self._count = options.state.keypoints

    def run(self, context: TrainingContext) -> None:
        """See `Stage.run`."""
        ends, raw = context.store.episode_ends, self._keypoints.raw
        view = model_of(context).view(self._camera)
        embedding = view.appearance.requires_grad_(True)

        def sampler(episodes: NDArray[np.int64]) -> GroupSampler:
            return GroupSampler(raw, self._count, ends, rows_of(ends, episodes), self._options, self._trainer.seed)

        embedding.calibrate(raw)
        reported = sampler(context.split.held_out).sample(0, context.held_out)
        learned_from = sampler(context.split.train)
        batch_size, device = self._trainer.batch_size, context.device
        varied = VariedStates(self._keypoints.varied_raw, self._keypoints.varied)
        task = AppearanceTask(embedding, self._options, raw, varied, learned_from, reported, batch_size, device)
        folder = camera_folder(context, self._camera) / "appearance"
        context.train(task, self._trainer, self.name, "appearance_trainer", folder)
        embedding.cpu().requires_grad_(False)
        self.states = self._calibrated(view.cpu(), raw, standardised_proprio(context), ends)

    @torch.no_grad()
    def _calibrated(self, view: View, raw: Tensor, proprio: Tensor, ends: NDArray[np.int64]) -> Tensor:
        states = torch.cat([view.from_raw(part) for part in raw.split(8192)])
        view.calibrate(states, self._keypoints.robot_read, proprio)
        if view.keypoint_weight is not None:
            places = raw[:, : 2 * self._count].unflatten(1, (-1, 2))
            view.keypoint_weight.copy_(balanced_weights(places, ends))
        return view.standardise(states)


class PredictionStage(Stage):
    """Trains the predictor on the states of all cameras."""

    name = "predictor"

    def __init__(self, options: KeypointOptions, samplers: Samplers, views: Sequence[StatesStage]) -> None:
        self._options, self._samplers, self._views = options, samplers, views

    def run(self, context: TrainingContext) -> None:
        """See `Stage.run`."""
        store, config = context.store, self._options.trainer
        proprio, actions = (store.column(name) for name in ("proprio", "action"))
        states = torch.cat([view.states for view in self._views], dim=-1)
        task = PredictionTask(
            model_of(context),
            self._options.prediction,
            Recording(states, proprio, actions),
            lambda step: self._samplers.sequences.sample(step, config.batch_size).rows,
            self._samplers.held_out_sequences.sample(0, context.held_out).rows,
            config.seed,
            context.device,
        )
        context.train(task, config, self.name, "trainer", context.folder)


class ConfidenceStage(Stage):
    """Calibrates how far the predictor is to be trusted, on rollouts of held-out episodes, and reports coverage.

    The predictor has seen none of these episodes. The report is cross-fitted, so that what judges an episode has not
    seen it either.
    """

    name = "confidence"

    def __init__(self, options: KeypointOptions, samplers: Samplers, views: Sequence[StatesStage]) -> None:
        self._options, self._samplers, self._views = options, samplers, views

    def run(self, context: TrainingContext) -> None:
        """See `Stage.run`."""
        model, store = model_of(context), context.store
        model.to(context.device)
        states = torch.cat([view.states for view in self._views], dim=-1)
        data = Recording(states, store.column("proprio"), store.column("action"))
        rows = np.sort(self._samplers.held_out_sequences.sample(1, _CALIBRATION_SEQUENCES).rows, axis=0)
        known = np.sort(self._samplers.sequences.sample(0, _CALIBRATION_SEQUENCES).rows, axis=0)
        device = context.device
        whiten_features(model, data, known, device)
        rollouts = measure_rollouts(model, data, rows, device)
        model.cpu()  # where they are
        assert model.calibration is not None
        model.calibration.fit(*rollouts)
        report = cross_fitted_coverage(*rollouts)
        context.write(report, "confidence.json")
        shown = ", ".join(f"{value:.1%}" for value in report["coverage"]["0.9"])
        context.say(f"confidence: errors within the 90 % bound, by step: {shown}")

"""`python -m worldmodel.train env=push`: scene code, look and predictor on the frozen encoder → a world model."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from worldmodel.cli.command import Config, command, next_command, plain_options
from worldmodel.cli.console import console
from worldmodel.cli.progress import counting
from worldmodel.core.checkpoint import weights_hash
from worldmodel.core.device import pick_device
from worldmodel.core.errors import UserError
from worldmodel.core.files import output_file, output_folder
from worldmodel.core.options import from_config
from worldmodel.data.clips import ClipSampler, Split, rows_of, split_episodes
from worldmodel.data.frames import load_frames
from worldmodel.data.statistics import compute_statistics
from worldmodel.data.store.reader import TrajectoryStore
from worldmodel.encoders.base import Encoder, PatchGrid
from worldmodel.encoders.features import FeatureCacheKey, encode_frames, encode_store
from worldmodel.encoders.registry import load_encoder, ready_encoder, ready_names
from worldmodel.encoders.vit import EncoderConfig
from worldmodel.models.keypoint.compression import CompressionConfig
from worldmodel.models.keypoint.look_training import GroupSampler, LookTask, LookTrainingConfig
from worldmodel.models.keypoint.model import GoalConfig, WorldModel, WorldModelConfig
from worldmodel.models.keypoint.prediction_training import PredictionConfig, PredictionTask, Recording
from worldmodel.models.keypoint.predictor import PredictorConfig
from worldmodel.models.keypoint.scene import SceneConfig
from worldmodel.models.keypoint.scene_training import (
    SceneAutoencoder,
    SceneTask,
    SceneTrainingConfig,
    encode_tokens,
    neighbours,
)
from worldmodel.training.runs import describe_run, is_finished, open_run, run_to_end
from worldmodel.training.trainer import Trainer, TrainerConfig


@dataclasses.dataclass(frozen=True)
class TrainOptions:
    """What `configs/train.yaml` holds beside its sections; it says what each means."""

    data: str
    cache: str
    encoder_from: str
    out: str
    device: str
    held_out_fraction: float
    held_out_sequences: int

    def __post_init__(self) -> None:
        if self.held_out_sequences < 2:
            raise ValueError(f"held_out_sequences {self.held_out_sequences} must be at least 2")


@dataclasses.dataclass(frozen=True)
class Sections:
    """The sections of `configs/train.yaml`, checked."""

    model: WorldModelConfig
    scene_training: SceneTrainingConfig
    scene_trainer: TrainerConfig
    look_training: LookTrainingConfig
    look_trainer: TrainerConfig
    prediction: PredictionConfig
    trainer: TrainerConfig

    @classmethod
    def read(cls, config: Config, encoder: PatchGrid) -> Sections:
        """Raises UserError for what cannot be used."""
        model = WorldModelConfig(
            encoder,
            from_config(CompressionConfig, config["compression"], "compression"),
            from_config(SceneConfig, config["scene"], "scene"),
            from_config(PredictorConfig, config["predictor"], "predictor"),
            from_config(GoalConfig, config["goal"], "goal"),
        )
        scene_training = from_config(SceneTrainingConfig, config["scene_training"], "scene_training")
        scene_trainer = from_config(TrainerConfig, config["scene_trainer"], "scene_trainer")
        if scene_trainer.batch_size % scene_training.moments:
            raise UserError(
                f"scene_trainer.batch_size {scene_trainer.batch_size} must be a multiple of "
                f"scene_training.moments {scene_training.moments}"
            )
        return cls(
            model,
            scene_training,
            scene_trainer,
            from_config(LookTrainingConfig, config["look_training"], "look_training"),
            from_config(TrainerConfig, config["look_trainer"], "look_trainer"),
            from_config(PredictionConfig, config["prediction"], "prediction"),
            from_config(TrainerConfig, config["trainer"], "trainer"),
        )


@dataclasses.dataclass(frozen=True)
class Samplers:
    """Where both trainings draw from: neighbouring frames, and sequences; to learn from, and to report on."""

    pairs: ClipSampler
    held_out_pairs: ClipSampler
    sequences: ClipSampler
    held_out_sequences: ClipSampler

    @classmethod
    def of(cls, store: TrajectoryStore, split: Split, sections: Sections) -> Samplers:
        """Raises UserError when no episode is long enough."""

        def sampler(frames: int, episodes: NDArray[np.int64]) -> ClipSampler:
            return ClipSampler(store.episode_ends, frames, (1,), sections.trainer.seed, episodes)

        pair, sequence = 1 + sections.scene_training.gap, 2 + sections.prediction.rollout_steps
        return cls(
            pairs=sampler(pair, split.train),
            held_out_pairs=sampler(pair, split.held_out),
            sequences=sampler(sequence, split.train),
            held_out_sequences=sampler(sequence, split.held_out),
        )


def choose_encoder(config: Config, image_size: int) -> Encoder:
    """The pretrained encoder; or one that is ready, such as the baselines `encoder_from=random|pixels`."""
    if config["encoder_from"] in ready_names():
        shape = from_config(EncoderConfig, {**config["encoder"], "image_size": image_size}, "encoder")
        return ready_encoder(config["encoder_from"], shape, config["trainer"]["seed"])
    return load_encoder(Path(config["encoder_from"]), image_size)


def make_model(
    config: WorldModelConfig,
    store: TrajectoryStore,
    encoder: Encoder,
    frames: NDArray[np.uint8],
    train: NDArray[np.int64],
    seed: int,
    device: torch.device,
) -> WorldModel:
    """A world model with the encoder and the dataset's statistics in place, the rest untrained."""
    torch.manual_seed(seed)
    model = WorldModel(store.spec, config)
    model.encoder.load_state_dict(encoder.state_dict())
    norm, statistics = model.normaliser, compute_statistics(store, train)
    for name in ("proprio_mean", "proprio_std", "action_mean", "action_std"):
        getattr(norm, name).copy_(torch.tensor(getattr(statistics, name)))
    moments = config.compression.fit_moments
    available = len(rows_of(store.episode_ends, train))
    count = max(1, min(config.compression.fit_frames, available) // moments) * moments
    rows = ClipSampler(store.episode_ends, 1, (1,), seed, train).sample(0, count, moments).rows.ravel()
    kept = model.compression.fit(encode_frames(encoder, frames, rows, device).unflatten(0, (-1, moments)))
    console.print(f"{model.compression.channels} channels per token keep {kept:.1%} of what changes in the features")
    return model


def learn_scene(
    model: WorldModel,
    tokens: NDArray[np.float16],
    proprio: torch.Tensor,
    samplers: Samplers,
    sections: Sections,
    held_out: int,
    folder: Path,
    device: torch.device,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Train keypoints and appearance, or go on training them; raw codes `[R, Z]` and robot readings `[R, P]`."""
    config, seed, moments = sections.scene_trainer, sections.scene_trainer.seed, sections.scene_training.moments
    torch.manual_seed(seed)
    encoder = model.scene.encoder.requires_grad_(True)
    module = SceneAutoencoder(encoder, model.compression.channels, proprio.shape[1])

    def pairs(step: int) -> NDArray[np.int64]:
        rows = samplers.pairs.sample(step, config.batch_size, moments).rows
        return neighbours(rows, np.random.default_rng([seed, step]))

    rng = np.random.default_rng(seed)
    groups = max(1, held_out // moments)
    reported = neighbours(samplers.held_out_pairs.sample(0, groups * moments, moments).rows, rng)
    task = SceneTask(module, sections.scene_training, tokens, proprio, pairs, reported, seed, device)
    folder.mkdir(exist_ok=True)
    run_to_end(Trainer(task, config, folder, device, "scene_trainer"), "scene code")
    encoder.requires_grad_(False)
    with counting("scene codes") as progress:
        return encode_tokens(encoder, tokens, device, progress)


def learn_look(
    model: WorldModel,
    raw: torch.Tensor,
    episode_ends: NDArray[np.int64],
    split: Split,
    sections: Sections,
    held_out: int,
    folder: Path,
    device: torch.device,
) -> torch.Tensor:
    """Train the look on raw codes `[R, Z]`, or go on training it; scene codes `[R, 2 K + L]` in their own units."""
    config, options = sections.look_trainer, sections.look_training
    look, keypoints = model.scene.look.requires_grad_(True), sections.model.scene.keypoints

    def sampler(episodes: NDArray[np.int64]) -> GroupSampler:
        rows = rows_of(episode_ends, episodes)
        return GroupSampler(raw, keypoints, episode_ends, rows, options, config.seed)

    look.calibrate(raw)
    reported = sampler(split.held_out).sample(0, held_out)
    task = LookTask(look, options, raw, sampler(split.train), reported, config.batch_size, device)
    folder.mkdir(exist_ok=True)
    run_to_end(Trainer(task, config, folder, device, "look_trainer"), "look")
    look.cpu().requires_grad_(False)
    with torch.no_grad():
        return torch.cat([model.scene.from_raw(block) for block in raw.split(8192)])


@command("train")
def main(config: Config) -> None:
    """Encode the recording once, train or go on training, write the world model."""
    options = from_config(TrainOptions, plain_options(config), "train")
    device = pick_device(options.device)
    store = TrajectoryStore.open(options.data)
    encoder = choose_encoder(config, store.spec.only_camera.height).to(device)
    # All that can be refused is built before the folder: a corrected command must not find a run that never began.
    sections = Sections.read(config, encoder.config)
    seed = sections.trainer.seed
    split = split_episodes(store.num_episodes, options.held_out_fraction, seed)
    samplers = Samplers.of(store, split, sections)
    cache, folder = output_file(options.cache, "cache"), output_folder(options.out)
    hashed = weights_hash(encoder)
    description = describe_run(config, store=store.identity, encoder_hash=hashed)
    open_run(folder, description)
    following = next_command("planning.run", out="checkpoint")
    if not config["env"].get("simulated", True):
        following = f'next: RobotController("{folder}", goal=...), in docs/robot.md'
    if is_finished(folder):
        console.print(f"already finished: {folder}\n{following}")
        return

    with counting("decode frames") as progress:
        frames = load_frames(store, cache, progress)
    model = make_model(sections.model, store, encoder, frames, split.train, seed, device)
    shape = (store.num_rows, encoder.config.tokens_per_frame, model.compression.channels)
    key = FeatureCacheKey(store.identity, hashed, weights_hash(model.compression), *shape)
    with counting("encode frames") as progress:
        tokens = encode_store(encoder, model.compression, frames, key, folder / "features.npy", device, progress)
    proprio = store.column("proprio")
    standardised = model.normaliser.proprio(torch.from_numpy(proprio))
    held_out = options.held_out_sequences
    raw, robot = learn_scene(model, tokens, standardised, samplers, sections, held_out, folder / "scene", device)
    codes = learn_look(model, raw, store.episode_ends, split, sections, held_out, folder / "look", device)
    model.scene.cpu().calibrate(codes, robot, standardised)
    task = PredictionTask(
        model,
        sections.prediction,
        Recording(model.scene.standardise(codes), proprio, store.column("action")),
        lambda step: samplers.sequences.sample(step, sections.trainer.batch_size).rows,
        samplers.held_out_sequences.sample(0, held_out).rows,
        seed,
        device,
    )
    run_to_end(Trainer(task, sections.trainer, folder, device), "predictor")
    model.save(folder, description)
    console.print(f"world model: {folder}  (log: {folder}/log.jsonl, tensorboard --logdir {folder})\n{following}")


if __name__ == "__main__":
    main()

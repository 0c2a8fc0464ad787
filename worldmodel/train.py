"""`python -m worldmodel.train env=push`: an action-conditioned predictor on the frozen encoder → a world model."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from omegaconf import DictConfig

from configs.command import command, console, env_selection, from_config
from configs.device import pick_device
from worldmodel.checkpoint import weights_hash
from worldmodel.compression import CompressionConfig
from worldmodel.data.clips import ClipSampler, split_episodes
from worldmodel.data.progress import counting, load_frames_with_progress
from worldmodel.data.statistics import compute_statistics
from worldmodel.data.store import TrajectoryStore
from worldmodel.encoders import RANDOM, load_encoder, random_encoder
from worldmodel.features import FeatureCacheKey, encode_frames, encode_store
from worldmodel.geodesic import GeodesicConfig
from worldmodel.predictor import PredictorConfig
from worldmodel.runs import describe_run, is_finished, open_run, run_to_end
from worldmodel.trainer import Trainer, TrainerConfig
from worldmodel.training import PredictionConfig, PredictionTask, Recording, prefer_motion
from worldmodel.vit import EncoderConfig, VisionTransformer
from worldmodel.world_model import WorldModel


def choose_encoder(config: DictConfig, image_size: int) -> VisionTransformer:
    """The pretrained encoder, or a random one of the same shape for `encoder_from=random`."""
    if config.encoder_from == RANDOM:
        shape = from_config(EncoderConfig, {**config.encoder, "image_size": image_size}, "encoder")
        return random_encoder(shape, config.trainer.seed)
    return load_encoder(Path(config.encoder_from), image_size)


def make_model(
    configs: tuple[CompressionConfig, GeodesicConfig, PredictorConfig],
    store: TrajectoryStore,
    encoder: VisionTransformer,
    frames: NDArray[np.uint8],
    train: NDArray[np.int64],
    seed: int,
) -> WorldModel:
    """A world model with the encoder and the dataset's statistics in place, its predictor untrained."""
    torch.manual_seed(seed)
    model = WorldModel(store.spec, encoder.config, *configs)
    model.encoder.load_state_dict(encoder.state_dict())
    norm, statistics = model.normaliser, compute_statistics(store, train)
    for name in ("proprio_mean", "proprio_std", "action_mean", "action_std"):
        getattr(norm, name).copy_(torch.tensor(getattr(statistics, name)))
    rows = np.concatenate([np.arange(r.start, r.stop) for r in map(store.episode_rows, train)])
    count = min(configs[0].fit_frames, len(rows))
    sample = np.sort(np.random.default_rng(seed).choice(rows, count, replace=False))
    device = next(encoder.parameters()).device
    kept = model.compression.fit(encode_frames(encoder, frames, sample, device))
    console.print(f"{model.compression.size} components keep {kept:.1%} of the features' variance")
    return model


@command("train")
def main(config: DictConfig) -> None:
    """Encode the recording once, train or go on training, write the world model."""
    device = pick_device(config.device)
    store = TrajectoryStore.open(config.data)
    encoder = choose_encoder(config, store.spec.image_size).to(device)
    options = from_config(PredictionConfig, config.prediction, "prediction")
    trainer_config = from_config(TrainerConfig, config.trainer, "trainer")
    # All that can be refused is built before the folder: a corrected command must not find a run that never began.
    predictor = from_config(PredictorConfig, config.predictor, "predictor")
    compression = from_config(CompressionConfig, config.compression, "compression")
    geodesic = from_config(GeodesicConfig, config.geodesic, "geodesic")
    length, seed = predictor.history + options.rollout_steps, trainer_config.seed
    split = split_episodes(store.num_episodes, config.held_out_fraction, seed)
    train, held_out = (
        ClipSampler(store.episode_ends, length, (1,), seed, part) for part in (split.train, split.held_out)
    )
    folder = Path(config.out)
    hashed = weights_hash(encoder)
    description = describe_run(config, store=store.identity, encoder_hash=hashed)
    open_run(folder, description)
    following = f"next: python -m planning.run {env_selection()}"
    if is_finished(folder):
        console.print(f"already finished: {folder}\n{following}")
        return

    frames = load_frames_with_progress(store, Path(config.cache))
    model = make_model((compression, geodesic, predictor), store, encoder, frames, split.train, seed)
    key = FeatureCacheKey(
        store.identity, hashed, weights_hash(model.compression), store.num_rows, model.compression.size
    )
    with counting("encode frames") as progress:
        features = encode_store(encoder, model.compression, frames, key, folder / "features.npy", device, progress)
    # Fitted again when a run goes on: it takes seconds, comes out the same, and the sampling below depends on it.
    rows = np.concatenate([np.arange(r.start, r.stop) for r in map(store.episode_rows, split.train)])
    picked = np.sort(np.random.default_rng(seed).choice(rows, min(geodesic.frames, len(rows)), replace=False))
    error = model.geodesic.fit(torch.from_numpy(features[picked]).float(), model.compression, seed)
    console.print(f"way to the goal: embedded with a relative error of {error:.1%}")
    recording = Recording(features, store.read("proprio", 0, store.num_rows), store.read("action", 0, store.num_rows))
    with torch.no_grad():
        places = model.geodesic(torch.from_numpy(np.array(features)).float()).numpy()
    task = PredictionTask(
        model,
        options,
        recording,
        lambda step: prefer_motion(train.sample(step, 2 * trainer_config.batch_size).rows, places, model.history - 1),
        held_out.sample(0, config.held_out_sequences).rows,
        seed,
        device,
    )
    run_to_end(Trainer(task, trainer_config, folder, device), "train")
    model.save(folder, description)
    console.print(f"world model: {folder}  (log: {folder}/log.jsonl, tensorboard --logdir {folder})\n{following}")


if __name__ == "__main__":
    main()

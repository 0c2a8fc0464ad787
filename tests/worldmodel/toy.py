"""A toy world that needs no simulator: a bright square that moves by what the action says."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from worldmodel.core.spec import ActionSpec, CameraSpec, one_camera
from worldmodel.data import EnvironmentSpec, Episode, EpisodeWriter, TrajectoryStore
from worldmodel.encoders.vit import EncoderConfig, VisionTransformer
from worldmodel.models.compression import CompressionConfig
from worldmodel.models.keypoint.keypoints import StateConfig
from worldmodel.models.keypoint.model import DistanceConfig, KeypointConfig, KeypointModel
from worldmodel.models.keypoint.predictor import PredictorConfig
from worldmodel.training.trainer import TrainerConfig

SIZE = 32
SPEC = EnvironmentSpec(
    env="toy",
    cameras=one_camera(SIZE),
    control_step_s=0.1,
    action=ActionSpec((-4.0, -4.0), (4.0, 4.0), ("pixels", "pixels")),
    proprio_size=2,
    state_size=3,
    simulator="none 1.0",
)
# The same robot, seen by two cameras of different shapes.
TOP, SIDE = "top", "side"
TWO_CAMERAS = dataclasses.replace(SPEC, cameras=(CameraSpec(TOP, SIZE, SIZE), CameraSpec(SIDE, SIZE, 48)))
ENCODER = EncoderConfig(patch_size=8, tubelet_frames=2, width=32, depth=1, heads=2)
COMPRESSION = CompressionConfig(channels=8, fit_frames=200)
STATE = StateConfig(
    keypoints=3,
    features=2,
    embedding=2,
    hidden=16,
    embedding_width=16,
    robot_keypoints=1,
    novelty=False,
    alignment=False,
)
PREDICTOR = PredictorConfig(width=32, hidden_width=32, depth=1, prediction_steps=2, heads=1)
MODEL = KeypointConfig(ENCODER, COMPRESSION, STATE, PREDICTOR, DistanceConfig(robot_weight=0.5, appearance_weight=0.3))


def draw(position: NDArray[np.float64]) -> NDArray[np.uint8]:
    """A picture `[32, 32, 3]` with a 6-pixel square whose upper left corner is at `position` (column, row)."""
    pixels = np.full((SIZE, SIZE, 3), 40, np.uint8)
    column, row = np.round(position).astype(int)
    pixels[row : row + 6, column : column + 6] = (250, 200, 60)
    return pixels


def draw_wide(position: NDArray[np.float64]) -> NDArray[np.uint8]:
    """The same from the side `[32, 48, 3]`: in other colours, and columns are further apart."""
    pixels = np.full((SIZE, 48, 3), (20, 60, 30), np.uint8)
    column, row = np.round(position * ((48 - 6) / (SIZE - 6), 1)).astype(int)
    pixels[row : row + 6, column : column + 6] = (90, 90, 240)
    return pixels


def make_episode(seed: int, num_steps: int = 12, spec: EnvironmentSpec = SPEC) -> Episode:
    """Random actions; the state is the position and a constant."""
    rng = np.random.default_rng(seed)
    position = rng.uniform(0, SIZE - 6, 2)
    positions, actions = [position], []
    for _ in range(num_steps):
        wanted = np.clip(position + rng.uniform(-4, 4, 2), 0, SIZE - 6)
        actions.append(wanted - position)
        position = wanted
        positions.append(position)
    actions.append(np.zeros(2))
    state = np.concatenate([np.stack(positions), np.ones((num_steps + 1, 1))], axis=1)
    return Episode(
        images={
            camera.name: np.stack([(draw if camera.width == SIZE else draw_wide)(p) for p in positions])
            for camera in spec.cameras
        },
        action=np.stack(actions).astype(np.float32),
        proprio=np.stack(positions).astype(np.float32),
        state=state,
        seed=seed,
    )


def write_store(path: Path, num_episodes: int = 24, spec: EnvironmentSpec = SPEC) -> TrajectoryStore:
    """Record `num_episodes` and open the store."""
    with EpisodeWriter(path, spec, {"seed": 0}, episodes_per_commit=8) as writer:
        for seed in range(num_episodes):
            writer.append(make_episode(seed, spec=spec))
    return TrajectoryStore.open(path)


def make_encoder(seed: int = 0, **changes: object) -> VisionTransformer:
    """A small random encoder; `changes` override fields of `ENCODER`."""
    torch.manual_seed(seed)
    config = EncoderConfig(**{**ENCODER.__dict__, **changes})
    return VisionTransformer(config).eval()


def make_trainer_config(steps: int, batch_size: int, learning_rate: float) -> TrainerConfig:
    """A short training without evaluations on the way."""
    return TrainerConfig(
        steps=steps,
        batch_size=batch_size,
        learning_rate=learning_rate,
        final_learning_rate=1e-6,
        warmup=0.1,
        weight_decay=0.05,
        final_weight_decay=0.05,
        precision="fp32",
        evaluate_every=10_000,
    )


def make_clips(seed: int = 0, batch: int = 3, frames: int = 4) -> torch.Tensor:
    """Noise, uint8 `[B, T, 32, 32, 3]`."""
    rng = np.random.default_rng(seed)
    return torch.from_numpy(rng.integers(0, 256, (batch, frames, SIZE, SIZE, 3), dtype=np.uint8))


def make_model(seed: int = 0, spec: EnvironmentSpec = SPEC) -> KeypointModel:
    """A world model with random weights, everything fitted to three episodes, its statistics away from 0 and 1."""
    torch.manual_seed(seed)
    model = KeypointModel(spec, MODEL).eval()
    episodes = [make_episode(i, spec=spec) for i in range(3)]
    norm = model.normaliser
    with torch.no_grad():
        for mean in (norm.proprio_mean, norm.action_mean):
            mean.normal_()
        for std in (norm.proprio_std, norm.action_std):
            std.uniform_(0.5, 2.0)
        proprio = norm.proprio(torch.from_numpy(np.concatenate([e.proprio for e in episodes])))
        for camera in spec.camera_names:
            view, pixels = model.view(camera), torch.from_numpy(np.concatenate([e.images[camera] for e in episodes]))
            view.compression.fit(model.encoder.encode_frames(pixels)[None])
            raw = view.keypoints(model.tokens(camera, pixels))
            view.appearance.calibrate(raw)
            view.calibrate(view.from_raw(raw), 0.8 * proprio, proprio)
    return model

"""A small model of the tokens family that sees the toy world, or a world of two cameras."""

from __future__ import annotations

import dataclasses

import numpy as np
import torch

from tests.worldmodel.toy import ENCODER, SPEC
from worldmodel.core.spec import CameraSpec, EnvironmentSpec
from worldmodel.models.compression import CompressionConfig
from worldmodel.models.tokens.model import TokenModel, TokenModelConfig, TokensConfig
from worldmodel.models.tokens.predictor import Moments, TokenPredictor, TransformerConfig
from worldmodel.training.trainer import TrainerConfig

TWO_CAMERAS = dataclasses.replace(SPEC, cameras=(CameraSpec("front", 32, 32), CameraSpec("wrist-1", 16, 32)))
TRANSFORMER = TransformerConfig(
    width=32, depth=2, heads=2, mlp_ratio=2.0, window=2, prediction_steps=2, conditioning="tokens"
)
GRIDS = ((2, 2), (1, 2))
TOKEN_SIZE, PROPRIO, ACTION = 6, 3, 2


def make_trainer_config(steps: int) -> TrainerConfig:
    """A short training without evaluations on the way."""
    return TrainerConfig(
        steps=steps,
        batch_size=8,
        learning_rate=3e-3,
        final_learning_rate=1e-6,
        warmup=0.1,
        weight_decay=0.01,
        final_weight_decay=0.01,
        precision="fp32",
        evaluate_every=10_000,
    )


def make_predictor(seed: int = 0, **changes: object) -> TokenPredictor:
    """One whose every parameter is away from zero, so that whatever can have an influence has it."""
    config = dataclasses.replace(TRANSFORMER, **changes)  # type: ignore[arg-type]
    torch.manual_seed(seed)
    predictor = TokenPredictor(config, GRIDS, TOKEN_SIZE, PROPRIO, ACTION).eval()
    with torch.no_grad():
        for parameter in predictor.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return predictor.requires_grad_(False)


def draw_moments(rows: int, frames: int, seed: int = 0) -> Moments:
    """Noise, `[rows, frames, ·]`."""
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randn(rows, frames, 6, TOKEN_SIZE, generator=generator)
    return Moments(tokens, torch.randn(rows, frames, PROPRIO, generator=generator))


def draw_blocks(rows: int, blocks: int, size: int = 2, seed: int = 0) -> torch.Tensor:
    """Actions `[rows, blocks, size, A]`: noise."""
    return torch.randn(rows, blocks, size, ACTION, generator=torch.Generator().manual_seed(seed))


def make_model(spec: EnvironmentSpec = SPEC, seed: int = 0, **changes: object) -> TokenModel:
    """A world model with random weights, its compression fitted to noise; `changes` override the transformer's."""
    torch.manual_seed(seed)
    transformer = dataclasses.replace(TRANSFORMER, **changes)  # type: ignore[arg-type]
    config = TokenModelConfig(ENCODER, CompressionConfig(channels=8, fit_frames=200), TokensConfig(), transformer)
    model = TokenModel(spec, config).eval().requires_grad_(False)
    rng = np.random.default_rng(seed)
    for camera, compression in zip(spec.cameras, model.compressions, strict=True):
        pixels = torch.from_numpy(rng.integers(0, 256, (60, *camera.shape), dtype=np.uint8))
        compression.fit(model.encoder.encode_frames(pixels)[None])
    for parameter in model.predictor.parameters():
        parameter.add_(0.1 * torch.randn_like(parameter))
    model.normaliser.action_std.uniform_(0.5, 2.0)
    model.normaliser.proprio_mean.normal_()
    return model

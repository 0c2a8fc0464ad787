"""Untrained keypoint models of toy size, for one camera or several."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from worldmodel.core.spec import EnvironmentSpec
from worldmodel.encoders.vit import EncoderConfig
from worldmodel.models.compression import CompressionConfig
from worldmodel.models.keypoint.keypoints import StateConfig
from worldmodel.models.keypoint.model import DistanceConfig, KeypointConfig, KeypointModel
from worldmodel.models.keypoint.novelty_training import calibrate_novelty, fit_novelty
from worldmodel.models.keypoint.predictor import PredictorConfig


def make_model(
    spec: EnvironmentSpec,
    frames: dict[str, np.ndarray] | None = None,
    patch: int = 16,
    novelty: bool = False,
    alignment: bool = False,
) -> KeypointModel:
    """With random weights; its compression is fitted to `frames`, uint8 `[B, H, W, 3]` by camera; None: noise."""
    config = KeypointConfig(
        EncoderConfig(patch_size=patch, width=16, depth=1, heads=2),
        CompressionConfig(channels=8),
        StateConfig(2, 2, 2, hidden=8, embedding_width=8, robot_keypoints=1, novelty=novelty, alignment=alignment),
        PredictorConfig(16, 16, depth=1, prediction_steps=2, heads=1),
        DistanceConfig(robot_weight=0.5),
    )
    rng = np.random.default_rng(0)
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(0)
        model = KeypointModel(spec, config)
        for camera in spec.cameras:
            noise = rng.integers(0, 256, (24, *camera.shape), np.uint8)
            pixels = torch.from_numpy(noise if frames is None else frames[camera.name])
            view = model.view(camera.name)
            view.compression.fit(model.encoder.encode_frames(pixels)[None])
            if view.alignment is not None:
                view.alignment.fit(*np.split(pixels.numpy(), [len(pixels) * 3 // 4]), rng)
            if novelty:
                learned, held_out = model.tokens(camera.name, pixels).chunk(2)
                fit_novelty(model, {camera.name: [learned]})
                calibrate_novelty(model, [{camera.name: held_out}])
    return model.eval()


def save_model(
    folder: Path,
    spec: EnvironmentSpec,
    frames: dict[str, np.ndarray] | None = None,
    patch: int = 16,
    novelty: bool = False,
) -> Path:
    """A checkpoint of one."""
    make_model(spec, frames, patch, novelty).save(folder, {})
    return folder

"""The keypoint family keeps the contract of world models."""

from __future__ import annotations

import dataclasses

import numpy as np
import torch

from tests.worldmodel.models.conformance import WorldModelConformance
from worldmodel.core.spec import ActionSpec, CameraSpec, EnvironmentSpec, one_camera
from worldmodel.encoders.vit import EncoderConfig
from worldmodel.models.compression import CompressionConfig
from worldmodel.models.contract import WorldModel
from worldmodel.models.keypoint.keypoints import StateConfig
from worldmodel.models.keypoint.model import DistanceConfig, KeypointConfig, KeypointModel
from worldmodel.models.keypoint.predictor import PredictorConfig

SPEC = EnvironmentSpec(
    env="toy",
    cameras=one_camera(32),
    control_step_s=0.1,
    action=ActionSpec((-4.0, -4.0), (4.0, 4.0), ("pixels", "pixels")),
    proprio_size=2,
    state_size=3,
    simulator="none 1.0",
)
TWO_CAMERAS = dataclasses.replace(SPEC, cameras=(CameraSpec("front", 32, 32), CameraSpec("wrist-1", 16, 32)))
CONFIG = KeypointConfig(
    EncoderConfig(patch_size=8, tubelet_frames=2, width=32, depth=1, heads=2),
    CompressionConfig(channels=8, fit_frames=200),
    StateConfig(keypoints=3, features=2, embedding=2, hidden=16, embedding_width=16, robot_keypoints=1),
    PredictorConfig(width=32, hidden_width=32, depth=1, prediction_steps=2),
    DistanceConfig(robot_weight=0.5, appearance_weight=0.3),
)


def make_model(spec: EnvironmentSpec) -> KeypointModel:
    """Random weights; compression and states fitted to noise."""
    torch.manual_seed(0)
    model = KeypointModel(spec, CONFIG).eval().requires_grad_(False)
    rng = np.random.default_rng(0)
    proprio = torch.randn(60, spec.proprio_size)
    for camera in spec.cameras:
        pixels = torch.from_numpy(rng.integers(0, 256, (60, *camera.shape), dtype=np.uint8))
        view = model.view(camera.name)
        view.compression.fit(model.encoder.encode_frames(pixels)[None])
        raw = view.keypoints(model.tokens(camera.name, pixels))
        view.appearance.calibrate(raw)
        view.calibrate(view.from_raw(raw), 0.8 * proprio, proprio)
    for parameter in model.predictor.parameters():
        parameter.add_(0.1 * torch.randn_like(parameter))
    return model


class InBlocks(WorldModelConformance):
    """One evaluation of the predictor looks two steps ahead, and knows both actions."""

    def steps_apart(self, model: WorldModel) -> int:
        return 4


class TestKeypoint(InBlocks):
    def make(self) -> KeypointModel:
        return make_model(SPEC)


class TestTwoCameras(InBlocks):
    def make(self) -> KeypointModel:
        return make_model(TWO_CAMERAS)

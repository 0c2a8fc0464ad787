"""The keypoint family keeps the contract of world models."""

from __future__ import annotations

import dataclasses

import numpy as np
import torch

from tests.worldmodel.models.conformance import WorldModelConformance
from tests.worldmodel.toy import MODEL, SPEC
from worldmodel.core.spec import CameraSpec, EnvironmentSpec
from worldmodel.models.contract import WorldModel
from worldmodel.models.keypoint.model import KeypointModel

TWO_CAMERAS = dataclasses.replace(SPEC, cameras=(CameraSpec("front", 32, 32), CameraSpec("wrist-1", 16, 32)))


def make_model(spec: EnvironmentSpec) -> KeypointModel:
    """Random weights; compression and states fitted to noise."""
    torch.manual_seed(0)
    model = KeypointModel(spec, MODEL).eval().requires_grad_(False)
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

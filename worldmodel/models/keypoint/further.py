"""The stages of a training that goes on from a finished model of the keypoint family.

The perception of the model stays, which is compression, keypoints, appearance embedding, novelty and all statistics. A
latent state, a distance and `reached_distance` then mean the same before and after. Only the predictor learns, and
confidence is calibrated anew.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import torch

from worldmodel.core.ranks import here
from worldmodel.data.clips import Split
from worldmodel.data.store.reader import TrajectoryStore
from worldmodel.encoders.features import Frames
from worldmodel.models.features import FeatureStage
from worldmodel.models.keypoint.camera_alignment import AlignedFrames
from worldmodel.models.keypoint.keypoint_training import encode_tokens
from worldmodel.models.keypoint.model import KeypointModel
from worldmodel.models.keypoint.stages import (
    KeypointOptions,
    Samplers,
    StatesStage,
    compression_of,
    model_of,
    prediction_stages,
)
from worldmodel.models.stages import Stage, TrainingContext

_AT_ONCE = 8192  # frames, which bounds memory


def make_further_stages(options: KeypointOptions, store: TrajectoryStore, split: Split) -> Sequence[Stage]:
    """All stages, in their order. Raises UserError when no episode is long enough."""
    here().require_divisible("trainer.batch_size", options.trainer.batch_size)
    stages: list[Stage] = []
    views = []
    for camera in store.spec.camera_names:
        features = FeatureStage(
            camera,
            options.compression,
            functools.partial(compression_of, camera),
            is_fitted=True,
            aligned=functools.partial(_aligned, camera),
        )
        views.append(KnownStatesStage(camera, features))
        stages += [features, views[-1]]
    return [*stages, *prediction_stages(options, Samplers.of(store, split, options), views)]


def _aligned(camera: str, model: Any, frames: Frames) -> Frames:
    """The frames as the camera of the first recording would have taken them, as the model sees them when it acts."""
    assert isinstance(model, KeypointModel)
    alignment = model.view(camera).alignment
    return frames if alignment is None or not alignment.is_reliable else AlignedFrames(frames, alignment)


class KnownStatesStage(StatesStage):
    """Reads the states of one camera from all frames, with a view that is trained already."""

    def __init__(self, camera: str, features: FeatureStage) -> None:
        self.name, self._camera, self._features = f"states of {camera}", camera, features

    @torch.no_grad()
    def run(self, context: TrainingContext) -> None:
        """See `Stage.run`."""
        view = model_of(context).view(self._camera)
        with context.counting("states") as progress:
            raw, _ = encode_tokens(view.keypoints, self._features.tokens, context.device, progress)
        view.cpu()
        self.states = torch.cat([view.standardise(view.from_raw(part)) for part in raw.split(_AT_ONCE)])

"""The keypoint family, as `worldmodel.models.registry` lists it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from worldmodel.core.spec import EnvironmentSpec
from worldmodel.encoders.base import PatchGrid
from worldmodel.models.keypoint.format_1 import upgraded
from worldmodel.models.keypoint.further import make_further_stages
from worldmodel.models.keypoint.model import KeypointConfig, KeypointModel
from worldmodel.models.keypoint.stages import KeypointOptions, make_stages
from worldmodel.models.keypoint.tuning import make_tuned_stages
from worldmodel.models.registry import Family


def shapes(options: KeypointOptions, encoder: PatchGrid) -> dict[str, Any]:
    """See `Family.shapes`."""
    parts = options.compression, options.state, options.predictor, options.distance
    return KeypointConfig(encoder, *parts).to_dict()


def build(spec: EnvironmentSpec, values: Mapping[str, Any]) -> KeypointModel:
    """See `Family.build`."""
    return KeypointModel(spec, KeypointConfig.from_dict(values, spec.cameras))


KEYPOINT: Final = Family(
    "keypoint", KeypointOptions, shapes, build, make_stages, upgraded, make_further_stages, make_tuned_stages
)

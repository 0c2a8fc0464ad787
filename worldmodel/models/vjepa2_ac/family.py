"""V-JEPA 2-AC, as `worldmodel.models.registry` lists it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from worldmodel.core.errors import UserError
from worldmodel.core.spec import EnvironmentSpec
from worldmodel.encoders.base import PatchGrid
from worldmodel.models.registry import Family
from worldmodel.models.vjepa2_ac.files import read_shape
from worldmodel.models.vjepa2_ac.model import AcModel, AcModelConfig
from worldmodel.models.vjepa2_ac.stages import AcOptions, make_stages


def shapes(options: AcOptions, encoder: PatchGrid) -> dict[str, Any]:
    """See `Family.shapes`. Raises UserError for an encoder whose tokens the predictor cannot read."""
    predictor = read_shape(options.predictor)
    if predictor.token_width != encoder.width:
        raise UserError(
            f"predictor.weights {options.predictor.weights} reads tokens of {predictor.token_width} numbers, and the "
            f"encoder's have {encoder.width}: expected encoder_from=vjepa2:{options.predictor.weights}"
        )
    return AcModelConfig(encoder, predictor).to_dict()


def build(spec: EnvironmentSpec, values: Mapping[str, Any]) -> AcModel:
    """See `Family.build`."""
    return AcModel(spec, AcModelConfig.from_dict(values, spec.cameras))


VJEPA2_AC: Final = Family("vjepa2_ac", AcOptions, shapes, build, make_stages)

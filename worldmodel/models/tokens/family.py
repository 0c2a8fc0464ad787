"""The tokens family, as `worldmodel.models.registry` lists it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from worldmodel.core.spec import EnvironmentSpec
from worldmodel.encoders.base import PatchGrid
from worldmodel.models.registry import Family
from worldmodel.models.tokens.model import TokenModel, TokenModelConfig
from worldmodel.models.tokens.stages import TokensOptions, make_stages


def shapes(options: TokensOptions, encoder: PatchGrid) -> dict[str, Any]:
    """See `Family.shapes`."""
    return TokenModelConfig(encoder, options.compression, options.tokens, options.transformer).to_dict()


def build(spec: EnvironmentSpec, values: Mapping[str, Any]) -> TokenModel:
    """See `Family.build`."""
    return TokenModel(spec, TokenModelConfig.from_dict(values, spec.cameras))


TOKENS: Final = Family("tokens", TokensOptions, shapes, build, make_stages)

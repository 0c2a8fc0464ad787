"""Reads the predictor in an official `.pt` file of V-JEPA 2-AC (`vjepa2-ac-vitg.pt`)."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import torch
from torch import Tensor

from worldmodel.core.errors import UserError
from worldmodel.encoders.base import Grid
from worldmodel.encoders.foreign.files import find, network_of, read_pt, require_fit
from worldmodel.models.vjepa2_ac.predictor import AcConfig, AcPredictor

_NETWORK: Final = "predictor"
# The official names of parts, and ours.
_PARTS: Final = {
    "predictor_embed.": "tokens_in.",
    "action_encoder.": "actions_in.",
    "state_encoder.": "poses_in.",
    "extrinsics_encoder.": "cameras_in.",
    "predictor_blocks.": "blocks.",
    ".attn.qkv.": ".attention.qkv.",
    ".attn.proj.": ".attention.out.",
    ".mlp.fc1.": ".mlp.0.",
    ".mlp.fc2.": ".mlp.2.",
    "predictor_norm.": "norm.",
    "predictor_proj.": "out.",
}


@dataclasses.dataclass(frozen=True)
class OfficialConfig:
    """Where the official weights are.

    Attributes:
        weights: path of the `.pt` file, which also holds the encoder. None names no file, and is refused.
        heads: attention heads of the predictor, which the file does not tell.
        extrinsics: whether the weights were trained with a token of the camera's pose, which the file does not tell.
            Those that are published were not.
    """

    weights: str | None = None
    heads: int = 16
    extrinsics: bool = False


def read_shape(config: OfficialConfig) -> AcConfig:
    """The shape of the predictor in the file. Raises UserError for a file that has none."""
    tensors, path = _tensors(config)
    return _shape(tensors, config, path)


def read_predictor(config: OfficialConfig, grid: Grid) -> AcPredictor:
    """The predictor in the file, for patches of `grid`. Raises UserError for a file that has none."""
    tensors, path = _tensors(config)
    with torch.device("meta"), torch.random.fork_rng(devices=[]):
        predictor = AcPredictor(_shape(tensors, config, path), grid)
    ours = require_fit(_renamed(tensors, config.extrinsics), predictor, path)
    return predictor.take(ours).eval().requires_grad_(False)


def _tensors(config: OfficialConfig) -> tuple[dict[str, Tensor], Path]:
    if config.weights is None:
        raise UserError("predictor.weights is null: expected the path of an official .pt file of V-JEPA 2-AC")
    path = find(config.weights)
    if path.is_dir():
        raise UserError(f"predictor.weights {path} is a folder: expected an official .pt file of V-JEPA 2-AC")
    return network_of(read_pt(path), (_NETWORK,), path), path


def _shape(tensors: Mapping[str, Tensor], config: OfficialConfig, path: Path) -> AcConfig:
    names = ("predictor_embed.weight", "action_encoder.weight", "predictor_blocks.0.mlp.fc1.weight")
    found = [tensors.get(name) for name in names]
    if any(tensor is None or tensor.ndim != 2 for tensor in found):
        raise UserError(f"{path} has a predictor without actions: expected one of V-JEPA 2-AC, with {', '.join(names)}")
    embed, action, hidden = (tensor.shape for tensor in found if tensor is not None)
    blocks = {match[1] for name in tensors if (match := re.match(r"predictor_blocks\.(\d+)\.", name))}
    try:
        return AcConfig(
            width=embed[0],
            depth=len(blocks),
            heads=config.heads,
            hidden_width=hidden[0],
            token_width=embed[1],
            action_size=action[1],
            extrinsics=config.extrinsics,
        )
    except ValueError as error:
        raise UserError(f"{path}: {error}") from error


def _renamed(tensors: Mapping[str, Tensor], extrinsics: bool) -> dict[str, Tensor]:
    """Tensors under our names. Files have weights for the camera's pose even if it was not used."""
    ours = {}
    for name, value in tensors.items():
        if name.startswith("extrinsics_encoder.") and not extrinsics:
            continue
        for theirs, our in _PARTS.items():
            name = name.replace(theirs, our)
        ours[name] = value
    return ours

"""Loads what is tested, and a network of the same shape that has learned nothing."""

from __future__ import annotations

import dataclasses

import torch

from worldmodel.core import checkpoint
from worldmodel.core.checkpoint import weights_hash
from worldmodel.core.errors import UserError
from worldmodel.core.spec import EnvironmentSpec
from worldmodel.encoders.jepa.inference import JepaInference, load_jepa
from worldmodel.encoders.registry import load_encoder
from worldmodel.encoders.vit import VisionTransformer
from worldmodel.models.contract import WorldModel
from worldmodel.models.registry import FAMILIES, load_model
from worldmodel.surprise.clips import Measure
from worldmodel.surprise.imagination import ImaginationSurprise
from worldmodel.surprise.video import VideoSurprise, WindowConfig

_JEPA = "jepa"  # folder of the mask predictor in that of a pretraining


@dataclasses.dataclass(frozen=True)
class Subject:
    """What is tested.

    Attributes:
        kind: `jepa`, or the family of a world model.
        weights: hash of its weights.
        measure: its surprise, and that of the control that copies.
        untrained: the same of a network of its shape with random weights.
    """

    kind: str
    weights: str
    measure: Measure
    untrained: Measure


def load_subject(
    name_or_path: str, spec: EnvironmentSpec, windows: WindowConfig, horizon: int, seed: int, device: torch.device
) -> Subject:
    """A pretraining with its mask predictor, or a world model, for clips of `spec`.

    Args:
        name_or_path: folder of either, or the name of a shipped world model.
        spec: specification of the clips.
        windows: windows of a mask predictor.
        horizon: control steps that a world model imagines.
        seed: seed of the random weights.
        device: where the networks are put.

    Raises:
        UserError: for a checkpoint that does not exist, or does not fit the clips.
    """
    folder = checkpoint.resolve(name_or_path)
    if checkpoint.is_there(folder / _JEPA):
        predictor = load_jepa(folder / _JEPA)
        target = load_encoder(folder, spec.cameras)
        if not isinstance(target, VisionTransformer) or target.config != predictor.encoder.config:
            raise UserError(f"{folder} and {folder / _JEPA} hold encoders of different shapes")
        fresh = _untrained_jepa(predictor, seed)
        return Subject(
            _JEPA,
            weights_hash(predictor),
            VideoSurprise(predictor, target, windows, device),
            VideoSurprise(fresh, fresh.encoder, windows, device),
        )
    model = load_model(name_or_path, device)
    model.spec.require_match(spec, "the world model", "the recording")
    untrained = untrained_model(model, seed).to(device)
    measures = (ImaginationSurprise(each, horizon) for each in (model, untrained))
    return Subject(model.family, weights_hash(model), *measures)


def _untrained_jepa(like: JepaInference, seed: int) -> JepaInference:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return JepaInference(like.encoder.config, like.config).eval().requires_grad_(False)


def untrained_model(model: WorldModel, seed: int) -> WorldModel:
    """A world model of the same shape with random weights.

    It keeps the statistics, which are buffers, and weights of an encoder that a checkpoint only refers to.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        fresh = FAMILIES.get(model.family).build(model.spec, model.describe())
    fresh.encoder.fetch_weights()
    kept = dict(model.named_buffers())
    fresh.load_state_dict({name: kept[name] for name, _ in fresh.named_buffers() if name in kept}, strict=False)
    return fresh.eval().requires_grad_(False)

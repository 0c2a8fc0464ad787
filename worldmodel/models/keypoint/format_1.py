"""Converts the names in checkpoints of format 1, which had neither families nor several cameras."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from worldmodel.core.spec import CAMERA

# Sections of `model` in config.json, and the options in them that have other names now.
_SECTIONS: Final[dict[str, tuple[str, dict[str, str]]]] = {
    "encoder": ("encoder", {}),
    "compression": ("compression", {"fit_moments": "frames_per_episode"}),
    "scene": ("state", {"appearance": "features", "looks": "embedding", "look_width": "embedding_width"}),
    "predictor": ("predictor", {"block": "prediction_steps"}),
    "goal": ("distance", {"look_weight": "appearance_weight"}),
}
# New prefixes of tensor names by old prefix. The first match counts, and names without a match stay as they are.
_VIEW: Final = f"views.camera_{CAMERA}."
_TENSORS: Final = {
    "compression.scale": f"{_VIEW}compression.std",
    "compression.": f"{_VIEW}compression.",
    "scene.encoder.looks.": f"{_VIEW}keypoints.values.",
    "scene.encoder.": f"{_VIEW}keypoints.",
    "scene.look.": f"{_VIEW}appearance.",
    "scene.code_mean": f"{_VIEW}state_mean",
    "scene.code_std": f"{_VIEW}state_std",
    "scene.robot_readable": f"{_VIEW}robot_readable",
}


def upgraded(model: Mapping[str, Any]) -> tuple[dict[str, Any], Callable[[str], str]]:
    """The section `model` of a config.json of format 1 in format 2, and a function to the new names of tensors.

    Raises:
        KeyError: for a missing part.
        ValueError: for a part that format 1 does not have.
    """
    unknown = sorted(set(model) - set(_SECTIONS))
    if unknown:
        raise ValueError(f"{unknown[0]!r:.40} is no part of a keypoint model")
    values = {
        now: {options.get(name, name): value for name, value in model[before].items()}
        for before, (now, options) in _SECTIONS.items()
    }
    return values, renamed


def renamed(tensor: str) -> str:
    """The present name of a tensor of format 1."""
    for before, now in _TENSORS.items():
        if tensor.startswith(before):
            return now + tensor.removeprefix(before)
    return tensor

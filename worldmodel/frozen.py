"""Finds the frozen encoder that a command names, also that of a world model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import torch

from worldmodel.core import checkpoint
from worldmodel.core.errors import UserError
from worldmodel.core.spec import CAMERA, CameraSpec
from worldmodel.encoders.base import Encoder
from worldmodel.encoders.foreign.base import ForeignConfig
from worldmodel.encoders.registry import choose_encoder, made_for
from worldmodel.models.registry import load_model

_SIZE: Final = 64  # height and width for an encoder that was made for no size, as `worldmodel.pretrain` has for videos


def is_world_model(name: str) -> bool:
    """Whether `name` is a shipped world model, or the folder of one."""
    return name in checkpoint.shipped_names() or checkpoint.kind_of(Path(name)) == "world_model"


def frozen_encoder(encoder_from: str, shape: Mapping[str, Any], cameras: Sequence[CameraSpec], seed: int) -> Encoder:
    """The encoder that `encoder_from` names, as in `choose_encoder`, or that of a world model.

    Raises:
        UserError: for an encoder that does not exist, or that was made for images of other sizes than `cameras` have.
    """
    if not is_world_model(encoder_from):
        return choose_encoder(encoder_from, shape, cameras, seed)
    model = load_model(encoder_from, torch.device("cpu"))
    sizes = {(camera.height, camera.width) for camera in model.spec.cameras}
    for camera in cameras:
        if (camera.height, camera.width) not in sizes:
            made = ", ".join(f"{height} x {width}" for height, width in sorted(sizes))
            raise UserError(f"{encoder_from} was made for pictures of {made}, not of {camera.height} x {camera.width}")
    return model.encoder


def image_size(encoder_from: str, shape: Mapping[str, Any], seed: int, option: str) -> tuple[int, int]:
    """Height and width of the images that an encoder was made for [pixels]. `option` is where others can be chosen.

    Raises:
        UserError: for an encoder that does not exist, or that was made for images of several sizes.
    """
    if is_world_model(encoder_from):
        cameras = load_model(encoder_from, torch.device("cpu")).spec.cameras
    elif checkpoint.is_there(Path(encoder_from)):
        cameras = made_for(Path(encoder_from))
    else:
        config = choose_encoder(encoder_from, shape, (), seed).config
        side = config.resolution if isinstance(config, ForeignConfig) else _SIZE
        cameras = (CameraSpec(CAMERA, side, side),)
    sizes = {(camera.height, camera.width) for camera in cameras}
    if len(sizes) > 1:
        raise UserError(f"{encoder_from} was made for pictures of {len(sizes)} sizes: choose one with {option}")
    return sizes.pop()

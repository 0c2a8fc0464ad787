"""Where a frozen encoder comes from: pretraining left it in a folder, or it is one of the baselines.

What the rest of the toolkit needs of an encoder is `encode_frames(pixels [B, H, W, 3]) -> tokens [B, N, D]` and a
`config` that tells `image_size`, `grid`, `tokens_per_frame` and `width`.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import torch

from configs.command import UserError
from worldmodel import checkpoint
from worldmodel.data.spec import EnvironmentSpec
from worldmodel.pixels import PixelConfig, PixelPatches
from worldmodel.vit import EncoderConfig, VisionTransformer

# What `encoder_from=` accepts beside a folder.
RANDOM, PIXELS = "random", "pixels"

AnyEncoder = VisionTransformer | PixelPatches
AnyEncoderConfig = EncoderConfig | PixelConfig


def read_encoder_config(content: dict[str, Any]) -> AnyEncoderConfig:
    """Read back what `dataclasses.asdict` wrote. Raises TypeError or ValueError."""
    return PixelConfig(**content) if "shrink" in content else EncoderConfig(**content)


def build_encoder(config: AnyEncoderConfig) -> AnyEncoder:
    """The module of that shape, its weights still random if it has any."""
    return PixelPatches(config) if isinstance(config, PixelConfig) else VisionTransformer(config)


def random_encoder(config: EncoderConfig, seed: int) -> VisionTransformer:
    """A frozen encoder that has learned nothing: what pretraining has to beat."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return VisionTransformer(config).eval().requires_grad_(False)


def save_encoder(encoder: VisionTransformer, folder: Path, spec: EnvironmentSpec, provenance: dict[str, Any]) -> None:
    """Write a frozen encoder as a checkpoint."""
    config = {
        "encoder": dataclasses.asdict(encoder.config),
        "environment": spec.to_dict(),
        "encoder_hash": checkpoint.weights_hash(encoder),
        "provenance": provenance,
    }
    checkpoint.save(folder, "encoder", config, encoder, half=False)


def load_encoder(folder: Path, image_size: int) -> VisionTransformer:
    """Read a frozen encoder.

    Raises:
        UserError: when the folder holds none, or it was made for another image size.
    """
    if not (folder / "config.json").is_file():
        raise UserError(
            f"no encoder at {folder}: make one with `python -m worldmodel.pretrain`, or give "
            "encoder_from=random or encoder_from=pixels"
        )
    config = checkpoint.load_config(folder, "encoder")
    try:
        encoder = VisionTransformer(EncoderConfig(**config["encoder"]))
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{folder / 'config.json'} does not describe an encoder: {error}") from error
    checkpoint.load_weights(folder, encoder)
    if encoder.config.image_size != image_size:
        raise UserError(f"{folder} was made for image_size {encoder.config.image_size}, the data has {image_size}")
    return encoder.eval().requires_grad_(False)

"""Encoders by kind, and where a frozen one comes from.

A new kind is one new file and one line in `KINDS`. The file has a `patches.PatchGrid`, the frozen dataclass of its
shape; a `patches.Encoder`, the module that is built from it; and, if its weights do not come out of
`worldmodel.pretrain`, a function that makes one with its weights in place, which is what `encoder_from=<kind>` calls.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from worldmodel.core import checkpoint
from worldmodel.core.errors import UserError
from worldmodel.core.spec import EnvironmentSpec
from worldmodel.encoders.base import Encoder, PatchGrid
from worldmodel.encoders.pixels import PixelConfig, PixelPatches, pixel_patches
from worldmodel.encoders.vit import EncoderConfig, VisionTransformer

# What `encoder_from=` accepts beside folders and kinds: a vision transformer that has learned nothing.
RANDOM = "random"


@dataclasses.dataclass(frozen=True)
class EncoderKind:
    """What makes encoders of one kind.

    Attributes:
        config: of its shape, no other kind's; plain values only, since a checkpoint holds them as JSON.
        module: built from a `config`, its weights still to be loaded: nothing is fetched here.
        ready: makes one with its weights in place, for pictures of this size that are cut like this as far as it can;
            None where only training makes one.
    """

    config: type[PatchGrid]
    module: Callable[[Any], Encoder]
    ready: Callable[[PatchGrid], Encoder] | None = None


KINDS: dict[str, EncoderKind] = {
    "vit": EncoderKind(EncoderConfig, VisionTransformer),
    "pixels": EncoderKind(PixelConfig, PixelPatches, pixel_patches),
}


def _kind_of(config: PatchGrid) -> str:
    return {kind.config: name for name, kind in KINDS.items()}[type(config)]


def describe_encoder(config: PatchGrid) -> dict[str, Any]:
    """Kind and shape as plain values, for a checkpoint."""
    return {"kind": _kind_of(config), **dataclasses.asdict(config)}


def read_encoder_config(content: dict[str, Any]) -> PatchGrid:
    """Read back what `describe_encoder` wrote. Raises TypeError or ValueError."""
    values = dict(content)
    # Checkpoints from before there were kinds have none.
    kind = values.pop("kind", "pixels" if "shrink" in values else "vit")
    if kind not in KINDS:
        raise ValueError(f"encoder of kind '{kind}' is unknown: there are {', '.join(KINDS)}")
    return KINDS[kind].config(**values)


def build_encoder(config: PatchGrid) -> Encoder:
    """The module of that shape, its weights still random if it has any."""
    return KINDS[_kind_of(config)].module(config)


def ready_names() -> list[str]:
    """What `encoder_from=` accepts beside a folder."""
    return [RANDOM, *(name for name, kind in KINDS.items() if kind.ready is not None)]


def ready_encoder(name: str, shape: EncoderConfig, seed: int) -> Encoder:
    """One of `ready_names()`, frozen. `shape` is the vision transformer's, of which others take the grid."""
    if name == RANDOM:
        return random_encoder(shape, seed)
    make = KINDS[name].ready
    assert make is not None
    return make(shape).eval().requires_grad_(False)


def random_encoder(config: EncoderConfig, seed: int) -> VisionTransformer:
    """A frozen encoder that has learned nothing: what pretraining has to beat."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return VisionTransformer(config).eval().requires_grad_(False)


def save_encoder(encoder: Encoder, folder: Path, spec: EnvironmentSpec, provenance: dict[str, Any]) -> None:
    """Write a frozen encoder as a checkpoint."""
    config = {
        "encoder": describe_encoder(encoder.config),
        "environment": spec.to_dict(),
        "encoder_hash": checkpoint.weights_hash(encoder),
        "provenance": provenance,
    }
    checkpoint.save(folder, "encoder", config, encoder, half=False)


def load_encoder(folder: Path, image_size: int) -> Encoder:
    """Read a frozen encoder.

    Raises:
        UserError: when the folder holds none, or it was made for another image size.
    """
    if not (folder / "config.json").is_file():
        raise UserError(
            f"no encoder at {folder}: make one with `python -m worldmodel.pretrain`, or give "
            + " or ".join(f"encoder_from={name}" for name in ready_names())
        )
    config = checkpoint.load_config(folder, "encoder")
    try:
        encoder = build_encoder(read_encoder_config(config["encoder"]))
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{folder / 'config.json'} does not describe an encoder: {error}") from error
    checkpoint.load_weights(folder, encoder)
    if encoder.config.image_size != image_size:
        raise UserError(f"{folder} was made for image_size {encoder.config.image_size}, the data has {image_size}")
    return encoder.eval().requires_grad_(False)

"""Encoders by kind, and loading of frozen encoders.

A new kind is one new file and one line in `ENCODERS`, or a package of the user that calls
`worldmodel.core.registry.register("encoder", name, EncoderKind(...))`. The file has a frozen dataclass of the encoder's
shape (a `base.PatchGrid`) and the module that is built from it (a `base.Encoder`). If the weights do not come from
`worldmodel.pretrain`, it also has a function that makes an encoder with weights. `encoder_from=<kind>` calls it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import torch

from worldmodel.core import checkpoint
from worldmodel.core.errors import UserError
from worldmodel.core.options import from_config
from worldmodel.core.registry import Registry
from worldmodel.core.spec import MOST_CAMERAS, CameraSpec, EnvironmentSpec
from worldmodel.encoders.base import Encoder, PatchGrid
from worldmodel.encoders.foreign.dinov2 import Dinov2, Dinov2Config
from worldmodel.encoders.foreign.vjepa2 import Vjepa2, Vjepa2Config
from worldmodel.encoders.pixels import PixelConfig, PixelPatches, pixel_patches
from worldmodel.encoders.vit import EncoderConfig, VisionTransformer

# `encoder_from=` accepts this name beside folders and kinds. It is a vision transformer with random weights.
RANDOM: Final = "random"


@dataclasses.dataclass(frozen=True)
class EncoderKind:
    """How encoders of one kind are made.

    Attributes:
        config: dataclass of the shape, which no other kind uses. It has plain values only, since a checkpoint holds
            them as JSON.
        module: makes a module from a `config`. It loads and fetches no weights.
        ready: makes an encoder with weights whose patches are, as far as possible, those of the given grid. None if
            only training makes one.
        read: `(path, resolution) → encoder` with weights that others have trained, for `encoder_from=<kind>:<path>`.
            Images are resized to `resolution`, or if it is None, to the size at which the weights were trained.
    """

    config: type[PatchGrid]
    module: Callable[[Any], Encoder]
    ready: Callable[[PatchGrid], Encoder] | None = None
    read: Callable[[str, int | None], Encoder] | None = None


ENCODERS: Final[Registry[EncoderKind]] = Registry(
    "encoder",
    "kind of encoder",
    {
        "vit": EncoderKind(EncoderConfig, VisionTransformer),
        "dinov2": EncoderKind(Dinov2Config, Dinov2, read=Dinov2.read),
        "pixels": EncoderKind(PixelConfig, PixelPatches, pixel_patches),
        "vjepa2": EncoderKind(Vjepa2Config, Vjepa2, read=Vjepa2.read),
    },
    EncoderKind,
)


@dataclasses.dataclass(frozen=True)
class ForeignOptions:
    """The configuration group `encoder` for weights that others have trained.

    Attributes:
        resolution: length of the shorter side of the images that the network sees [pixels]. None takes the one at which
            the weights were trained.
    """

    resolution: int | None = None

    def __post_init__(self) -> None:
        if self.resolution is not None and self.resolution < 1:
            raise ValueError(f"resolution {self.resolution}: expected a whole number of pixels, or null")


def describe_encoder(config: PatchGrid) -> dict[str, Any]:
    """Kind and shape as plain values, for a checkpoint."""
    return {"kind": config.kind, **dataclasses.asdict(config)}


def read_encoder_config(content: Mapping[str, Any], cameras: Sequence[CameraSpec]) -> PatchGrid:
    """Read back what `describe_encoder` wrote, for the images of `cameras`.

    Raises:
        UserError: for values that describe no encoder, and for an encoder that does not fit the images.
    """
    values = dict(content)
    # Checkpoints of format 1 have no kind. They have one square camera, and its size is written twice.
    kind = values.pop("kind", "pixels" if "shrink" in values else "vit")
    size = values.pop("image_size", None)
    if size is not None and any((camera.height, camera.width) != (size, size) for camera in cameras):
        sizes = ", ".join(f"{camera.height} x {camera.width}" for camera in cameras)
        raise UserError(f"its encoder has image_size {size!r:.40}, its environment pictures of {sizes}")
    if not isinstance(kind, str):
        raise UserError(f"its encoder is of kind {kind!r:.40}: choose from {', '.join(ENCODERS.names())}")
    config = from_config(ENCODERS.get(kind).config, values, "encoder")
    config.require_fit(cameras)
    return config


def build_encoder(config: PatchGrid) -> Encoder:
    """The module of that shape. Any weights are random."""
    return ENCODERS.get(config.kind).module(config)


def ready_names() -> list[str]:
    """The names that `encoder_from=` accepts beside a folder."""
    return [RANDOM, *(name for name in ENCODERS.names() if ENCODERS.get(name).ready is not None)]


def foreign_names() -> list[str]:
    """The kinds that `encoder_from=` accepts with the path of their weights."""
    return [name for name in ENCODERS.names() if ENCODERS.get(name).read is not None]


def ready_encoder(name: str, shape: PatchGrid, seed: int) -> Encoder:
    """The encoder `name` of `ready_names()`, frozen. `random` takes all of `shape`, and other kinds use its grid."""
    if name == RANDOM:
        assert isinstance(shape, EncoderConfig)
        return random_encoder(shape, seed)
    make = ENCODERS.get(name).ready
    assert make is not None
    return make(shape).eval().requires_grad_(False)


def random_encoder(config: EncoderConfig, seed: int) -> VisionTransformer:
    """A frozen encoder with random weights, the baseline of pretraining."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return VisionTransformer(config).eval().requires_grad_(False)


def save_encoder(
    encoder: Encoder, folder: Path, made_for: EnvironmentSpec | Sequence[CameraSpec], provenance: dict[str, Any]
) -> None:
    """Write a frozen encoder as a checkpoint.

    Args:
        encoder: the encoder.
        folder: folder of the checkpoint.
        made_for: the environment whose recording it was trained on, or the sizes of its images if it has seen videos
            of no environment.
        provenance: what determines the encoder.
    """
    if isinstance(made_for, EnvironmentSpec):
        seen: dict[str, Any] = {"environment": made_for.to_dict()}
    else:
        seen = {"cameras": [dataclasses.asdict(camera) for camera in made_for]}
    config = {
        "encoder": describe_encoder(encoder.config),
        **seen,
        "encoder_hash": checkpoint.weights_hash(encoder),
        "provenance": provenance,
    }
    checkpoint.save(folder, "encoder", config, encoder, half=False)


def load_encoder(folder: Path, cameras: Sequence[CameraSpec]) -> Encoder:
    """Read a frozen encoder, for images of `cameras`.

    Raises:
        UserError: for a folder without a readable encoder, and for an encoder of images of other sizes.
    """
    if not checkpoint.is_there(folder):
        raise UserError(
            f"no encoder at {folder}: make one with `python -m worldmodel.pretrain`, or give "
            + " or ".join(f"encoder_from={name}" for name in (*ready_names(), *(f"{n}:PATH" for n in foreign_names())))
        )
    stored = checkpoint.read_config(folder, "encoder")
    try:
        seen = _cameras_of(stored.config)
        config = read_encoder_config(stored.config["encoder"], seen)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise stored.not_described(error) from error
    encoder = stored.build(lambda: build_encoder(config))
    assert isinstance(encoder, Encoder)
    if stored.version == 1 and checkpoint.weights_hash(encoder) != stored.config.get("encoder_hash"):
        raise UserError(f"{folder} is damaged: its weights are not those that its encoder_hash was made of")
    made_for = {(camera.height, camera.width) for camera in seen}
    for camera in cameras:
        if (camera.height, camera.width) not in made_for:
            sizes = ", ".join(f"{height} x {width}" for height, width in sorted(made_for))
            raise UserError(
                f"{folder} was made for pictures of {sizes}, camera {camera.name} has {camera.height} x {camera.width}"
            )
    return encoder.eval().requires_grad_(False)


def made_for(folder: Path) -> tuple[CameraSpec, ...]:
    """The images that the encoder in `folder` was made for. Raises UserError for a folder without one."""
    stored = checkpoint.read_config(folder, "encoder")
    try:
        return _cameras_of(stored.config)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise stored.not_described(error) from error


def _cameras_of(config: Mapping[str, Any]) -> tuple[CameraSpec, ...]:
    """The images that a stored encoder was made for, either of an environment or of videos."""
    if "environment" in config:
        return EnvironmentSpec.from_dict(config["environment"]).cameras
    cameras = tuple(CameraSpec(**camera) for camera in config["cameras"])
    if not 1 <= len(cameras) <= MOST_CAMERAS:
        raise UserError(f"it was made for {len(cameras)} cameras: expected 1 to {MOST_CAMERAS}")
    return cameras


def choose_encoder(encoder_from: str, shape: Mapping[str, Any], cameras: Sequence[CameraSpec], seed: int) -> Encoder:
    """The encoder that `encoder_from` names.

    It is the folder of a pretrained encoder, one of `ready_names()`, or one of `foreign_names()` with the path of its
    weights, as in `vjepa2:vitl.pt`. `shape` is the configuration group `encoder`. It is the shape of a vision
    transformer, that of a plug-in's `kind`, or the `ForeignOptions` of one of `foreign_names()`.

    Raises:
        UserError: for an encoder that does not exist, or does not fit the images of `cameras`.
    """
    values = dict(shape)
    kind = str(values.pop("kind", EncoderConfig.kind))
    name, colon, path = encoder_from.partition(":")
    if colon and name in foreign_names():
        options = from_config(ForeignOptions, values, "encoder") if kind == name else ForeignOptions()
        read = ENCODERS.get(name).read
        assert read is not None
        return read(path, options.resolution)
    if encoder_from not in ready_names():
        return load_encoder(Path(encoder_from), cameras)
    if kind in foreign_names():
        raise UserError(f"encoder={kind} with encoder_from={encoder_from}: expected encoder_from={kind}:PATH")
    if kind not in (EncoderConfig.kind, encoder_from):
        raise UserError(f"encoder={kind} with encoder_from={encoder_from}: expected encoder_from={kind}")
    config = from_config(ENCODERS.get(kind).config, values, "encoder")
    config.require_fit(cameras)
    return ready_encoder(encoder_from, config, seed)

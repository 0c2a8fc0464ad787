"""Shows what a world model imagines, and how different two images are to its encoder.

A decoder is trained when all else is frozen (`worldmodel.decode`). It is a checkpoint of its own (`kind: decoder`), and
holds the hash of the world model that it was trained for, because another model's latents mean something else.

Shapes: `...` leading dimensions of latents, `B` images, `D` numbers of a code, `F` numbers of the features of all
cameras, `H, W` height and width of a camera's images.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor, nn

from worldmodel.core import checkpoint
from worldmodel.core.errors import UserError
from worldmodel.core.observation import Observation
from worldmodel.core.options import from_config
from worldmodel.core.spec import CameraSpec
from worldmodel.models.contract import Decodable, WorldModel
from worldmodel.models.decoder.network import DecoderConfig, ImageDecoder

KIND: Final = "decoder"
_AT_ONCE: Final = 64  # images, so that a long run takes no more memory than a short one


class DecoderNetwork(nn.Module):
    """The image decoders of all cameras: all that a checkpoint holds of a decoder."""

    def __init__(self, cameras: tuple[CameraSpec, ...], config: DecoderConfig, code_size: int) -> None:
        super().__init__()
        self.config, self.cameras = config, tuple(camera.name for camera in cameras)
        # torch does not take names of modules that its modules have methods of.
        of_cameras = {f"camera_{camera.name}": ImageDecoder(camera, config, code_size) for camera in cameras}
        self.of_cameras = nn.ModuleDict(of_cameras)

    def of(self, camera: str) -> ImageDecoder:
        """That of one camera."""
        decoder = self.of_cameras[f"camera_{camera}"]
        assert isinstance(decoder, ImageDecoder)
        return decoder


class Decoder:
    """Images of latents (`worldmodel.models.contract.SupportsDecoding`).

    Args:
        model: whose latents are shown.
        network: trained for it.

    Raises:
        UserError: for a model of a family that does not say what can be seen of its latents.
    """

    def __init__(self, model: WorldModel, network: DecoderNetwork) -> None:
        self._model, self._decodable, self._network = model, require_decodable(model), network

    @torch.no_grad()
    def code(self, latents: Any) -> Tensor:
        """What can be seen of latents with the leading shape `[...]`: float32 `[..., D]`, a small part of them."""
        return self._decodable.decodable(latents).float()

    @torch.no_grad()
    def show(self, codes: Tensor) -> dict[str, Tensor]:
        """Images by camera, uint8 `[..., H, W, 3]`, of codes `[..., D]`."""
        flat = codes.flatten(0, -2).to(self._model.device)
        shown = {}
        for camera in self._network.cameras:
            parts = [to_pixels(self._network.of(camera)(part)) for part in flat.split(_AT_ONCE)]
            shown[camera] = torch.cat(parts).unflatten(0, codes.shape[:-1])
        return shown

    def decode(self, latents: Any) -> dict[str, Tensor]:
        """Images by camera, uint8 `[..., H, W, 3]`, of latents with the leading shape `[...]`."""
        return self.show(self.code(latents))

    def reconstruct(self, observation: Observation) -> dict[str, Tensor]:
        """Images by camera, uint8 `[B, H, W, 3]`, of what was just seen: what a decoder shows at its best."""
        starts = range(0, len(observation.proprio), _AT_ONCE)
        parts = [observation.rows(slice(start, start + _AT_ONCE)) for start in starts]
        return self.show(torch.cat([self.code(self._model.observe(None, part, None)) for part in parts]))

    @torch.no_grad()
    def features(self, images: Mapping[str, Any]) -> Tensor:
        """What the frozen encoder makes of images by camera, uint8 `[B, H, W, 3]`: float32 `[B, F]`."""
        read = self._model.read_images(images)
        encode = self._model.encoder.encode_frames
        tokens = [torch.cat([encode(part) for part in pixels.split(_AT_ONCE)]) for pixels in read.values()]
        return torch.cat([of_camera.float().flatten(1) for of_camera in tokens], dim=1)

    def feature_distance(self, features: Tensor, others: Tensor) -> Tensor:
        """How different images are to the frozen encoder `[...]`, from features `[..., F]`, shapes broadcast.

        It is the root mean square difference, 0 for the same image. It stands for a perceptual distance, which other
        work takes from a network for classification (LPIPS, arXiv 1801.03924). No such network is needed here.
        """
        return (features - others).pow(2).mean(-1).sqrt()


def require_decodable(model: WorldModel) -> Decodable:
    """The model itself. Raises UserError where its family does not say what can be seen of its latents."""
    if not isinstance(model, Decodable):
        raise UserError(
            f"a world model of family {model.family} cannot be decoded: expected a family with the method decodable"
        )
    return model


def to_pixels(images: Tensor) -> Tensor:
    """Images `[B, 3, H, W]` from 0 to 1 as uint8 `[B, H, W, 3]`. What is no number is black."""
    return (images.nan_to_num(0.0).clamp(0, 1) * 255).round().to(torch.uint8).movedim(1, -1)


def code_size(model: WorldModel) -> int:
    """How many numbers of a latent of `model` can be seen, D. Raises UserError where its family does not say."""
    spec = model.spec
    black = {camera.name: np.zeros((1, *camera.shape), np.uint8) for camera in spec.cameras}
    latent = model.observe(None, Observation(black, np.zeros((1, spec.proprio_size), np.float32)), None)
    return int(require_decodable(model).decodable(latent).shape[-1])


def save_decoder(network: DecoderNetwork, folder: Path, world_model: str, provenance: Mapping[str, Any]) -> None:
    """Write what showing needs.

    Args:
        network: trained.
        folder: made if needed.
        world_model: hash of the model that it was trained for (`worldmodel.core.checkpoint.weights_hash`).
        provenance: describes the training, in plain values.
    """
    content = {
        "world_model": world_model,
        "decoder": dataclasses.asdict(network.config),
        "provenance": dict(provenance),
    }
    checkpoint.save(folder, KIND, content, network, half=True)


def load_decoder(folder: Path, model: WorldModel) -> Decoder:
    """The decoder in `folder`, for `model` and on its device.

    Raises:
        UserError: when it is not there, damaged, made by a newer program, or trained for another world model.
    """
    if not checkpoint.is_there(folder):
        raise UserError(f"no decoder at {folder}: make one with `python -m worldmodel.decode`")
    stored = checkpoint.read_config(folder, KIND)
    if stored.config.get("world_model") != checkpoint.weights_hash(model):
        raise UserError(
            f"the decoder {folder} was trained for another world model: train one for this model with "
            "`python -m worldmodel.decode`"
        )

    def build() -> DecoderNetwork:
        config = from_config(DecoderConfig, stored.config["decoder"], KIND)
        return DecoderNetwork(model.spec.cameras, config, code_size(model))

    network = stored.build(build)
    assert isinstance(network, DecoderNetwork)
    return Decoder(model, network.eval().requires_grad_(False).to(model.device))

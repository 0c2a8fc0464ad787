"""The decoder of a world model: images of latents, and a distance of images in the encoder's features.

A decoder is trained after everything else is frozen (`worldmodel.decode`). It has its own checkpoint (`kind: decoder`),
which holds the hash of its world model, because the latents of another model have another meaning.

Shapes: `...` leading dimensions of latents, `B` images, `D` numbers of a code, `F` numbers of the features of all
cameras, `H, W` height and width of a camera's images.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

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
_AT_ONCE: Final = 64  # images per batch, which bounds memory


class DecoderNetwork(nn.Module):
    """The networks of all cameras. A checkpoint holds their weights."""

    def __init__(self, cameras: tuple[CameraSpec, ...], config: DecoderConfig, code_size: int) -> None:
        super().__init__()
        self.config, self.cameras = config, tuple(camera.name for camera in cameras)
        # The prefix keeps names apart from the attributes of torch's modules.
        of_cameras = {f"camera_{camera.name}": ImageDecoder(camera, config, code_size) for camera in cameras}
        self.of_cameras = nn.ModuleDict(of_cameras)

    def of(self, camera: str) -> ImageDecoder:
        """The network of one camera."""
        decoder = self.of_cameras[f"camera_{camera}"]
        assert isinstance(decoder, ImageDecoder)
        return decoder


class Decoder:
    """Decodes latents to images (`worldmodel.models.contract.SupportsDecoding`).

    Args:
        model: the world model of the latents.
        network: the network that was trained for this model.

    Raises:
        UserError: for a model that is not `Decodable`.
    """

    def __init__(self, model: WorldModel, network: DecoderNetwork) -> None:
        self._model, self._decodable, self._network = model, require_decodable(model), network

    @torch.no_grad()
    def code(self, latents: Any) -> Tensor:
        """The decodable part of latents with the leading shape `[...]`, float32 `[..., D]`."""
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
        """Images by camera, uint8 `[B, H, W, 3]`, of an observation after encoding and decoding."""
        starts = range(0, len(observation.proprio), _AT_ONCE)
        parts = [observation.rows(slice(start, start + _AT_ONCE)) for start in starts]
        return self.show(torch.cat([self.code(self._model.observe(None, part, None)) for part in parts]))

    @torch.no_grad()
    def features(self, images: Mapping[str, Any]) -> Tensor:
        """Features of the frozen encoder, float32 `[B, F]`, of images by camera, uint8 `[B, H, W, 3]`."""
        read = self._model.read_images(images)
        encode = self._model.encoder.encode_frames
        tokens = [torch.cat([encode(part) for part in pixels.split(_AT_ONCE)]) for pixels in read.values()]
        return torch.cat([of_camera.float().flatten(1) for of_camera in tokens], dim=1)

    def feature_distance(self, features: Tensor, others: Tensor) -> Tensor:
        """Root mean square difference `[...]` of features `[..., F]`, shapes broadcast.

        This is a perceptual distance in the features of the model's own encoder. Other work takes such a distance from
        a network for classification (LPIPS, arXiv 1801.03924).
        """
        return (features - others).pow(2).mean(-1).sqrt()


def require_decodable(model: WorldModel) -> Decodable:
    """The model itself. Raises UserError if it is not `Decodable`."""
    if not isinstance(model, Decodable):
        raise UserError(
            f"a world model of family {model.family} cannot be decoded: expected a family with the method decodable"
        )
    return model


def to_pixels(images: Tensor) -> Tensor:
    """Images `[B, 3, H, W]` from 0 to 1 as uint8 `[B, H, W, 3]`. NaN becomes black."""
    return (images.nan_to_num(0.0).clamp(0, 1) * 255).round().to(torch.uint8).movedim(1, -1)


def code_size(model: WorldModel) -> int:
    """Size D of the codes of `model`. Raises UserError if it is not `Decodable`."""
    return int(require_decodable(model).decodable(model.blank_latent()).shape[-1])


def save_decoder(network: DecoderNetwork, folder: Path, world_model: str, provenance: Mapping[str, Any]) -> None:
    """Write the checkpoint of a decoder.

    Args:
        network: the trained network.
        folder: folder of the checkpoint, which is made if needed.
        world_model: hash of the decoder's world model (`worldmodel.core.checkpoint.weights_hash`).
        provenance: description of the training, in plain values.
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
        UserError: for a decoder that is missing, damaged, made by a newer program, or trained for another world model.
    """
    stored = checkpoint.read_companion(
        folder,
        KIND,
        model,
        f"no decoder at {folder}: make one with `python -m worldmodel.decode`",
        f"the decoder {folder} was trained for another world model: train one for this model with "
        "`python -m worldmodel.decode`",
    )
    size = code_size(model)

    def build() -> DecoderNetwork:
        config = from_config(DecoderConfig, stored.config["decoder"], KIND)
        return DecoderNetwork(model.spec.cameras, config, size)

    network = stored.build(build)
    assert isinstance(network, DecoderNetwork)
    return Decoder(model, network.eval().requires_grad_(False).to(model.device))

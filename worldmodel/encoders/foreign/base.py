"""The base of encoders that others have trained.

A checkpoint refers to such an encoder by the path of its file and the hash of its weights, and has no copy of them.
Images are resized and normalised here as the weights expect it.

Shapes: `B` images, `H, W` their height and width, `N` tokens of an image, `D` width.
"""

from __future__ import annotations

import abc
import dataclasses
import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar, Final, Self

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from worldmodel.core.checkpoint import weights_hash
from worldmodel.core.errors import UserError
from worldmodel.core.spec import CameraSpec
from worldmodel.encoders.base import Encoder, Grid, PatchGrid
from worldmodel.encoders.foreign.files import find

# Mean and spread of ImageNet's pixels by channel, by which V-JEPA 2 and DINOv2 normalise images.
_MEAN: Final = (0.485, 0.456, 0.406)
_STD: Final = (0.229, 0.224, 0.225)
_BATCH: Final = 16  # images in the network at once: a ViT-L at 256² needs 0.1 GB for each


@dataclasses.dataclass(frozen=True)
class ForeignConfig(PatchGrid):
    """What a checkpoint says about an encoder that it has no copy of.

    Attributes:
        patch_size: height and width of a token's patch in the resized image [pixels].
        reference: path of the file or folder of the weights.
        sha256: hash of the weights (`worldmodel.core.checkpoint.weights_hash`), empty if they are unknown.
        resolution: length of the shorter side of the resized image [pixels], a multiple of `patch_size`.
    """

    patch_size: int = 16
    reference: str = ""
    sha256: str = ""
    resolution: int = 256

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if type(value) is int and value < field.metadata.get("least", 1):
                raise ValueError(f"{field.name} must be at least 1, got {value}")
        if self.resolution % self.patch_size or self.resolution > 2048:
            raise ValueError(f"resolution {self.resolution} is no multiple of patch_size {self.patch_size} up to 2048")

    def grid(self, height: int, width: int) -> Grid:
        """Images keep their aspect, as far as whole patches allow."""
        scale = self.resolution / min(height, width) / self.patch_size
        return Grid(max(1, round(height * scale)), max(1, round(width * scale)))

    def grid_of(self, camera: CameraSpec) -> Grid:
        """The grid of a camera's images, which may have any size."""
        return self.grid(camera.height, camera.width)


class ForeignEncoder(Encoder):
    """A frozen encoder whose weights are in a file of others.

    Its network is not among its modules. Therefore neither checkpoints nor optimisers contain it. Until `fetch_weights`
    is called, there is no network.
    """

    config: ForeignConfig
    # How images are resized: the method with which the weights were trained.
    resize: ClassVar[str]

    def __init__(self, config: Any) -> None:
        super().__init__()
        self.config = config
        self._held: list[nn.Module] = []

    @classmethod
    @abc.abstractmethod
    def read(cls, reference: str, resolution: int | None) -> Self:
        """The encoder in the file or folder at `reference`, frozen. Raises UserError for one that cannot be read.

        `resolution` is that of `ForeignConfig`. None takes the one at which the weights were trained.
        """

    @classmethod
    def _made(cls, config: Any, network: nn.Module, path: Path) -> Self:
        """An encoder of `config` with `network`, under the name of `path` and the hash of the weights."""
        network.eval().requires_grad_(False)
        encoder = cls(dataclasses.replace(config, reference=str(path.resolve()), sha256=weights_hash(network)))
        encoder._held = [network]
        return encoder

    @property
    def network(self) -> Any:
        """The network. Raises UserError before `fetch_weights`."""
        if not self._held:
            raise UserError(f"the weights of encoder {self.config.reference} have not been fetched")
        return self._held[0]

    def fetch_weights(self) -> None:
        """See `Encoder.fetch_weights`. Raises UserError for a file that is not there, or has other weights."""
        path = find(self.config.reference)
        found = type(self).read(str(path), self.config.resolution)
        if dataclasses.replace(found.config, reference=self.config.reference) != self.config:
            raise UserError(
                f"{path} is another encoder than the model was trained with: its weights have the hash "
                f"{found.config.sha256[:12]}, expected {self.config.sha256[:12]}"
            )
        self._held = found._held

    def adopt(self, other: Encoder) -> None:
        """See `Encoder.adopt`. Both share one network."""
        assert isinstance(other, ForeignEncoder) and other.config == self.config
        self._held = other._held

    def identity(self) -> str:
        """See `Encoder.identity`. The resolution changes the features as much as the weights do."""
        return hashlib.sha256(f"{self.config.kind} {self.config.sha256} {self.config.resolution}".encode()).hexdigest()

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """What moves a module to another device moves the network too."""
        for network in self._held:
            network._apply(fn, recurse)
        return super()._apply(fn, recurse)

    def statistics(self) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation `[3]` of the channels, of images from 0 to 1, with which they are normalised."""
        return torch.tensor(_MEAN), torch.tensor(_STD)

    def prepare(self, pixels: Tensor) -> Tensor:
        """Images, uint8 `[B, H, W, 3]`, resized and normalised, float `[B, H', W', 3]`."""
        grid = self.config.grid(*pixels.shape[1:3])
        size = [count * self.config.patch_size for count in grid]
        planes = rearrange(pixels.float() / 255, "b h w c -> b c h w")
        if list(planes.shape[2:]) != size:
            # Bicubic interpolation overshoots at edges. An image has no pixels below black or above white.
            planes = F.interpolate(planes, size, mode=self.resize, antialias=True, align_corners=False).clamp_(0, 1)
        mean, std = (numbers.to(pixels.device) for numbers in self.statistics())
        return (rearrange(planes, "b c h w -> b h w c") - mean) / std

    def encode_frames(self, pixels: Tensor) -> Tensor:
        """Images, uint8 `[B, H, W, 3]`, → tokens `[B, N, D]`, a few images at a time."""
        return torch.cat([self.network.encode_frames(self.prepare(part)) for part in pixels.split(_BATCH)])

"""The base classes of encoders, which cut images into patches and turn each patch into a token.

Shapes: `B` images or clips, `T` frames of a clip, `H, W` height and width, `N` tokens of an image (rows times columns),
`D` numbers in each.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import ClassVar, NamedTuple

from torch import Tensor, nn

from worldmodel.core.checkpoint import weights_hash
from worldmodel.core.errors import UserError
from worldmodel.core.spec import CameraSpec


class Grid(NamedTuple):
    """Number of patches of an image, by rows and columns."""

    rows: int
    columns: int

    @property
    def tokens(self) -> int:
        """Number of tokens of one image, N."""
        return self.rows * self.columns


@dataclasses.dataclass(frozen=True)
class PatchGrid:
    """How images of any size are cut into patches. It is the base of every encoder's configuration.

    Attributes:
        kind: name of the encoder in `worldmodel.encoders.registry`.
        patch_size: height and width of a token's patch [pixels].
    """

    kind: ClassVar[str]
    patch_size: int = 8

    @property
    def width(self) -> int:
        """Numbers in a token, D."""
        raise NotImplementedError(type(self).__name__)

    def grid(self, height: int, width: int) -> Grid:
        """The grid of images of that size. `patch_size` must divide both sides."""
        return Grid(height // self.patch_size, width // self.patch_size)

    def grid_of(self, camera: CameraSpec) -> Grid:
        """The grid of a camera's images. Raises UserError if `patch_size` does not divide both sides."""
        if camera.height % self.patch_size or camera.width % self.patch_size:
            fitting = [size for size in range(4, 33) if not (camera.height % size or camera.width % size)]
            others = f"patch_size may be {', '.join(map(str, fitting))}, or " if fitting else ""
            raise UserError(
                f"pictures of camera {camera.name}, {camera.height} x {camera.width}, are not cut whole by patch_size "
                f"{self.patch_size}: {others}the pictures of another size"
            )
        return self.grid(camera.height, camera.width)

    def require_fit(self, cameras: Iterable[CameraSpec]) -> None:
        """Raises UserError for a camera with a side that `patch_size` does not divide."""
        for camera in cameras:
            self.grid_of(camera)


class Encoder(nn.Module):
    """Images → tokens. A checkpoint holds only its parameters, its buffers and its `config`."""

    config: PatchGrid

    def fetch_weights(self) -> None:
        """Read weights that a checkpoint only refers to. Most encoders have none."""

    def adopt(self, other: Encoder) -> None:
        """Take the weights of `other`, an encoder of the same shape."""
        self.load_state_dict(other.state_dict())

    def identity(self) -> str:
        """A hash of everything that the features depend on beside the images."""
        return weights_hash(self)

    def encode_frames(self, pixels: Tensor) -> Tensor:
        """Images, uint8 `[B, H, W, 3]`, → tokens `[B, N, D]`, row by row. `patch_size` must divide H and W."""
        raise NotImplementedError(type(self).__name__)

    @property
    def tubelet_frames(self) -> int:
        """Frames of a clip that share a token. An encoder of single images has 1."""
        return 1

    def encode_tubelets(self, clips: Tensor) -> Tensor:
        """Clips, uint8 `[B, T, H, W, 3]`, → tokens `[B, F, N, D]` of F tubelets. T is a multiple of `tubelet_frames`.

        An encoder of videos attends to the whole clip. Others encode every frame by itself.
        """
        return self.encode_frames(clips.flatten(0, 1)).unflatten(0, clips.shape[:2])

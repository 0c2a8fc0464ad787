"""What every encoder is: pictures are cut into patches, and each becomes a token.

Shapes: `B` pictures, `H, W` their height and width, `N` tokens of a picture (rows times columns), `D` numbers in each.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import ClassVar, NamedTuple

from torch import Tensor, nn

from worldmodel.core.errors import UserError
from worldmodel.core.spec import CameraSpec


class Grid(NamedTuple):
    """How many patches a picture has."""

    rows: int
    columns: int

    @property
    def tokens(self) -> int:
        """Of one picture, N."""
        return self.rows * self.columns


@dataclasses.dataclass(frozen=True)
class PatchGrid:
    """How pictures of any size are cut into tokens, whatever becomes of them.

    Attributes:
        kind: what `worldmodel.encoders.registry` lists the encoder as.
        patch_size: height and width of a token's patch [pixels].
    """

    kind: ClassVar[str]
    patch_size: int = 8

    @property
    def width(self) -> int:
        """Numbers in a token, D."""
        raise NotImplementedError(type(self).__name__)

    def grid(self, height: int, width: int) -> Grid:
        """Of pictures of that size, whose sides `patch_size` divides."""
        return Grid(height // self.patch_size, width // self.patch_size)

    def grid_of(self, camera: CameraSpec) -> Grid:
        """Of a camera's pictures. Raises UserError where `patch_size` does not divide their sides."""
        if camera.height % self.patch_size or camera.width % self.patch_size:
            fitting = [size for size in range(4, 33) if not (camera.height % size or camera.width % size)]
            others = f"patch_size may be {', '.join(map(str, fitting))}, or " if fitting else ""
            raise UserError(
                f"pictures of camera {camera.name}, {camera.height} x {camera.width}, are not cut whole by patch_size "
                f"{self.patch_size}: {others}the pictures of another size"
            )
        return self.grid(camera.height, camera.width)

    def require_fit(self, cameras: Iterable[CameraSpec]) -> None:
        """Raises UserError for a camera whose pictures cannot be cut whole."""
        for camera in cameras:
            self.grid_of(camera)


class Encoder(nn.Module):
    """Pictures → tokens. Its parameters and buffers are all that a checkpoint holds of it, beside its `config`."""

    config: PatchGrid

    def encode_frames(self, pixels: Tensor) -> Tensor:
        """Pictures of any size that can be cut whole, uint8 `[B, H, W, 3]`, → `[B, N, D]`, tokens row by row."""
        raise NotImplementedError(type(self).__name__)

"""Observations: one image for each camera, and proprioception.

Shapes: `H, W` height and width of a camera's pictures, `P` proprioceptive readings, `...` leading dimensions, such as
`B` robots.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray


@dataclasses.dataclass(frozen=True)
class Observation:
    """One moment of one robot, or of several.

    Attributes:
        images: by camera, uint8 `[..., H, W, 3]`, RGB.
        proprio: float32 `[..., P]`.
    """

    images: Mapping[str, NDArray[np.uint8]]
    proprio: NDArray[np.float32]

    @classmethod
    def of(cls, observation: Mapping[str, Any]) -> Self:
        """From what a Gymnasium environment of ours returns."""
        return cls(observation["images"], observation["proprio"])

    @classmethod
    def stack(cls, observations: Sequence[Observation]) -> Self:
        """Those of B robots as one, `[B, ...]`."""
        cameras = observations[0].images
        images = {camera: np.stack([o.images[camera] for o in observations]) for camera in cameras}
        return cls(images, np.stack([o.proprio for o in observations]))

    def rows(self, index: Any) -> Self:
        """Those of some robots: everything indexed by `index` in the first dimension."""
        return type(self)({name: image[index] for name, image in self.images.items()}, self.proprio[index])

    def copy(self) -> Self:
        """With memory of its own: drivers of cameras write the next picture into the same buffer."""
        return type(self)({name: np.array(image) for name, image in self.images.items()}, np.array(self.proprio))

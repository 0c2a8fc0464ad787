"""Observations: one image for each camera, and proprioception.

Shapes: `H, W` height and width of a camera's images, `P` proprioceptive readings, `...` leading dimensions, such as
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
    """The observation of one robot, or of several, at one time step.

    Attributes:
        images: by camera, uint8 `[..., H, W, 3]`, RGB.
        proprio: float32 `[..., P]`.
    """

    images: Mapping[str, NDArray[np.uint8]]
    proprio: NDArray[np.float32]

    @classmethod
    def of(cls, observation: Mapping[str, Any]) -> Self:
        """Convert an observation that an environment of `envs` returned."""
        return cls(observation["images"], observation["proprio"])

    @classmethod
    def stack(cls, observations: Sequence[Observation]) -> Self:
        """Joins the observations of B robots to one, `[B, ...]`."""
        cameras = observations[0].images
        images = {camera: np.stack([o.images[camera] for o in observations]) for camera in cameras}
        return cls(images, np.stack([o.proprio for o in observations]))

    def rows(self, index: Any) -> Self:
        """The rows of some robots, selected by `index` in the first dimension."""
        return type(self)({name: image[index] for name, image in self.images.items()}, self.proprio[index])

    def copy(self) -> Self:
        """A copy in new memory, since camera drivers write the next image into the same buffer."""
        return type(self)({name: np.array(image) for name, image in self.images.items()}, np.array(self.proprio))

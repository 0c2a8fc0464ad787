"""Goals of a planner. The model reads a goal, and the controller only passes it on.

A sequence of goals is a list of sub-goals, which are visited in order.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray


@dataclasses.dataclass(frozen=True)
class Goal:
    """A goal that a model can read. A package of the user may derive its own kinds."""


@dataclasses.dataclass(frozen=True)
class ImageGoal(Goal):
    """A goal that is given by images.

    Attributes:
        images: by camera, uint8 `[H, W, 3]`, RGB.
    """

    images: Mapping[str, NDArray[np.uint8]]


@dataclasses.dataclass(frozen=True)
class TextGoal(Goal):
    """A goal that is given by a sentence."""

    text: str

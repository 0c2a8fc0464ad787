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
    """Something that a model knows how to read. A package of the user's derives kinds of its own from it."""


@dataclasses.dataclass(frozen=True)
class ImageGoal(Goal):
    """The world should look like this.

    Attributes:
        images: by camera, uint8 `[H, W, 3]`, RGB.
    """

    images: Mapping[str, NDArray[np.uint8]]


@dataclasses.dataclass(frozen=True)
class TextGoal(Goal):
    """The world should be as a sentence says."""

    text: str

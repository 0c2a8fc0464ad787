"""An object that lies in the scene and takes no part in the task.

Shapes: `H, W` height and width of an image [pixels]. Places are (column, row) in fractions of the width and the height.
"""

from __future__ import annotations

import dataclasses
from typing import Final

import numpy as np

from planning.evaluation.optics import Colours

SHAPES: Final = ("disc", "square", "triangle")
_FINER: Final = 4  # rows and columns of points in each pixel, by which its share of the object is measured
_DIFFERENT: Final = 16  # of 255, beyond the ripples of rendering the same thing twice at other places
_MARGIN: Final = 0.05  # of the image's width, between the object and what moves
_CANDIDATES: Final = 32  # places along each side that are looked at


@dataclasses.dataclass(frozen=True)
class Bystander:
    """The object as the camera sees it.

    Attributes:
        place: of its centre.
        width: fraction of the image's width.
        colour: red, green, blue, from 0 to 255.
        shape: one of `SHAPES`.
    """

    place: tuple[float, float]
    width: float
    colour: tuple[float, float, float]
    shape: str

    def __post_init__(self) -> None:
        if self.shape not in SHAPES:
            raise ValueError(f"shape {self.shape!r}: expected one of {', '.join(SHAPES)}")


def painted(image: Colours, bystander: Bystander) -> Colours:
    """`image [H, W, 3]` with the object in front of the scene, smooth at its border."""
    height, width = image.shape[:2]
    rows = (np.arange(height * _FINER) + 0.5) / _FINER - bystander.place[1] * height
    columns = (np.arange(width * _FINER) + 0.5) / _FINER - bystander.place[0] * width
    # In units of half the object's width, from its centre.
    y, x = np.meshgrid(rows, columns, indexing="ij")
    y, x = (2 * each / (bystander.width * width) for each in (y, x))
    if bystander.shape == "disc":
        inside = x**2 + y**2 <= 1
    elif bystander.shape == "square":
        inside = np.maximum(abs(x), abs(y)) <= 1
    else:
        inside = (y <= 1) & (y >= 2 * abs(x) - 1)
    share = inside.reshape(height, _FINER, width, _FINER).mean((1, 3))[..., None]
    return image * (1 - share) + np.array(bystander.colour) * share


def find_place(rng: np.random.Generator, start: Colours, goal: Colours, width: float) -> tuple[float, float]:
    """A random place for an object of `width`, away from where the images `[H, W, 3]` of start and goal differ.

    Places are tried in an order that `rng` decides, so that a larger object stands where a smaller one does if there
    is room. Where no place is far enough away, it is the farthest.
    """
    rows, columns = np.nonzero(np.abs(start - goal).max(-1) > _DIFFERENT)
    size = np.array([start.shape[1], start.shape[0]])
    radius = width * size[0] / np.sqrt(2)  # out to a square's corners
    order = rng.permutation(_CANDIDATES**2)
    fractions = (np.stack(np.divmod(order, _CANDIDATES), axis=1) + 0.5) / _CANDIDATES
    inside = np.minimum(radius, size / 2)  # from every edge
    places = inside + fractions * (size - 2 * inside)
    away = np.array([np.hypot(columns + 0.5 - x, rows + 0.5 - y).min(initial=np.inf) for x, y in places])
    far = away >= radius + _MARGIN * size[0]
    x, y = places[int(far.argmax() if far.any() else away.argmax())] / size
    return float(x), float(y)

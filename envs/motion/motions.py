"""What happens in a labelled clip.

No still frame shows a label. For every task, the places, shapes and colours at any one time have the same distribution
under every label, whatever the frame's number. Every task says why. A probe that scores above chance therefore reads
the motion.

Lengths are in widths of the view, whose middle is the origin. x is to the right and y to the top. Times are in lengths
of the clip, so that a clip of more frames shows the same motion more finely.

Shapes: `T` frames, `K` objects.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Final

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

DISC: Final = "disc"
BOX: Final = "box"
# Colours of objects, red, green and blue. They are far apart, and none is a grey of the floor.
PALETTE: Final = (
    (0.85, 0.15, 0.15), (0.15, 0.65, 0.20), (0.15, 0.30, 0.85), (0.90, 0.75, 0.10), (0.65, 0.20, 0.70),
    (0.10, 0.70, 0.75),
)  # fmt: skip
_RADII: Final = (0.055, 0.075)  # of objects: 3.5 to 5 pixels of 64
# An object that leaves the view comes back on the other side. Its centre moves on a square of this side, at whose edge
# not even the corner of a box is in the view.
_SQUARE: Final = 1 + 2 * np.sqrt(2) * _RADII[1]
_QUARTER: Final = np.pi / 2


@dataclasses.dataclass(frozen=True)
class Plate:
    """An opaque strip across the view, through its middle and above the objects.

    Attributes:
        yaw: direction of its narrow side [rad].
        half_width: half of its narrow side.
    """

    yaw: float
    half_width: float


@dataclasses.dataclass(frozen=True)
class Motion:
    """The content of one clip.

    Attributes:
        label: its class.
        places: centres of the objects, `[T, K, 2]`.
        shapes: `disc` or `box`, `[K]`.
        radius: radius of a disc, and half the side of a box. All objects have the same.
        yaws: how boxes are turned [rad], `[K]`.
        colours: numbers in `PALETTE`, int64 `[T, K]`.
        plate: what hides the middle of the view, if anything does.
        has_point: whether the first object can be told from others in every frame, so that its centre can be tracked.
    """

    label: str
    places: Floats
    shapes: tuple[str, ...]
    radius: float
    yaws: tuple[float, ...]
    colours: NDArray[np.int64]
    plate: Plate | None = None
    has_point: bool = True

    def visible(self) -> NDArray[np.bool_]:
        """Whether the centre of each object is inside the view and under no plate, `[T, K]`."""
        inside = (np.abs(self.places) <= 0.5).all(-1)
        if self.plate is None:
            return np.asarray(inside)
        across = self.places @ _direction(self.plate.yaw)
        return np.asarray(inside & (np.abs(across) > self.plate.half_width))


# `(label, times [T] from 0 to 1, rng) → motion`
Draw = Callable[[str, Floats, np.random.Generator], Motion]


@dataclasses.dataclass(frozen=True)
class MotionTask:
    """A question about motion.

    Attributes:
        labels: its possible answers.
        draw: draws a clip with a given answer.
        question: the question in words.
    """

    labels: tuple[str, ...]
    draw: Draw
    question: str


def draw_motion(task: str, number: int, frames: int, rng: np.random.Generator) -> Motion:
    """Clip `number` of `task`. Labels take turns, so that all are equally frequent. Everything else is random."""
    chosen = TASKS[task]
    return chosen.draw(chosen.labels[number % len(chosen.labels)], np.linspace(0, 1, frames), rng)


# --- the tasks -------------------------------------------------------------------------------------------------------


def _direction_of_motion(label: str, times: Floats, rng: np.random.Generator) -> Motion:
    """One object moves right, up, left or down.

    It starts anywhere on the square with equal chances, and the square has no edge. After any shift it is anywhere with
    equal chances again.
    """
    turn = ("right", "up", "left", "down").index(label) * _QUARTER
    return _alone(label, rng.uniform(0.35, 0.7) * times[:, None] * _direction(turn), rng)


def _speed(label: str, times: Floats, rng: np.random.Generator) -> Motion:
    """One object moves slowly, or twice or four times as fast, in any direction. See `_direction_of_motion`."""
    shift = {"slow": 0.175, "medium": 0.35, "fast": 0.7}[label] * rng.uniform(0.85, 1.15)
    return _alone(label, shift * times[:, None] * _direction(rng.uniform(-np.pi, np.pi)), rng)


def _alone(label: str, shifts: Floats, rng: np.random.Generator) -> Motion:
    """One object at a random place, shifted by `shifts [T, 2]` on the square."""
    start = rng.uniform(-_SQUARE / 2, _SQUARE / 2, 2)
    colours = np.full((len(shifts), 1), rng.integers(len(PALETTE)))
    return Motion(
        label, _wrapped(start + shifts)[:, None], (str(rng.choice([DISC, BOX])),), _radius(rng),
        (rng.uniform(0, _QUARTER),), colours,
    )  # fmt: skip


def _order(label: str, times: Floats, rng: np.random.Generator) -> Motion:
    """A disc and a box begin to move one after the other, on parallel lanes.

    Each starts anywhere on its lane with equal chances, and lanes have no ends (see `_direction_of_motion`). So a still
    frame does not show which of them has moved further.
    """
    first = rng.uniform(0.1, 0.3)
    second = first + rng.uniform(0.25, 0.4)
    begins = (first, second) if label == "disc_first" else (second, first)
    lanes = np.array([-0.25, 0.25]) + rng.uniform(-0.05, 0.05, 2)
    rng.shuffle(lanes)
    along = rng.uniform(-_SQUARE / 2, _SQUARE / 2, 2)
    shifts = rng.uniform(0.5, 0.8, 2) * rng.choice([-1, 1], 2) * np.maximum(times[:, None] - begins, 0)
    places = np.stack([np.broadcast_to(lanes, shifts.shape), _wrapped(along + shifts)], axis=-1)
    places = places @ _rotation(rng.integers(4) * _QUARTER).T
    colours = np.broadcast_to(rng.choice(len(PALETTE), 2, replace=False), shifts.shape)
    return Motion(label, places, (DISC, BOX), _radius(rng), (0.0, rng.uniform(0, _QUARTER)), colours)


def _collision(label: str, times: Floats, rng: np.random.Generator) -> Motion:
    """Two discs come together. They bounce off each other, or pass by each other.

    With the time tau from their meeting, their distance is d = 2 r + u |tau| under both labels, and the line through
    them has any direction with equal chances. Discs that bounce stay on that line. Discs that pass keep two lines 2 r
    apart, so that the vector between them is (sgn(tau) sqrt(d² - (2 r)²), 2 r) in the direction of motion. They are
    faster while they are close. The colours of the two are exchangeable.
    """
    radius, meeting = _radius(rng), rng.uniform(0.3, 0.7)
    since = times - meeting
    distance = 2 * radius + rng.uniform(0.5, 0.8) * np.abs(since)
    along, aside = np.split(_rotation(rng.uniform(-np.pi, np.pi)), 2, axis=1)
    if label == "bounce":
        between = distance * along
    else:
        passed = np.sign(since) * np.sqrt(np.maximum(distance**2 - (2 * radius) ** 2, 0))
        between = passed * along + 2 * radius * rng.choice([-1, 1]) * aside
    drift = rng.uniform(0, 0.1) * _direction(rng.uniform(-np.pi, np.pi))
    middle = rng.uniform(-0.12, 0.12, 2) + drift * (times[:, None] - 0.5)
    places = np.stack([middle - between.T / 2, middle + between.T / 2], axis=1)
    colours = np.broadcast_to(rng.choice(len(PALETTE), 2, replace=False), (len(times), 2))
    return Motion(label, places, (DISC, DISC), radius, (0.0, 0.0), colours, has_point=False)


def _occlusion(label: str, times: Floats, rng: np.random.Generator) -> Motion:
    """An object goes under a plate, and comes out unchanged or in another colour.

    Every colour is as likely before as after, and a still frame shows one of the two. The colour changes while no part
    of the object is in sight.
    """
    yaw, radius, shape = rng.uniform(-np.pi, np.pi), _radius(rng), str(rng.choice([DISC, BOX]))
    # Wide enough for half the diagonal of a box, and a little more, since the camera is not far away.
    plate = Plate(yaw, (np.sqrt(2) if shape == BOX else 1.0) * radius + 0.02)
    ahead = rng.uniform(0.8, 0.9) * (times - rng.uniform(0.4, 0.6))
    places = np.stack([ahead, np.full_like(ahead, rng.uniform(-0.2, 0.2))], axis=1) @ _rotation(yaw).T
    before = int(rng.integers(len(PALETTE)))
    other = (before + int(rng.integers(1, len(PALETTE)))) % len(PALETTE)
    colours = np.where(ahead < 0, before, before if label == "same" else other)[:, None]
    return Motion(label, places[:, None], (shape,), radius, (rng.uniform(0, _QUARTER),), colours, plate)


TASKS: Final = {
    "direction": MotionTask(("right", "up", "left", "down"), _direction_of_motion, "Where does it move?"),
    "speed": MotionTask(("slow", "medium", "fast"), _speed, "How fast does it move?"),
    "collision": MotionTask(("bounce", "pass"), _collision, "Do they collide?"),
    "occlusion": MotionTask(("same", "changed"), _occlusion, "Does it come out as it went in?"),
    "order": MotionTask(("disc_first", "box_first"), _order, "Which of them moves first?"),
}


def _radius(rng: np.random.Generator) -> float:
    return float(rng.uniform(*_RADII))


def _direction(yaw: float) -> Floats:
    return np.array([np.cos(yaw), np.sin(yaw)])


def _rotation(yaw: float) -> Floats:
    """The matrix `[2, 2]` that turns by `yaw` [rad]."""
    return np.array([[np.cos(yaw), -np.sin(yaw)], [np.sin(yaw), np.cos(yaw)]])


def _wrapped(places: Floats) -> Floats:
    """`places` on the square, whose opposite edges are one."""
    return (places + _SQUARE / 2) % _SQUARE - _SQUARE / 2

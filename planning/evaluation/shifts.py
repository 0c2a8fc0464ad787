"""Shifts: how the images of a real camera differ from those that a model was trained on.

Each shift has a strength. At strength 1 it is as large as a model is to endure, at 0 there is none, and between and
beyond it grows in proportion. See `planning.evaluation.optics` for shapes.
"""

from __future__ import annotations

import colorsys
import dataclasses
import functools
import zlib
from collections.abc import Callable, Sequence
from typing import Final, Self

import numpy as np

from planning.evaluation.bystander import SHAPES, Bystander, find_place, painted
from planning.evaluation.optics import WHOLE_QUALITY, Colours, Pixels, blurred, compressed, looked_at, quantised
from worldmodel.core.errors import choices_message

# `render(K)`: the scene as the camera sees it, `[K·H, K·W, 3]`.
Render = Callable[[int], Pixels]

STRENGTHS: Final = {"weak": 0.5, "middle": 1.0, "strong": 2.0}
# Other scenes than the camera's own are made of renderings so many times finer: a pixel then averages 16 points.
FINER: Final = 4
ALL: Final = "all"
# Of an object's colour: not so grey or dark that it cannot be seen on any floor.
_LEAST_SATURATION, _LEAST_VALUE = 0.5, 0.4
# Quality is no quantity that could be doubled: what strengths of 0, 1/2, 1 and 2 are.
_JPEG_STRENGTHS, _JPEG_QUALITIES = (0.0, 0.5, 1.0, 2.0), (WHOLE_QUALITY, 90, 75, 50)


@dataclasses.dataclass(frozen=True)
class CameraChange:
    """How a camera differs from the model's; without arguments, not at all.

    Attributes:
        gains: factors of red, green and blue.
        blur_px: standard deviation of the blur [pixels].
        noise: standard deviation of the sensor's noise, of 255.
        jpeg_quality: of the compression; `WHOLE_QUALITY`: none.
        moved: by how much the scene moves in the image, to the right and down, as fractions of its width.
        turned_deg: by how much the scene turns in the image, clockwise [degrees].
        zoom: by how much the scene is larger in the image.
        bystander: width of an object that is in the scene, as a fraction of the image's; 0: none.
    """

    gains: tuple[float, float, float] = (1.0, 1.0, 1.0)
    blur_px: float = 0.0
    noise: float = 0.0
    jpeg_quality: int = WHOLE_QUALITY
    moved: tuple[float, float] = (0.0, 0.0)
    turned_deg: float = 0.0
    zoom: float = 1.0
    bystander: float = 0.0

    def joined(self, other: CameraChange) -> CameraChange:
        """Both at once."""
        red, green, blue = (a * b for a, b in zip(self.gains, other.gains, strict=True))
        return CameraChange(
            gains=(red, green, blue),
            blur_px=float(np.hypot(self.blur_px, other.blur_px)),
            noise=float(np.hypot(self.noise, other.noise)),
            jpeg_quality=min(self.jpeg_quality, other.jpeg_quality),
            moved=(self.moved[0] + other.moved[0], self.moved[1] + other.moved[1]),
            turned_deg=self.turned_deg + other.turned_deg,
            zoom=self.zoom * other.zoom,
            bystander=max(self.bystander, other.bystander),
        )

    def look(self, render: Render) -> Colours:
        """The scene from where the camera stands, `[H, W, 3]`; from its usual place, as it is rendered."""
        if (self.moved, self.turned_deg, self.zoom) == ((0.0, 0.0), 0.0, 1.0):
            return render(1).astype(np.float64)
        return looked_at(render(FINER), FINER, self.moved, self.turned_deg, self.zoom)


@dataclasses.dataclass(frozen=True)
class Draw:
    """What chance decides of a shift: the same for all images of one camera in one episode, and for all strengths.

    Attributes:
        direction: in which the scene moves in the image, from the right clockwise [radians].
        turn: 1 or -1, clockwise or not; `light`, `warmth` and `zoom` likewise, for all shifts at once.
        colour: of the bystander.
        shape: of the bystander.
        stream: of the sensor's noise.
        place: of the bystander; it has to be found where there is one.
    """

    direction: float
    turn: int
    light: int
    warmth: int
    zoom: int
    colour: tuple[float, float, float]
    shape: str
    stream: tuple[int, ...]
    place: tuple[float, float] = (0.5, 0.5)

    @classmethod
    def of(cls, seed: int, shift: str, camera: str) -> Self:
        """From the seed of a pair and the names of shift and camera alone."""
        stream = (seed, zlib.crc32(shift.encode()), zlib.crc32(camera.encode()))
        rng = np.random.default_rng(stream)
        direction = float(rng.uniform(0, 2 * np.pi))
        turn, light, warmth, zoom = (int(sign) for sign in rng.choice([-1, 1], 4))
        hue, saturation, value = rng.uniform([0, _LEAST_SATURATION, _LEAST_VALUE], 1)
        red, green, blue = (255 * each for each in colorsys.hsv_to_rgb(hue, saturation, value))
        return cls(direction, turn, light, warmth, zoom, (red, green, blue), str(rng.choice(SHAPES)), stream)


@dataclasses.dataclass(frozen=True)
class Shift:
    """One way in which a camera's images differ.

    Attributes:
        name: as it is chosen.
        group: of the shifts that are chosen together.
        amount: what a strength means, for people.
        change: what a strength and chance make of the camera.
    """

    name: str
    group: str
    amount: Callable[[float], str]
    change: Callable[[float, Draw], CameraChange]


def _light(strength: float) -> CameraChange:
    gain = 1 + 0.10 * strength
    return CameraChange(gains=(gain, gain, gain))


def _white_balance(strength: float) -> CameraChange:
    """Positive: warmer, as of a lamp in a camera set to daylight; negative: the opposite."""
    return CameraChange(gains=(1 + 0.05 * strength, 1.0, 1 - 0.08 * strength))


def _moved(strength: float, draw: Draw) -> CameraChange:
    way = 0.03 * strength
    return CameraChange(moved=(way * float(np.cos(draw.direction)), way * float(np.sin(draw.direction))))


def _jpeg_quality(strength: float) -> int:
    return round(float(np.interp(strength, _JPEG_STRENGTHS, _JPEG_QUALITIES)))


def _zoom(strength: float) -> CameraChange:
    return CameraChange(zoom=1 + 0.03 * strength)


def _everything(strength: float, draw: Draw) -> CameraChange:
    """All shifts at once, each of two opposite ones as chance decides."""
    opposites = (_light(draw.light * strength), _white_balance(draw.warmth * strength), _zoom(draw.zoom * strength))
    others = (shift.change(strength, draw) for shift in _EITHER_WAY)
    return functools.reduce(CameraChange.joined, (*opposites, *others))


def _gains_text(strength: float) -> str:
    red, _, blue = _white_balance(strength).gains
    return f"{red:.2f} / {blue:.2f}"


# These have no opposite, or chance has decided which way.
_EITHER_WAY: Final = (
    Shift("blur", "blur", lambda s: f"{0.5 * s:g} px", lambda s, _: CameraChange(blur_px=0.5 * s)),
    Shift(
        "jpeg",
        "jpeg",
        lambda s: f"quality {_jpeg_quality(s)}",
        lambda s, _: CameraChange(jpeg_quality=_jpeg_quality(s)),
    ),
    Shift("noise", "noise", lambda s: f"{5 * s:g} of 255", lambda s, _: CameraChange(noise=5.0 * s)),
    Shift("moved", "moved", lambda s: f"{3 * s:g} %", _moved),
    Shift("turned", "turned", lambda s: f"{3 * s:g} degrees", lambda s, d: CameraChange(turned_deg=3.0 * s * d.turn)),
    Shift("bystander", "bystander", lambda s: f"{10 * s:g} %", lambda s, _: CameraChange(bystander=0.1 * s)),
)
SHIFTS: Final = (
    Shift("brighter", "light", lambda s: f"+{10 * s:g} %", lambda s, _: _light(s)),
    Shift("darker", "light", lambda s: f"-{10 * s:g} %", lambda s, _: _light(-s)),
    Shift("warmer", "white_balance", _gains_text, lambda s, _: _white_balance(s)),
    Shift("cooler", "white_balance", lambda s: _gains_text(-s), lambda s, _: _white_balance(-s)),
    *_EITHER_WAY[:-1],
    Shift("closer", "scale", lambda s: f"+{3 * s:g} %", lambda s, _: _zoom(s)),
    Shift("further", "scale", lambda s: f"-{3 * s:g} %", lambda s, _: _zoom(-s)),
    _EITHER_WAY[-1],
    Shift(ALL, ALL, lambda s: "all these", _everything),
)


def chosen(names: Sequence[str]) -> tuple[Shift, ...]:
    """The shifts of these names or groups, in the order of `SHIFTS`. Raises ValueError for a name that is none."""
    known = {name for shift in SHIFTS for name in (shift.name, shift.group)}
    for name in names:
        if name not in known:
            raise ValueError(choices_message("shift", name, known))
    return tuple(shift for shift in SHIFTS if shift.name in names or shift.group in names)


def draw(shift: Shift, strength: float, seed: int, camera: str, start: Render, goal: Render) -> Draw:
    """What chance decides in the episode of `seed` for `camera`, which sees `start` first and is to see `goal`."""
    drawn = Draw.of(seed, shift.name, camera)
    change = shift.change(strength, drawn)
    if change.bystander == 0:
        return drawn
    place = find_place(
        np.random.default_rng((*drawn.stream, 1)), change.look(start), change.look(goal), change.bystander
    )
    return dataclasses.replace(drawn, place=place)


def apply(shift: Shift, strength: float, render: Render, drawn: Draw, frame: int = 0) -> Pixels:
    """The image `[H, W, 3]` of a camera with `shift`: its place, the bystander, light, blur, noise and compression.

    Args:
        shift: in which way it differs.
        strength: how much, as a multiple of what a model is to endure; not negative.
        render: the scene.
        drawn: what chance decided.
        frame: number of the image in its episode, on which only the noise depends.
    """
    change = shift.change(strength, drawn)
    image = change.look(render)
    if change.bystander > 0:
        image = painted(image, Bystander(drawn.place, change.bystander, drawn.colour, drawn.shape))
    image = blurred(image * np.array(change.gains), change.blur_px)
    if change.noise > 0:
        rng = np.random.default_rng((*drawn.stream, 2, frame))
        image = image + change.noise * rng.standard_normal(image.shape)
    return compressed(quantised(image), change.jpeg_quality)

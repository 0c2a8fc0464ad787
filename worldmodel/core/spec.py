"""The specification of a robot. It is stored in the recording and copied into every checkpoint.

Shapes: `A` action dimensions, `P` proprioceptive readings.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from worldmodel.core.errors import UserError

MOST_PIXELS: Final = 2048  # limit of height and of width, so that a store can still read a chunk of frames at once
MOST_CAMERAS: Final = 16
MOST_ACTION: Final = 3.4e38  # largest number in single precision
MOST_NUMBERS: Final = 2**16  # numbers in one row of a vector
# The name of a single camera that has no other name.
CAMERA: Final = "camera"
# Rest rules, which give the command that keeps a robot at rest. `zero` is for velocities and relative moves, `hold` for
# absolute positions.
ZERO, HOLD = "zero", "hold"
CONTINUOUS, BINARY = "continuous", "binary"
_CAMERA_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")


@dataclasses.dataclass(frozen=True)
class CameraSpec:
    """One camera.

    Attributes:
        name: letters, digits, `_` and `-`; a part of file names.
        height: height of its images [pixels].
        width: width of its images [pixels].
    """

    name: str
    height: int
    width: int

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not _CAMERA_NAME.fullmatch(self.name):
            raise UserError(f"camera name is {self.name!r}: expected at most 64 letters, digits, _ and -")
        for name in ("height", "width"):
            _require_whole(f"{name} of camera {self.name}", getattr(self, name), 1, MOST_PIXELS)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Shape of one image, `(H, W, 3)`."""
        return self.height, self.width, 3


@dataclasses.dataclass(frozen=True)
class ActionSpec:
    """The action of a robot, with one entry per dimension.

    Attributes:
        low: smallest action, in `units`.
        high: largest action, in `units`.
        units: for example `("m/s", "m/s", "")`.
        names: for example `("vx", "vy", "grip")`; the default is `action_0 ...`.
        rest: the command under which the robot stays as it is: `zero` (velocities, relative moves; the nearest
            value within the bounds, if they exclude zero), `hold` (absolute positions: the last command), or a number.
        kinds: `continuous`, or `binary` with only the two values `low` and `high`, such as a gripper.
        max_rate: largest change from one command to the next [unit/s]; None for no limit.
        hold_from: for a dimension with `hold`, the index of the proprioceptive reading that shows its command. It is
            used before the first command. None if no reading shows it.
    """

    low: tuple[float, ...]
    high: tuple[float, ...]
    units: tuple[str, ...]
    names: tuple[str, ...] = ()
    rest: tuple[str | float, ...] = ()
    kinds: tuple[str, ...] = ()
    max_rate: tuple[float | None, ...] = ()
    hold_from: tuple[int | None, ...] = ()

    def __post_init__(self) -> None:
        self._check_bounds()
        size = len(self.low)
        defaults: dict[str, tuple[Any, ...]] = {
            "names": tuple(f"action_{i}" for i in range(size)),
            "rest": (ZERO,) * size,
            "kinds": (CONTINUOUS,) * size,
            "max_rate": (None,) * size,
            "hold_from": (None,) * size,
        }
        for name, default in defaults.items():
            if getattr(self, name) == ():
                object.__setattr__(self, name, default)
            given = getattr(self, name)
            if not isinstance(given, tuple) or len(given) != size:
                raise UserError(f"{name} of the action is {given!r}: expected a tuple, one for each of {size}")
        for dimension in range(size):
            self._check_dimension(dimension)

    def _check_bounds(self) -> None:
        for name, kinds in (("low", (int, float)), ("high", (int, float)), ("units", (str,))):
            values = getattr(self, name)
            if not isinstance(values, tuple) or any(isinstance(v, bool) or not isinstance(v, kinds) for v in values):
                raise UserError(
                    f"{name} of the action is {values!r}: expected a tuple, one {kinds[-1].__name__} for each dimension"
                )
        if not 1 <= len(self.low) == len(self.high) == len(self.units) <= MOST_NUMBERS:
            raise UserError(
                f"low, high and units of the action have {len(self.low)}, {len(self.high)} and {len(self.units)} "
                "dimensions: expected the same, at least one"
            )
        for dimension, (smallest, largest) in enumerate(zip(self.low, self.high, strict=True)):
            if not -MOST_ACTION <= smallest <= largest <= MOST_ACTION:
                raise UserError(
                    f"low[{dimension}] of the action is {smallest}, high[{dimension}] {largest}: expected the smaller "
                    "one first, both finite in single precision"
                )

    def _check_dimension(self, dimension: int) -> None:
        name, rest, kind = self.names[dimension], self.rest[dimension], self.kinds[dimension]
        rate, reading = self.max_rate[dimension], self.hold_from[dimension]
        low, high = self.low[dimension], self.high[dimension]
        if not isinstance(name, str):
            raise UserError(f"names[{dimension}] of the action is {name!r}: expected text")
        if kind not in (CONTINUOUS, BINARY):
            raise UserError(f"kind of action {name} is {kind!r}: choose from {BINARY}, {CONTINUOUS}")
        is_number = isinstance(rest, int | float) and not isinstance(rest, bool)
        if rest not in (ZERO, HOLD) and not (is_number and low <= float(rest) <= high):
            raise UserError(
                f"rest of action {name} is {rest!r}: expected {ZERO}, {HOLD} or a number from {low} to {high}"
            )
        if rate is not None and (
            isinstance(rate, bool) or not isinstance(rate, int | float) or not 0 < rate < math.inf
        ):
            raise UserError(f"max_rate of action {name} is {rate!r}: expected a number above 0, or none")
        if reading is not None:
            _require_whole(f"hold_from of action {name}", reading, 0, MOST_NUMBERS - 1)

    @property
    def size(self) -> int:
        """Number of dimensions, A."""
        return len(self.low)

    @property
    def bounds(self) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Smallest and largest action `[A]` in single precision, never outside of `low` and `high`."""
        low, high = (np.array(values, np.float64) for values in (self.low, self.high))
        inner_low, inner_high = low.astype(np.float32), high.astype(np.float32)
        inner_low = np.where(inner_low < low, np.nextafter(inner_low, np.float32(np.inf)), inner_low)
        inner_high = np.where(inner_high > high, np.nextafter(inner_high, np.float32(-np.inf)), inner_high)
        return np.minimum(inner_low, inner_high), inner_high

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> ActionSpec:
        """Inverse of `to_dict`. Raises UserError for unknown or missing keys, and for values that make no sense."""
        return cls(**_plain(cls, values, "action", {"low", "high", "units"}))

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {field.name: list(getattr(self, field.name)) for field in dataclasses.fields(self)}


@dataclasses.dataclass(frozen=True)
class EnvironmentSpec:
    """The facts that decide whether a recording, a model and an environment fit each other.

    Making one raises UserError, naming what is wrong, for values that describe no environment.

    Attributes:
        env: name of the environment, for example `push`.
        cameras: at least one camera, in a fixed order.
        control_step_s: time that one action lasts [s].
        action: what can be commanded.
        proprio_size: number of proprioceptive readings, P.
        state_size: length of the simulator's stored state (0 for a real robot).
        simulator: the simulator of the recording, with its version, since contacts differ between versions.
        options: the environment's options that change its images.
    """

    env: str
    cameras: tuple[CameraSpec, ...]
    control_step_s: float
    action: ActionSpec
    proprio_size: int
    state_size: int
    simulator: str
    options: dict[str, Any] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("proprio_size", "state_size"):
            _require_whole(name, getattr(self, name), 0, MOST_NUMBERS)
        step = self.control_step_s
        if isinstance(step, bool) or not isinstance(step, int | float) or not 0 < step < math.inf:
            raise UserError(f"control_step_s is {step!r}: expected seconds, above 0")
        for name, kind in (("env", str), ("simulator", str), ("options", dict)):
            if not isinstance(getattr(self, name), kind):
                raise UserError(f"{name} is {getattr(self, name)!r}: expected {'text' if kind is str else 'options'}")
        names = [camera.name for camera in self.cameras]
        if not 1 <= len(names) <= MOST_CAMERAS or len(set(names)) < len(names):
            raise UserError(f"cameras are {', '.join(names) or 'none'}: expected 1 to {MOST_CAMERAS}, each name once")
        for name, reading in zip(self.action.names, self.action.hold_from, strict=True):
            if reading is not None and reading >= self.proprio_size:
                raise UserError(f"hold_from of action {name} is {reading}: there are {self.proprio_size} readings")

    @property
    def camera_names(self) -> tuple[str, ...]:
        """Names of the cameras, in order."""
        return tuple(camera.name for camera in self.cameras)

    def camera(self, name: str) -> CameraSpec:
        """The camera called `name`. Raises KeyError."""
        return {camera.name: camera for camera in self.cameras}[name]

    @property
    def only_camera(self) -> CameraSpec:
        """The camera, for code that supports only one. Raises UserError if there are several."""
        if len(self.cameras) != 1:
            raise UserError(f"{self.env} has the cameras {', '.join(self.camera_names)}: this works with a single one")
        return self.cameras[0]

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> EnvironmentSpec:
        """Inverse of `to_dict`. It also reads older descriptions, in which cameras have no names.

        Raises:
            UserError: for unknown or missing keys, and for values that make no sense.
        """
        if "image_size" in values:
            values = _with_named_camera(values)
        needed = {field.name for field in dataclasses.fields(cls)} - {"options"}
        plain = _plain(cls, values, "environment", needed)
        cameras, action = plain["cameras"], plain["action"]
        if not isinstance(cameras, tuple) or not all(isinstance(c, Mapping) for c in (*cameras, action)):
            raise UserError("cameras and action of an environment description are no lists of values")
        keys = {field.name for field in dataclasses.fields(CameraSpec)}
        plain["cameras"] = tuple(CameraSpec(**_plain(CameraSpec, c, "camera", keys)) for c in cameras)
        plain["action"] = ActionSpec.from_dict(action)
        return cls(**plain)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return {
            **values,
            "cameras": [dataclasses.asdict(camera) for camera in self.cameras],
            "action": self.action.to_dict(),
            "options": dict(self.options),
        }

    def require_match(self, other: EnvironmentSpec, ours: str, theirs: str) -> None:
        """Raises UserError, naming both values, if a model for one specification cannot act in the other.

        Visual options, the simulator's version, and limits on rates may differ, since a model may generalise over them.
        """
        if self.env != other.env:
            raise UserError(f"{ours} was made for env {self.env}, not for env {other.env}")
        for name, mine, yours in (
            ("cameras", _described(self.cameras), _described(other.cameras)),
            ("control_step_s", self.control_step_s, other.control_step_s),
            ("action_low", self.action.low, other.action.low),
            ("action_high", self.action.high, other.action.high),
            ("action rest", self.action.rest, other.action.rest),
            ("action kinds", self.action.kinds, other.action.kinds),
            ("proprio_size", self.proprio_size, other.proprio_size),
        ):
            if mine != yours:
                raise UserError(f"{ours} was made for {name} {mine}, but {theirs} has {name} {yours}")


def one_camera(size: int, name: str = CAMERA) -> tuple[CameraSpec]:
    """The cameras of an environment with a single square camera."""
    return (CameraSpec(name, size, size),)


def _described(cameras: Sequence[CameraSpec]) -> str:
    return ", ".join(f"{c.name} {c.height} x {c.width}" for c in cameras)


def _with_named_camera(values: Mapping[str, Any]) -> dict[str, Any]:
    """Complete a description of store schemas 1 or 2, which has one square unnamed camera and no rest rules."""
    old = {"image_size", "action_low", "action_high", "action_units"}
    if not old <= values.keys():
        raise UserError(f"environment description has keys {sorted(values)}, expected {sorted(old)} among them")
    size = values["image_size"]
    _require_whole("image_size", size, 1, MOST_PIXELS)
    return {
        **{key: value for key, value in values.items() if key not in old},
        "cameras": [{"name": CAMERA, "height": size, "width": size}],
        "action": {key.removeprefix("action_"): values[key] for key in sorted(old - {"image_size"})},
    }


def _plain(cls: type, values: Mapping[str, Any], what: str, needed: set[str]) -> dict[str, Any]:
    names = {field.name for field in dataclasses.fields(cls)}
    if set(values) - names or needed - set(values):
        raise UserError(f"{what} description has keys {sorted(values)}, expected {sorted(names)}")
    return {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}


def _require_whole(name: str, value: object, least: int, most: int) -> None:
    if type(value) is not int or not least <= value <= most:
        raise UserError(f"{name} is {value!r}: expected a whole number from {least} to {most}")

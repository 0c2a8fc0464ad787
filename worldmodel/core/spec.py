"""What a recording says of the robot it came from; it travels from the store into every checkpoint."""

from __future__ import annotations

import dataclasses
import math
from typing import Any, Final

from worldmodel.core.errors import UserError

MOST_PIXELS: Final = 2048  # of height and width: a chunk of frames stays below what a store reads at once
MOST_ACTION: Final = 3.4e38  # what single precision can hold
_MOST_NUMBERS = 2**16  # of one row of a vector


@dataclasses.dataclass(frozen=True)
class EnvironmentSpec:
    """The facts that decide whether a recording, a model and an environment fit each other.

    Making one raises UserError, naming what is wrong, for values that describe no environment.

    Attributes:
        env: name of the environment, for example `push`.
        image_size: height and width of the frames [pixels].
        control_step_s: time that one action lasts [s].
        action_low: smallest action, one number per dimension, in `action_units`.
        action_high: largest action, likewise.
        action_units: unit of each action dimension, for example `("m/s", "m/s")`.
        proprio_size: number of proprioceptive readings.
        state_size: length of the simulator's stored state (0 for a real robot).
        simulator: what made the recording, with its version; contacts differ between versions.
        options: the environment's options that change what is seen.
    """

    env: str
    image_size: int
    control_step_s: float
    action_low: tuple[float, ...]
    action_high: tuple[float, ...]
    action_units: tuple[str, ...]
    proprio_size: int
    state_size: int
    simulator: str
    options: dict[str, Any] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, least, most in (
            ("image_size", 1, MOST_PIXELS),
            ("proprio_size", 0, _MOST_NUMBERS),
            ("state_size", 0, _MOST_NUMBERS),
        ):
            value = getattr(self, name)
            if type(value) is not int or not least <= value <= most:
                raise UserError(f"{name} is {value!r}: expected a whole number from {least} to {most}")
        step = self.control_step_s
        if isinstance(step, bool) or not isinstance(step, int | float) or not 0 < step < math.inf:
            raise UserError(f"control_step_s is {step!r}: expected seconds, above 0")
        for name, kind in (("env", str), ("simulator", str), ("options", dict)):
            if not isinstance(getattr(self, name), kind):
                raise UserError(f"{name} is {getattr(self, name)!r}: expected {'text' if kind is str else 'options'}")
        self._check_actions()

    def _check_actions(self) -> None:
        low, high, units = self.action_low, self.action_high, self.action_units
        for name, values, kinds in (
            ("action_low", low, (int, float)),
            ("action_high", high, (int, float)),
            ("action_units", units, (str,)),
        ):
            if not isinstance(values, tuple) or any(isinstance(v, bool) or not isinstance(v, kinds) for v in values):
                raise UserError(f"{name} is {values!r}: expected a tuple, one {kinds[-1].__name__} for each dimension")
        if not 1 <= len(low) == len(high) == len(units) <= _MOST_NUMBERS:
            raise UserError(
                f"action_low, action_high and action_units have {len(low)}, {len(high)} and {len(units)} dimensions: "
                "expected the same, at least one"
            )
        for dimension, (smallest, largest) in enumerate(zip(low, high, strict=True)):
            if not -MOST_ACTION <= smallest <= largest <= MOST_ACTION:
                raise UserError(
                    f"action_low[{dimension}] is {smallest}, action_high[{dimension}] {largest}: expected the smaller "
                    "one first, both finite in single precision"
                )

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> EnvironmentSpec:
        """Inverse of `to_dict`. Raises UserError for unknown or missing keys, and for values that make no sense."""
        names = {field.name for field in dataclasses.fields(cls)}
        if set(values) - names or names - set(values) - {"options"}:
            raise UserError(f"environment description has keys {sorted(values)}, expected {sorted(names)}")
        plain: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
        return cls(**plain)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {k: list(v) if isinstance(v, tuple) else v for k, v in dataclasses.asdict(self).items()}

    def require_match(self, other: EnvironmentSpec, ours: str, theirs: str) -> None:
        """Raises UserError, naming both values, where a model for one cannot act in the other.

        Visual options and the simulator's version may differ: that is what generalisation means.
        """
        for field in ("env", "image_size", "control_step_s", "action_low", "action_high", "proprio_size"):
            mine, yours = getattr(self, field), getattr(other, field)
            if field == "env" and mine != yours:
                raise UserError(f"{ours} was made for env {mine}, not for env {yours}")
            if mine != yours:
                raise UserError(f"{ours} was made for {field} {mine}, but {theirs} has {field} {yours}")

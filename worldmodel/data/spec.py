"""What a recording says of the robot it came from; it travels from the store into every checkpoint."""

from __future__ import annotations

import dataclasses
from typing import Any

from configs.command import UserError


@dataclasses.dataclass(frozen=True)
class EnvironmentSpec:
    """The facts that decide whether a recording, a model and an environment fit each other.

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

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> EnvironmentSpec:
        """Inverse of `to_dict`. Raises UserError for unknown or missing keys."""
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
            if mine != yours:
                raise UserError(f"{ours} was made for {field} {mine}, but {theirs} has {field} {yours}")

"""`push` in a world that differs from the recorded one. Images look as before, and other things happen in them.

`env=changed_push env.change=slippery` is an environment like any other, once `register_changed` was called. Its name
stays `push`, so that models of `push` are accepted.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Final

import mujoco
import numpy as np

from envs.protocol import Floats
from envs.push import PushConfig, PushEnv, PushTask
from envs.registry import EnvFamily
from worldmodel.core.errors import choices_message
from worldmodel.core.registry import register

NAME: Final = "changed_push"
_BLOCK: Final = slice(0, 3)  # its degrees of freedom: x, y, yaw


def _slippery(share: float) -> Callable[[mujoco.MjModel], None]:
    """Friction and damping of the block on the floor are `share` of what they were, so that it slides on."""

    def change(model: mujoco.MjModel) -> None:
        model.dof_frictionloss[_BLOCK] *= share
        model.dof_damping[_BLOCK] *= share

    return change


def _gains(x: float, y: float) -> Callable[[mujoco.MjModel], None]:
    """The motors follow `x` and `y` times the velocity that they are told."""

    def change(model: mujoco.MjModel) -> None:
        model.actuator_gainprm[:, 0] *= (x, y)

    return change


def _grip(friction: float) -> Callable[[mujoco.MjModel], None]:
    """Sliding friction between all things. 0.4 is the original."""

    def change(model: mujoco.MjModel) -> None:
        model.geom_friction[:, 0] = friction

    return change


def _long(model: mujoco.MjModel) -> None:
    """The block is 14 cm x 6 cm."""
    model.geom("block").size[:2] = 0.07, 0.03


CHANGES: Final[dict[str, Callable[[mujoco.MjModel], None]]] = {
    "none": lambda model: None,
    "icy": _slippery(0.02),
    "slippery": _slippery(0.1),
    "gains": _gains(0.5, 1.5),
    "slow": _gains(0.5, 0.5),
    "mirrored": _gains(-1.0, 1.0),
    "sticky": _grip(2.0),
    "long": _long,
}


@dataclasses.dataclass(frozen=True)
class ChangedConfig(PushConfig):
    """Options of `push`, and the name of the change."""

    change: str = "none"

    def __post_init__(self) -> None:
        if self.change not in CHANGES:
            raise ValueError(choices_message("change", self.change, CHANGES))


class LongTask(PushTask):
    """`push` with a block that only half turns leave as it is."""

    def errors(self, states: Floats, goal: Floats) -> Mapping[str, Floats]:
        """Position error [cm], and yaw error [degrees] of at most 90."""
        half = np.pi
        turned = np.asarray(states)[..., 2] - np.asarray(goal)[..., 2]
        yaw = np.degrees(np.abs((turned + half / 2) % half - half / 2))
        return {**super().errors(states, goal), "yaw": yaw}


class ChangedPush(PushEnv):
    """`push`, changed."""

    def __init__(self, config: ChangedConfig) -> None:
        super().__init__(config)
        CHANGES[config.change](self.world.model)
        if config.change == "long":
            self.task = LongTask()


_ENTRY: Final = EnvFamily(ChangedConfig, ChangedPush)


def register_changed() -> None:
    """Make `env=changed_push` known to this process. Safe to call twice."""
    register("env", NAME, _ENTRY)

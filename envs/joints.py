"""Actuators of a MuJoCo model: the joints that they move, and the readings of the joint encoders."""

from __future__ import annotations

import dataclasses

import mujoco
import numpy as np
from numpy.typing import NDArray

from envs.world import Floats
from worldmodel.core.errors import UserError, choices_message

_SCALAR_JOINTS = (mujoco.mjtJoint.mjJNT_HINGE, mujoco.mjtJoint.mjJNT_SLIDE)
_JOINT_TRANSMISSIONS = (mujoco.mjtTrn.mjTRN_JOINT, mujoco.mjtTrn.mjTRN_JOINTINPARENT)


@dataclasses.dataclass(frozen=True)
class Joint:
    """A joint with one degree of freedom.

    Attributes:
        name: its name in the model, or `joint_<number>`.
        body: number of the body that it moves.
        position: index of its position in `qpos`.
        velocity: index of its velocity in `qvel`.
        is_hinge: whether it turns [rad]. Otherwise it slides [m].
        is_periodic: whether it is a hinge without limits, so that a full turn changes nothing.
    """

    name: str
    body: int
    position: int
    velocity: int
    is_hinge: bool
    is_periodic: bool

    def error(self, positions: Floats, goals: Floats) -> Floats:
        """Distance `[...]` [rad or m] between joint positions, by the shorter way round where the joint is periodic."""
        difference = positions - goals
        if self.is_periodic:
            difference = (difference + np.pi) % (2 * np.pi) - np.pi
        return np.abs(difference)


def scalar_joints(model: mujoco.MjModel) -> list[Joint]:
    """Every hinge and slide joint, in the model's order."""
    return [_joint(model, number) for number in range(model.njnt) if model.jnt_type[number] in _SCALAR_JOINTS]


def actuated_joints(model: mujoco.MjModel) -> list[Joint]:
    """The hinge and slide joints that a motor moves, directly or through a fixed tendon, in the actuators' order."""
    numbers: dict[int, None] = {}
    for actuator in range(model.nu):
        for number in _moved_by(model, actuator):
            numbers[number] = None
    return [_joint(model, number) for number in numbers if model.jnt_type[number] in _SCALAR_JOINTS]


def choose_joints(model: mujoco.MjModel, names: tuple[str, ...]) -> list[Joint]:
    """The joints called `names`. Without names, all actuated joints, or all joints if none is actuated.

    Raises:
        UserError: for a name that is no hinge or slide joint of the model.
    """
    available = {joint.name: joint for joint in scalar_joints(model)}
    for name in names:
        if name not in available:
            raise UserError(choices_message("success joint", name, available))
    return [available[name] for name in names] or actuated_joints(model) or list(available.values())


def _moved_by(model: mujoco.MjModel, actuator: int) -> list[int]:
    target = int(model.actuator_trnid[actuator, 0])
    if model.actuator_trntype[actuator] in _JOINT_TRANSMISSIONS:
        return [target]
    if model.actuator_trntype[actuator] == mujoco.mjtTrn.mjTRN_TENDON:
        first = model.tendon_adr[target]
        wraps = range(first, first + model.tendon_num[target])
        return [int(model.wrap_objid[w]) for w in wraps if model.wrap_type[w] == mujoco.mjtWrap.mjWRAP_JOINT]
    return []


def _joint(model: mujoco.MjModel, number: int) -> Joint:
    is_hinge = model.jnt_type[number] == mujoco.mjtJoint.mjJNT_HINGE
    return Joint(
        name=model.joint(number).name or f"joint_{number}",
        body=int(model.jnt_bodyid[number]),
        position=int(model.jnt_qposadr[number]),
        velocity=int(model.jnt_dofadr[number]),
        is_hinge=bool(is_hinge),
        is_periodic=bool(is_hinge and not model.jnt_limited[number]),
    )


class Encoders:
    """Readings of encoders at the motors. They contain nothing about the world around the robot.

    The readings `[P]` are, in this order: positions of limited hinges [rad] and slides [m], sines of periodic hinges,
    cosines of periodic hinges, lengths of other transmissions (tendons and sites, per unit of gear), velocities of the
    joints [rad/s, m/s], velocities of the other transmissions.
    """

    def __init__(self, model: mujoco.MjModel) -> None:
        joints = {
            joint.position: joint
            for actuator in range(model.nu)
            if model.actuator_trntype[actuator] in _JOINT_TRANSMISSIONS
            for number in _moved_by(model, actuator)
            if model.jnt_type[number] in _SCALAR_JOINTS
            for joint in [_joint(model, number)]
        }
        self._plain = [j.position for j in joints.values() if not j.is_periodic]
        self._periodic = [j.position for j in joints.values() if j.is_periodic]
        self._velocities = [j.velocity for j in joints.values()]
        self._others = [
            actuator
            for actuator in range(model.nu)
            if model.actuator_trntype[actuator] not in _JOINT_TRANSMISSIONS
            or model.jnt_type[model.actuator_trnid[actuator, 0]] not in _SCALAR_JOINTS
        ]
        gear = np.linalg.norm(model.actuator_gear[self._others], axis=-1)
        self._gear = np.where(gear > 0, gear, 1.0)
        self.size = len(self._plain) + 2 * len(self._periodic) + len(self._velocities) + 2 * len(self._others)

    def read(self, data: mujoco.MjData) -> NDArray[np.float32]:
        """Readings `[P]`. Positions and velocities in `data` must be up to date (`mj_step1`)."""
        readings = [
            data.qpos[self._plain],
            np.sin(data.qpos[self._periodic]),
            np.cos(data.qpos[self._periodic]),
            data.actuator_length[self._others] / self._gear,
            data.qvel[self._velocities],
            data.actuator_velocity[self._others] / self._gear,
        ]
        return np.concatenate(readings).astype(np.float32)

"""The Kinova Jaco arm that dm_control brings, as the body of an arm.

The velocity of the hand becomes velocities of the joints by damped least squares (Wampler 1986, "Manipulator inverse
kinematic solutions based on vector formulations and damped least-squares methods"):

    dq = J^T (J J^T + damping^2 I)^-1 (v, w)

Here J is the Jacobian of the grip point, v its velocity, and w turns the hand so that it points down.
"""

from __future__ import annotations

import os

import mujoco
import numpy as np
from dm_control.entities.manipulators.kinova.assets_path import KINOVA_ROOT

from envs.arm.config import ArmConfig
from envs.arm.scene import GRIP
from envs.arm.world import REACH, WIDEST, ArmWorld
from envs.world import Floats, World

_ARM_JOINTS = tuple(f"joint_{number}" for number in range(1, 7))
_FINGERS = tuple(f"finger_{number}" for number in range(1, 4))
_BASE = (0.0, 0.42, 0.0)  # behind the table [m]
_OPEN, _CLOSED = 0.25, 1.15  # angles of the fingers at the two ends of the grip [rad]
# Of the arm's motors [N m s/rad, N m]. The torque brakes in 2 cm and does not crush objects.
_KV, _MAX_TORQUE = 500.0, 40.0
_FINGER_KP, _FINGER_KV = 40.0, 1.0  # [N m/rad, N m s/rad]
_MAX_JOINT_SPEED = 1.6  # [rad/s]
_DAMPING = 0.05  # of the least squares, in metres as the Jacobian's first rows
_GAIN = 6.0  # share of the error in position and orientation that is corrected in a second [1/s]
_LEAD = 0.03  # largest distance of the commanded position from the hand, so that pressing does not pile up [m]
_UPDATE_SUBSTEPS = 4  # simulator steps between two solutions, 0.02 s
# A pose in front of the base that points down, from which inverse kinematics start [rad].
_HOME = np.array([1.336, 2.488, 5.005, 2.954, 0.726, 4.29])
# Axes of the grip site, as columns. The fingers close along y, so that they can hold the drawer's handle.
_DOWN = np.array([[0.0, -1.0, 0.0], [-1.0, 0.0, 0.0], [0.0, 0.0, -1.0]])
_IK_STEPS, _IK_ERROR = 200, 1e-3  # iterations, and error at which they end [m, rad]


def jaco_part() -> mujoco.MjSpec:
    """Arm and hand with velocity motors, and a pedestal behind the table. Gravity does not act on them."""
    arm = mujoco.MjSpec.from_file(os.path.join(KINOVA_ROOT, "jaco_arm.xml"))
    hand = mujoco.MjSpec.from_file(os.path.join(KINOVA_ROOT, "jaco_hand.xml"))
    arm.attach(hand, prefix="hand_", site=arm.site("wristsite"))
    for name in _FINGERS:
        arm.joint(f"hand_{name}").name = name
    arm.site("hand_pinchsite").name = GRIP
    arm.body("b_base").pos = _BASE
    arm.worldbody.add_geom(
        name="pedestal",
        type=mujoco.mjtGeom.mjGEOM_CYLINDER,
        size=[0.06, 0.2, 0],
        pos=[_BASE[0], _BASE[1], -0.2],
        rgba=[0.5, 0.52, 0.57, 1],
        contype=0,
        conaffinity=0,
    )
    for geom in arm.geoms:
        # Only the hand touches the world, and not itself: it has a type that nothing of its own looks for.
        geom.contype, geom.conaffinity = int("finger" in geom.name or "link_6" in geom.name), 0
        if "finger" in geom.name:
            geom.friction, geom.condim, geom.priority = [1.4, 0.02, 0.001], 4, 1
    for body in arm.bodies[1:]:
        body.gravcomp = 1
    _add_motors(arm)
    return arm


def _add_motors(arm: mujoco.MjSpec) -> None:
    for name in _ARM_JOINTS:
        motor = arm.add_actuator(name=name, target=name, trntype=mujoco.mjtTrn.mjTRN_JOINT)
        motor.set_to_velocity(kv=_KV)
        motor.forcelimited, motor.forcerange = True, [-_MAX_TORQUE, _MAX_TORQUE]
    for name in _FINGERS:
        motor = arm.add_actuator(name=name, target=name, trntype=mujoco.mjtTrn.mjTRN_JOINT)
        motor.set_to_intvelocity(kp=_FINGER_KP, kv=_FINGER_KV)
        motor.actlimited, motor.actrange = True, [_OPEN, _CLOSED]


class JacoWorld(ArmWorld):
    """The same table, actions, proprioception and tasks as with the hand. Only the arm is simulated with its joints.

    The state has three more numbers before those of the scenery, which are the commanded position of the grip point
    [m]. `simulate` runs one sequence after the other, because the motors' commands depend on the state.
    """

    pinches_handle = True

    def __init__(self, config: ArmConfig) -> None:
        super().__init__(config, jaco_part())
        model = self.model
        self._dofs = [model.joint(name).dofadr[0] for name in _ARM_JOINTS]
        self._joints = [model.joint(name).qposadr[0] for name in _ARM_JOINTS]
        self._finger_joints = [model.joint(name).qposadr[0] for name in _FINGERS]
        self._target = np.array([0.0, 0.0, REACH[1][2]])
        self._jacobian = np.zeros((6, model.nv))

    def fingers(self) -> float:
        return _to_width(float(np.mean(self.data.qpos[self._finger_joints])))

    def commanded_fingers(self) -> float:
        return _to_width(float(np.mean(self.data.act)))

    def pose(self, position: Floats, fingers: float) -> None:
        self.data.qpos[self._joints] = _HOME
        self.data.qpos[self._finger_joints] = self.data.act[:] = _to_angle(fingers)
        self._target[:] = position
        for _ in range(_IK_STEPS):
            mujoco.mj_kinematics(self.model, self.data)
            mujoco.mj_comPos(self.model, self.data)
            twist = self._error()
            if np.abs(twist).max() < _IK_ERROR:
                return
            self.data.qpos[self._joints] += self._solve(np.clip(twist, -0.1, 0.1))

    def _error(self) -> Floats:
        """From the hand to where it is to be: translation [m] and rotation [rad], `[6]`."""
        axes = self.data.site_xmat[self._site].reshape(3, 3)
        # The sum of the cross products of matching axes is twice the sine of the angle, about the axis of rotation.
        turn = 0.5 * np.cross(axes, _DOWN, axis=0).sum(axis=1)
        return np.concatenate([self._target - self.data.site_xpos[self._site], turn])

    def _solve(self, twist: Floats) -> Floats:
        """Velocities of the joints `[6]` [rad/s] that give the hand `twist [6]` [m/s, rad/s]."""
        mujoco.mj_jacSite(self.model, self.data, self._jacobian[:3], self._jacobian[3:], self._site)
        jacobian = self._jacobian[:, self._dofs]
        damped = jacobian @ jacobian.T + _DAMPING**2 * np.eye(6)
        return np.asarray(jacobian.T @ np.linalg.solve(damped, twist))

    def advance(self, action: Floats) -> bool:
        step_s = _UPDATE_SUBSTEPS * self.model.opt.timestep
        self.data.ctrl[6:] = -action[3] * (_CLOSED - _OPEN) / WIDEST
        for _ in range(self.substeps // _UPDATE_SUBSTEPS):
            before = self._target.copy()
            hand = self.data.site_xpos[self._site]
            self._target[:] = np.clip(before + step_s * action[:3], hand - _LEAD, hand + _LEAD)
            self._target[:] = np.clip(self._target, *REACH)
            twist = _GAIN * self._error()
            twist[:3] += (self._target - before) / step_s
            self.data.ctrl[:6] = np.clip(self._solve(twist), -_MAX_JOINT_SPEED, _MAX_JOINT_SPEED)
            mujoco.mj_step(self.model, self.data, nstep=_UPDATE_SUBSTEPS)
            mujoco.mj_kinematics(self.model, self.data)
            mujoco.mj_comPos(self.model, self.data)
            if self.has_diverged():
                break
        mujoco.mj_step1(self.model, self.data)
        self._tick()
        return self.has_diverged()

    def get_state(self) -> Floats:
        state = super().get_state()
        return np.concatenate([state[:-2], self._target, state[-2:]])

    def set_state(self, state: Floats) -> None:
        self._target[:] = state[-5:-2]
        super().set_state(np.concatenate([state[:-5], state[-2:]]))

    def simulate(self, state: Floats, actions: Floats) -> Floats:
        return World.simulate(self, state, actions)


def _to_width(angle: float) -> float:
    """Distance [m] of the fingers from the middle, for their mean angle [rad]."""
    return WIDEST * (_CLOSED - angle) / (_CLOSED - _OPEN)


def _to_angle(width: float) -> float:
    """Inverse of `_to_width`."""
    return _CLOSED - width / WIDEST * (_CLOSED - _OPEN)

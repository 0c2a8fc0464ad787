"""The simulation of a table with cubes and a drawer, with any gripper above it."""

from __future__ import annotations

import abc
from typing import Final

import mujoco
import numpy as np
from numpy.typing import NDArray

from envs.arm.config import ArmConfig
from envs.arm.scene import CUBE, GRIP, HANDLE, Layout, build
from envs.arm.scenery import LARGEST_CUBE, ArmScenery
from envs.mujoco_world import MujocoWorld
from envs.simulation import roll_out
from envs.world import Floats
from worldmodel.core.spec import ActionSpec

CONTROL_STEP_S: Final = 0.1
MAX_SPEED: Final = 0.3  # of the hand, along each axis [m/s]
MAX_GRIP_SPEED: Final = 0.1  # of each finger; it opens or closes in four control steps [m/s]
WIDEST: Final = 0.042  # distance of an open finger from the middle [m]
# The grip point stays within these bounds [m]. At the lowest, the finger tips are 5 mm above the table.
REACH: Final = (np.array([-0.2, -0.17, 0.026]), np.array([0.2, 0.17, 0.246]))
ACTION: Final = ActionSpec(
    low=(-MAX_SPEED, -MAX_SPEED, -MAX_SPEED, -MAX_GRIP_SPEED),
    high=(MAX_SPEED, MAX_SPEED, MAX_SPEED, MAX_GRIP_SPEED),
    units=("m/s",) * 4,
    names=("vx", "vy", "vz", "grip"),
)
_DRAWER_TRAVEL = 0.15  # [m]
_START = np.array([0.17, 0.14])  # cubes start within these distances from the middle of the table [m]
_NUM_READINGS = 5
_MOST_DRAWS = 1000


class ArmWorld(MujocoWorld):
    """A gripper over a table with cubes and a drawer, at 10 Hz. A body implements its three abstract methods.

    Action `[4]`: velocity of the hand along x, y and z, within ±0.3 m/s, and the speed at which each finger opens
    (positive) or closes (negative), within ±0.1 m/s. Zero rests, and keeps the grip as it is, also around a cube.
    Proprioception `[5]`: position of the grip point [m], distance of the fingers from the middle [m], and the distance
    that they are commanded to [m], which is smaller if there is something between them. State `[N]`: `qpos`, `qvel`,
    `act`, and seed and clock of the scenery, which are 0 in the plain scene.

    Attributes:
        pinches_handle: whether the fingers close around the drawer's handle. Otherwise they reach behind it.

    Args:
        config: the task.
        body: the gripper, with its motors and the site `grip` between its finger tips.
    """

    pinches_handle = False

    def __init__(self, config: ArmConfig, body: mujoco.MjSpec) -> None:
        half_width = LARGEST_CUBE if config.factors.sizes else CUBE
        model = build(body, config.cubes, half_width, config.drawers > 0, config.distractors)
        super().__init__(model, CONTROL_STEP_S, config.views, ACTION, lean=False)
        self.proprio_size = _NUM_READINGS
        self.layout = Layout.of(model, config.cubes, config.drawers > 0)
        self._scenery = ArmScenery(model, config.factors, config.distractors, config.cubes)
        self._scene = np.zeros(2)
        self._site = model.site(GRIP).id

    # --- what a body implements --------------------------------------------------------------------------------------

    @abc.abstractmethod
    def fingers(self) -> float:
        """Distance [m] of the fingers from the middle."""

    @abc.abstractmethod
    def commanded_fingers(self) -> float:
        """Distance [m] from the middle that the fingers are commanded to."""

    @abc.abstractmethod
    def pose(self, position: Floats, fingers: float) -> None:
        """Bring the grip point to `position [3]` [m], and the fingers to a distance [m] from the middle, at once."""

    # --- what explorers read -----------------------------------------------------------------------------------------

    def hand(self) -> Floats:
        """Position `[3]` [m] of the grip point, which is between the finger tips."""
        return np.array(self.data.site_xpos[self._site])

    def cube(self, number: int) -> Floats:
        """Position `[3]` [m] of the middle of a cube."""
        return self.layout.cube(self.data.qpos, number).copy()

    def half_width(self, number: int) -> float:
        """Half of the width [m] of a cube."""
        return float(self.model.geom(self.layout.cubes[number]).size[0])

    def holds(self, number: int) -> bool:
        """Whether the grip point is inside a cube and the fingers touch it from both sides."""
        near = np.abs(self.cube(number) - self.hand()).max() < self.half_width(number)
        return bool(near and self.commanded_fingers() < self.fingers() - 0.002)

    def opening(self) -> float:
        """Opening [m] of the drawer."""
        return float(self.layout.opening(self.data.qpos))

    def handle(self) -> Floats:
        """Position `[3]` [m] of the middle of the drawer's handle."""
        return np.array(self.data.geom_xpos[self.model.geom(HANDLE).id])

    # --- World -------------------------------------------------------------------------------------------------------

    def begin(self, rng: np.random.Generator) -> None:
        """Place everything at random and at rest, so that nothing is inside of anything else."""
        seed = int(rng.integers(1, 2**31)) if self._scenery.varies else 0
        for _ in range(_MOST_DRAWS):
            self.set_state(np.append(np.zeros(len(self.get_state()) - 2), [seed, 0.0]))
            if self.layout.drawer is not None:
                self.data.qpos[self.layout.drawer] = rng.uniform(0, _DRAWER_TRAVEL)
            for number in range(len(self.layout.cubes)):
                self._place_cube(number, rng)
            self.pose_at_random(rng)
            mujoco.mj_forward(self.model, self.data)
            if not (self.data.contact.dist < -0.001).any():
                self.set_state(self.get_state())
                return
        raise RuntimeError(f"no start without overlaps in {_MOST_DRAWS} draws")  # pragma: no cover

    def pose_at_random(self, rng: np.random.Generator) -> None:
        """Bring the gripper to a random place within reach, mostly near the table, with a random opening."""
        low, high = REACH
        height = low[2] + (high[2] - low[2]) * rng.uniform() ** 1.5
        self.pose(np.append(rng.uniform(low[:2], high[:2]), height), rng.uniform(0, WIDEST))

    def _place_cube(self, number: int, rng: np.random.Generator) -> None:
        """Put a cube on the table, or, with a drawer, the first one into it in half of the episodes."""
        position = np.append(rng.uniform(-_START, _START), self.half_width(number))
        if self.layout.drawer is not None and number == 0 and rng.random() < 0.5:
            mujoco.mj_kinematics(self.model, self.data)
            floor = self.data.geom_xpos[self.model.geom("drawer_floor").id]
            inside = rng.uniform([-0.05, -0.03], [0.05, 0.03])
            # The floor of the drawer is 6 mm thick.
            position = floor + np.append(inside, 0.003 + self.half_width(number))
        start, yaw = self.layout.positions[number], rng.uniform(-np.pi, np.pi)
        self.data.qpos[start : start + 3] = position
        self.data.qpos[start + 3 : start + 7] = [np.cos(yaw / 2), 0, 0, np.sin(yaw / 2)]

    def advance(self, action: Floats) -> bool:
        diverged = super().advance(action)
        self._tick()
        return diverged

    def _tick(self) -> None:
        """Advance the scenery by one control step."""
        if self._scene[0]:
            self._scene[1] += self.control_step_s
            self._scenery.move(self.data, self._scene[1])
            mujoco.mj_kinematics(self.model, self.data)

    def get_state(self) -> Floats:
        return np.concatenate([super().get_state(), self._scene])

    def set_state(self, state: Floats) -> None:
        self._scene[:] = state[-2:]
        self._scenery.dress(int(self._scene[0]))
        super().set_state(state[:-2])
        if self._scene[0]:  # `mj_resetData` has put the background out of sight
            self._scenery.move(self.data, self._scene[1])
            mujoco.mj_kinematics(self.model, self.data)

    def proprio(self) -> NDArray[np.float32]:
        return np.array([*self.hand(), self.fingers(), self.commanded_fingers()], np.float32)

    def simulate(self, state: Floats, actions: Floats) -> Floats:
        with self.visit(state):
            physics = roll_out(self.model, self.data, self._scratch, actions, self.substeps)
        return self._with_scene(physics, state[-2:])

    def _with_scene(self, physics: Floats, scene: Floats) -> Floats:
        """States `[S, T, N]` from their physics, with seed and clock of the scenery `[2]` at the start."""
        step_s = self.control_step_s if scene[0] else 0.0
        clock = np.cumsum([scene[1], *[step_s] * physics.shape[1]])[1:]  # rounded as step by step
        seed = np.full(physics.shape[:2], scene[0])
        seed[np.isnan(physics[..., 0])] = np.nan
        ticks = np.where(np.isnan(seed), np.nan, clock)
        return np.concatenate([physics, seed[..., None], ticks[..., None]], axis=-1)

"""Push a block across a table with a cylinder, seen from above.

Lengths are in metres and angles in radians. The origin is in the middle of the arena. In the image, +x is to the right
and +y to the top.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from importlib import resources

import mujoco
import numpy as np
from numpy.typing import NDArray

from envs.cameras import CameraConfig
from envs.exploration import SmoothRandomExplorer, SwitchingExplorer
from envs.mujoco_world import MujocoWorld
from envs.protocol import Explorer, Floats, GoalEnv, Metric, Task
from envs.registry import EnvFamily
from envs.scenery import Scenery
from envs.simulation import roll_out
from envs.task import read_shares
from worldmodel.core.spec import ActionSpec

ARENA_WIDTH = 0.5
BLOCK_WIDTH = 0.1
PUSHER_RADIUS = 0.02
MAX_SPEED = 0.4  # of the pusher, along each axis [m/s]
CONTROL_STEP_S = 0.1
_POSITIONS = slice(0, 5)  # block x, y, yaw; pusher x, y
_VELOCITIES = slice(5, 10)
_SHARES = {"random": 0.25, "contact": 0.75}  # of the kinds of exploration
_SCENE = slice(10, 12)  # seed of the scenery (0 = plain), time since its start [s]


@dataclasses.dataclass(frozen=True)
class PushConfig:
    """Options of the environment's appearance.

    Attributes:
        image_size: height and width of the frames [pixels].
        distractors: random lighting, floor, camera jitter, and background objects that no action touches.
    """

    image_size: int = 64
    distractors: bool = False


class PushEnv(GoalEnv):
    """Planar pushing at 10 Hz.

    Action `[2]`: velocity of the pusher [m/s], each within ±0.4. Proprioception `[2]`: position of the pusher [m].
    State `[12]`: positions (block x, y [m] and yaw [rad], pusher x, y [m]), their velocities, seed and clock of the
    scenery. Success: the block is within 4 % of the arena's width of its goal, and its yaw is within 20 degrees, modulo
    quarter turns, which do not change a square.
    """

    def __init__(self, config: PushConfig) -> None:
        super().__init__("push", PushWorld(config), PushTask())


class PushWorld(MujocoWorld):
    """Block, pusher and walls, and the scenery around them if there are distractors."""

    def __init__(self, config: PushConfig) -> None:
        path = resources.files("envs") / "assets" / "push.xml"
        model = mujoco.MjModel.from_xml_string(path.read_text())
        low, high = model.actuator_ctrlrange.T.astype(np.float32)
        action = ActionSpec(tuple(low.tolist()), tuple(high.tolist()), ("m/s", "m/s"), ("vx", "vy"))
        camera = CameraConfig(height=config.image_size, camera="top")
        super().__init__(model, CONTROL_STEP_S, (camera,), action, lean=False)
        self.proprio_size = 2
        self._distractors = config.distractors
        self._scenery = Scenery(model)
        self._scene = np.zeros(2)

    def begin(self, rng: np.random.Generator) -> None:
        """Place block and pusher at random, apart, at rest."""
        state = np.zeros(12)
        block_reach = ARENA_WIDTH / 2 - BLOCK_WIDTH * np.sqrt(0.5)
        pusher_reach = ARENA_WIDTH / 2 - PUSHER_RADIUS
        state[:2] = rng.uniform(-block_reach, block_reach, 2)
        state[2] = rng.uniform(-np.pi, np.pi)
        apart = BLOCK_WIDTH * np.sqrt(0.5) + PUSHER_RADIUS
        while True:
            state[3:5] = rng.uniform(-pusher_reach, pusher_reach, 2)
            if np.linalg.norm(state[3:5] - state[:2]) > apart:
                break
        if self._distractors:
            state[_SCENE] = rng.integers(1, 2**31), 0.0
        self.set_state(state)

    def advance(self, action: Floats) -> bool:
        self.data.ctrl[:] = action
        mujoco.mj_step(self.model, self.data, nstep=self.substeps)
        if self._distractors:
            self._scene[1] += self.control_step_s
            self._scenery.move(self.data, self._scene[1])
        # mj_step leaves body poses one substep behind the joints that proprioception reads.
        mujoco.mj_kinematics(self.model, self.data)
        return self.has_diverged()

    def has_diverged(self) -> bool:
        # A position far outside is as bad as a number that is not finite.
        inside = np.abs(self.data.qpos[[0, 1, 3, 4]]) < ARENA_WIDTH
        return not np.isfinite(self.data.qacc).all() or not inside.all()

    def get_state(self) -> Floats:
        return np.concatenate([self.data.qpos, self.data.qvel, self._scene])

    def set_state(self, state: Floats) -> None:
        mujoco.mj_resetData(self.model, self.data)
        self.data.qpos[:], self.data.qvel[:] = state[_POSITIONS], state[_VELOCITIES]
        self._scene[:] = state[_SCENE]
        self._scenery.arrange(self.data, int(self._scene[0]), self._scene[1])
        mujoco.mj_forward(self.model, self.data)

    def proprio(self) -> NDArray[np.float32]:
        return self.data.qpos[3:5].astype(np.float32)

    def simulate(self, state: Floats, actions: Floats) -> Floats:
        start, scratch = mujoco.MjData(self.model), mujoco.MjData(self.model)
        start.qpos[:], start.qvel[:] = state[_POSITIONS], state[_VELOCITIES]
        physics = roll_out(self.model, start, scratch, actions, self.substeps)
        outside = ~(np.abs(physics[..., [0, 1, 3, 4]]) < ARENA_WIDTH).all(-1)  # NaN counts as outside
        physics[np.maximum.accumulate(outside, axis=1)] = np.nan
        scene = np.broadcast_to(state[_SCENE], (*physics.shape[:2], 2)).copy()
        if self._distractors:
            scene[..., 1] += self.control_step_s * np.arange(1, actions.shape[1] + 1)
        scene[np.isnan(physics[..., 0])] = np.nan
        return np.concatenate([physics, scene], axis=-1)


class PushTask(Task):
    """The task to bring the block to its position and yaw in the goal. The pusher's position does not matter."""

    metrics = (
        Metric("position", "cm", 4.0 * ARENA_WIDTH),  # 4 % of the width, times 100 cm/m
        Metric("yaw", "deg", 20.0),
    )
    exploration = _SHARES

    def errors(self, states: Floats, goal: Floats) -> Mapping[str, Floats]:
        """Position error [cm] and yaw error [degrees]. The latter is at most 45 because a square is symmetric."""
        states, goal = np.asarray(states), np.asarray(goal)
        position = np.linalg.norm(states[..., :2] - goal[..., :2], axis=-1) * 100
        return {"position": position, "yaw": yaw_error(states[..., 2], goal[..., 2])}

    def is_interesting(self, start: Floats, goal: Floats) -> bool:
        """Whether the block moves at least 5 cm or turns at least 20 degrees, and the start is not a success."""
        moved = np.linalg.norm(goal[:2] - start[:2]) >= 0.05
        turned = np.abs(goal[2] - start[2]) >= np.radians(20)
        return bool((moved or turned) and not self.is_success(start, goal))

    def explorer(self, rng: np.random.Generator) -> Explorer:
        return self.explorer_with(rng, self.exploration)

    def explorer_with(self, rng: np.random.Generator, shares: Mapping[str, float]) -> Explorer:
        limit, mixed = np.full(2, MAX_SPEED, np.float32), read_shares(shares, self.exploration)
        explorers = {"random": SmoothRandomExplorer(-limit, limit, rng), "contact": PushThroughExplorer(rng)}
        return SwitchingExplorer(list(explorers.values()), [mixed[kind] for kind in explorers], rng)

    def path_points(self, states: Floats) -> Mapping[str, Floats]:
        return {"block": to_frame(states[..., 0:2]), "pusher": to_frame(states[..., 3:5])}


def yaw_error(yaw: Floats, wanted: Floats) -> Floats:
    """Difference [degrees] of yaws [rad], modulo quarter turns, which do not change a square. It is at most 45."""
    quarter = np.pi / 2
    error: Floats = np.degrees(np.abs((yaw - wanted + quarter / 2) % quarter - quarter / 2))
    return error


def to_frame(places: Floats) -> Floats:
    """Places `[..., 2]` [m] as (column, row) in fractions of the image."""
    half_view = 1.46 * np.tan(np.radians(20.5 / 2))  # at half the height of the objects
    points: Floats = 0.5 + places * (np.array([0.5, -0.5]) / half_view)
    return points


class PushThroughExplorer(Explorer):
    """Explores contact. It moves around the block to a random side and pushes through a random point of the block.

    There is no goal for the push. Sides from which the block could only be pressed against a wall are mostly avoided,
    and a push that is stuck is ended, because both teach little.
    """

    def __init__(self, rng: np.random.Generator) -> None:
        self._rng = rng
        self._steps_left = 0

    def _begin(self, block: Floats) -> None:
        rng = self._rng
        for _ in range(4):
            self._angle = rng.uniform(-np.pi, np.pi)  # side to push from, in the arena's frame
            self._side = np.array([np.cos(self._angle), np.sin(self._angle)])
            if self._has_room(block - 0.08 * self._side):
                break
        self._aim = rng.uniform(-0.045, 0.045, 2)  # point of the block to push through [m]
        self._speed = rng.uniform(0.1, 0.4)
        self._noise = rng.uniform(0.0, 0.12)
        self._approaching, self._steps_left = True, int(rng.integers(8, 28))
        self._before: Floats | None = None

    def act(self, env: GoalEnv) -> NDArray[np.float32]:
        block, pusher = self._look(env)
        if self._steps_left == 0:
            self._begin(block)
        self._steps_left -= 1
        velocity = self._approach(block, pusher) if self._approaching else self._push(block, pusher)
        velocity = velocity + self._noise * self._rng.standard_normal(2)
        return np.clip(velocity, -MAX_SPEED, MAX_SPEED).astype(np.float32)

    def _look(self, env: GoalEnv) -> tuple[Floats, Floats]:
        """Positions `[2]` of the block to push and of the pusher [m]."""
        positions = env.get_state()[_POSITIONS]
        return positions[:2], positions[3:5]

    def _has_room(self, place: Floats) -> bool:
        """Whether the block can be at `place [2]`."""
        return bool((np.abs(place) < ARENA_WIDTH / 2 - BLOCK_WIDTH / 2).all())

    def _route(self, pusher: Floats, target: Floats) -> Floats:
        """The next point `[2]` on the pusher's way to `target [2]`."""
        return target

    def _approach(self, block: Floats, pusher: Floats) -> Floats:
        """Velocity [m/s] toward the start of the push beside the block, around the block if it is in the way."""
        reach = ARENA_WIDTH / 2 - PUSHER_RADIUS
        target = np.clip(block + self._aim + 0.11 * self._side, -reach, reach)
        away = pusher - block
        if np.linalg.norm(target - pusher) < 0.03:
            self._approaching = False
        elif np.linalg.norm(away) < 0.115 and np.dot(away, self._side) < 0.05:
            tangent = np.array([-away[1], away[0]])
            target = pusher + tangent * np.sign(np.dot(tangent, target - pusher)) + 0.3 * away
        target = self._route(pusher, target)
        return self._limited((target - pusher) / 0.1, max(self._speed, 0.35))

    def _push(self, block: Floats, pusher: Floats) -> Floats:
        """Velocity [m/s] through the chosen point of the block."""
        stuck = self._before is not None and np.linalg.norm(pusher - self._before) < 0.15 * self._speed * 0.1
        self._before = pusher
        if stuck:
            self._steps_left = 0
        through = block + self._aim - pusher
        return self._limited(through * 100 if np.linalg.norm(through) > 0.03 else -self._side, self._speed)

    @staticmethod
    def _limited(velocity: Floats, speed: float) -> Floats:
        return velocity * min(1.0, speed / max(float(np.linalg.norm(velocity)), 1e-6))


FAMILY = EnvFamily(PushConfig, PushEnv)

"""Push a block across a table with a cylinder, seen from above.

Lengths in metres, angles in radians, the origin in the middle of the arena, +x to the right and +y to the top of the
picture.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from importlib import resources
from typing import Any

import gymnasium
import mujoco
import numpy as np
from numpy.typing import NDArray

from envs.exploration import SmoothRandomExplorer, SwitchingExplorer
from envs.protocol import (
    Explorer,
    Floats,
    GoalEnv,
    Metric,
    Pixels,
    observation_space,
    read_reset_options,
    require_camera,
)
from envs.rendering import LeanRenderer
from envs.scenery import Scenery
from envs.simulation import roll_out
from worldmodel.core.errors import UserError
from worldmodel.core.spec import ActionSpec, one_camera

ARENA_WIDTH = 0.5
BLOCK_WIDTH = 0.1
PUSHER_RADIUS = 0.02
_POSITIONS = slice(0, 5)  # block x, y, yaw; pusher x, y
_VELOCITIES = slice(5, 10)
_SCENE = slice(10, 12)  # seed of the scenery (0 = plain), time it has been moving [s]


@dataclasses.dataclass(frozen=True)
class PushConfig:
    """How it is seen.

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
    scenery. Success: the block within 4 % of the arena's width of its goal, and its yaw within 20 degrees, modulo
    the quarter turns that leave a square as it is.
    """

    name = "push"
    control_step_s = 0.1
    metrics = (
        Metric("position", "cm", 4.0 * ARENA_WIDTH),  # 4 % of the width, times 100 cm/m
        Metric("yaw", "deg", 20.0),
    )

    def __init__(self, config: PushConfig) -> None:
        image_size = config.image_size
        path = resources.files("envs") / "assets" / "push.xml"
        self._model = mujoco.MjModel.from_xml_string(path.read_text())
        self._data = mujoco.MjData(self._model)
        self._substeps = round(self.control_step_s / self._model.opt.timestep)
        self._distractors = config.distractors
        self._scenery = Scenery(self._model)
        self._scene = np.zeros(2)
        self._renderer = LeanRenderer(self._model, image_size)
        self._image_size = image_size
        self._large_renderers: dict[int, LeanRenderer] = {}
        low, high = self._model.actuator_ctrlrange.T.astype(np.float32)
        self.cameras = one_camera(image_size)
        self.action_spec = ActionSpec(tuple(low.tolist()), tuple(high.tolist()), ("m/s", "m/s"), ("vx", "vy"))
        self.action_space = gymnasium.spaces.Box(low, high, dtype=np.float32)
        self.observation_space = observation_space(self.cameras, proprio_size=2)

    # --- gymnasium -------------------------------------------------------------------------------------------------

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """Place block and pusher at random, apart; or start from `options["state"]`, toward `options["goal"]`."""
        super().reset(seed=seed)
        state, goal = read_reset_options(options)
        self.set_state(self._random_state() if state is None else state)
        self.set_goal(goal)
        return self.observe(), self._info(self.get_state(), diverged=False)

    def step(self, action: NDArray[np.float32]) -> tuple[dict[str, Any], float, bool, bool, dict[str, Any]]:
        """Hold the velocity `action [2]` [m/s] for one control step. Raises UserError for a non-finite one."""
        action = np.asarray(action, np.float64)
        if action.shape != (2,) or not np.isfinite(action).all():
            raise UserError(f"action {action.tolist()} cannot be taken: expected 2 finite velocities in m/s")
        self._data.ctrl[:] = np.clip(action, self.action_space.low, self.action_space.high)
        mujoco.mj_step(self._model, self._data, nstep=self._substeps)
        if self._distractors:
            self._scene[1] += self.control_step_s
            self._scenery.move(self._data, self._scene[1])
        diverged = self._has_diverged()
        info = self._info(self.get_state(), diverged)
        return self.observe(), float(info["success"]), diverged, False, info

    def close(self) -> None:
        for renderer in (self._renderer, *self._large_renderers.values()):
            renderer.close()

    def _has_diverged(self) -> bool:
        # With auto-reset off, MuJoCo counts bad numbers and goes on; a position far outside is as bad.
        positions = self._data.qpos
        return not np.isfinite(self._data.qacc).all() or not (np.abs(positions[[0, 1, 3, 4]]) < ARENA_WIDTH).all()

    # --- state -----------------------------------------------------------------------------------------------------

    def _random_state(self) -> Floats:
        rng, state = self.np_random, np.zeros(12)
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
        return state

    def get_state(self) -> Floats:
        return np.concatenate([self._data.qpos, self._data.qvel, self._scene])

    def set_state(self, state: Floats) -> None:
        state = np.asarray(state, np.float64)
        if state.shape != (12,) or not np.isfinite(state).all():
            raise UserError(f"state of shape {state.shape} cannot be set: expected 12 finite numbers")
        mujoco.mj_resetData(self._model, self._data)
        self._data.qpos[:], self._data.qvel[:] = state[_POSITIONS], state[_VELOCITIES]
        self._scene[:] = state[_SCENE]
        self._scenery.arrange(self._data, int(self._scene[0]), self._scene[1])
        mujoco.mj_forward(self._model, self._data)

    def observe(self) -> dict[str, Any]:
        # mj_step leaves body poses one substep behind the joints that proprioception reads.
        mujoco.mj_kinematics(self._model, self._data)
        pixels = self._renderer.render(self._data, "top")
        return {"images": {self.cameras[0].name: pixels}, "proprio": self._data.qpos[3:5].astype(np.float32)}

    def render_state(self, state: Floats, camera: str | None = None, size: int | None = None) -> Pixels:
        require_camera(camera, self.cameras)
        size = size or self._image_size
        if size not in self._large_renderers:
            self._large_renderers[size] = LeanRenderer(self._model, size)
        present = self.get_state(), self._data.ctrl.copy(), self._data.time
        self.set_state(state)
        pixels = self._large_renderers[size].render(self._data, "top")
        self.set_state(present[0])
        self._data.ctrl[:], self._data.time = present[1:]
        return pixels

    # --- goals -----------------------------------------------------------------------------------------------------

    def goal_errors(self, states: Floats, goal: Floats) -> Mapping[str, Floats]:
        """Position error [cm] and yaw error [degrees], the latter at most 45 by the square's symmetry."""
        states, goal = np.asarray(states), np.asarray(goal)
        position = np.linalg.norm(states[..., :2] - goal[..., :2], axis=-1) * 100
        quarter = np.pi / 2
        yaw = np.abs((states[..., 2] - goal[..., 2] + quarter / 2) % quarter - quarter / 2)
        return {"position": position, "yaw": np.degrees(yaw)}

    def is_interesting(self, start: Floats, goal: Floats) -> bool:
        """The block moves at least 5 cm or turns at least 20 degrees, and the start is not a success already."""
        moved = np.linalg.norm(goal[:2] - start[:2]) >= 0.05
        turned = np.abs(goal[2] - start[2]) >= np.radians(20)
        return bool((moved or turned) and not self.is_success(start, goal))

    # --- exploration and simulation --------------------------------------------------------------------------------

    def explorer(self, rng: np.random.Generator) -> Explorer:
        low, high = (bound.astype(np.float32) for bound in (self.action_space.low, self.action_space.high))
        return SwitchingExplorer([SmoothRandomExplorer(low, high, rng), PushThroughExplorer(rng)], [0.25, 0.75], rng)

    def simulate(self, state: Floats, actions: Floats) -> Floats:
        actions = np.clip(np.asarray(actions, np.float64), self.action_space.low, self.action_space.high)
        start, scratch = mujoco.MjData(self._model), mujoco.MjData(self._model)
        start.qpos[:], start.qvel[:] = state[_POSITIONS], state[_VELOCITIES]
        physics = roll_out(self._model, start, scratch, actions, self._substeps)
        outside = ~(np.abs(physics[..., [0, 1, 3, 4]]) < ARENA_WIDTH).all(-1)  # NaN counts as outside
        physics[np.maximum.accumulate(outside, axis=1)] = np.nan
        scene = np.broadcast_to(state[_SCENE], (*physics.shape[:2], 2)).copy()
        if self._distractors:
            scene[..., 1] += self.control_step_s * np.arange(1, actions.shape[1] + 1)
        scene[np.isnan(physics[..., 0])] = np.nan
        return np.concatenate([physics, scene], axis=-1)

    def path_points(self, states: Floats) -> Mapping[str, Floats]:
        half_view = 1.46 * np.tan(np.radians(20.5 / 2))  # at half the height of the objects
        to_frame = np.array([0.5, -0.5]) / half_view
        return {"block": 0.5 + states[..., 0:2] * to_frame, "pusher": 0.5 + states[..., 3:5] * to_frame}

    @property
    def block_pose(self) -> Floats:
        """x, y [m] and yaw [rad] of the block."""
        return self._data.qpos[:3].copy()

    @property
    def pusher_position(self) -> Floats:
        """x, y [m] of the pusher."""
        return self._data.qpos[3:5].copy()


class PushThroughExplorer(Explorer):
    """Seeks contact: walks around the block to a random side of it and pushes through a random point of it.

    Where the push leads is left to chance; there is no goal. Sides from which the block could only be pressed against
    a wall are mostly passed over, and a push that has got stuck is given up: both teach little.
    """

    def __init__(self, rng: np.random.Generator) -> None:
        self._rng = rng
        self._steps_left = 0

    def _begin(self, block: Floats) -> None:
        rng, room = self._rng, ARENA_WIDTH / 2 - BLOCK_WIDTH / 2
        for _ in range(4):
            self._angle = rng.uniform(-np.pi, np.pi)  # side to push from, in the arena's frame
            self._side = np.array([np.cos(self._angle), np.sin(self._angle)])
            if (np.abs(block - 0.08 * self._side) < room).all():
                break
        self._aim = rng.uniform(-0.045, 0.045, 2)  # point of the block to push through [m]
        self._speed = rng.uniform(0.1, 0.4)
        self._noise = rng.uniform(0.0, 0.12)
        self._approaching, self._steps_left = True, int(rng.integers(8, 28))
        self._before: Floats | None = None

    def act(self, env: GoalEnv) -> NDArray[np.float32]:
        assert isinstance(env, PushEnv)
        block, pusher = env.block_pose[:2], env.pusher_position
        if self._steps_left == 0:
            self._begin(block)
        self._steps_left -= 1
        velocity = self._approach(block, pusher) if self._approaching else self._push(block, pusher)
        velocity = velocity + self._noise * self._rng.standard_normal(2)
        return np.clip(velocity, -0.4, 0.4).astype(np.float32)

    def _approach(self, block: Floats, pusher: Floats) -> Floats:
        """Velocity [m/s] toward a place beside the block, around it where it is in the way."""
        reach = ARENA_WIDTH / 2 - PUSHER_RADIUS
        target = np.clip(block + self._aim + 0.11 * self._side, -reach, reach)
        away = pusher - block
        if np.linalg.norm(target - pusher) < 0.03:
            self._approaching = False
        elif np.linalg.norm(away) < 0.115 and np.dot(away, self._side) < 0.05:
            tangent = np.array([-away[1], away[0]])
            target = pusher + tangent * np.sign(np.dot(tangent, target - pusher)) + 0.3 * away
        return self._limited((target - pusher) / 0.1, max(self._speed, 0.35))

    def _push(self, block: Floats, pusher: Floats) -> Floats:
        """Velocity [m/s] through the point of the block that was chosen."""
        stuck = self._before is not None and np.linalg.norm(pusher - self._before) < 0.15 * self._speed * 0.1
        self._before = pusher
        if stuck:
            self._steps_left = 0
        through = block + self._aim - pusher
        return self._limited(through * 100 if np.linalg.norm(through) > 0.03 else -self._side, self._speed)

    @staticmethod
    def _limited(velocity: Floats, speed: float) -> Floats:
        return velocity * min(1.0, speed / max(float(np.linalg.norm(velocity)), 1e-6))

"""The protocol of environments. Other code depends only on it.

Shapes: `H, W` image height and width in pixels, `P` proprioception, `A` action, `N` simulator state (all 1-D sizes),
`S` action sequences, `T` control steps.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import gymnasium
import numpy as np
from numpy.typing import NDArray

from envs.task import Explorer, Metric, Task, within_tolerance
from envs.world import Floats, Pixels, World, require_size
from worldmodel.core.errors import UserError, choices_message
from worldmodel.core.spec import ActionSpec, CameraSpec

__all__ = ["Explorer", "Floats", "GoalEnv", "Metric", "Pixels", "Task", "World"]


class GoalEnv(gymnasium.Env[dict[str, Any], NDArray[np.float32]]):
    """A world with a task, whose goals are images.

    Observations are `{"images": {camera: uint8 [H, W, 3]}, "proprio": float32 [P]}`, actions `float32 [A]` in physical
    units within `action_space`. `reset()` sets no goal unless `options={"state": ..., "goal": ...}` gives one.
    `info` holds `state` (float64 [N]), `success` (bool, False without a goal) and `diverged` (bool). A diverged
    simulation ends the episode (`terminated`) and returns the previous observation. Success does not end the episode,
    since staying at the goal counts too. The environment has no time limit. The caller sets the budget.

    Args:
        name: name of the folder of data and checkpoints.
        world: the simulation.
        task: success rule and exploration.
    """

    action_space: gymnasium.spaces.Box  # type: ignore[assignment]
    observation_space: gymnasium.spaces.Dict
    cameras: tuple[CameraSpec, ...]
    action_spec: ActionSpec
    metrics: tuple[Metric, ...]
    goal_kinds: tuple[str, ...] = ()
    control_step_s: float
    _goal: Floats | None = None

    def __init__(self, name: str, world: World, task: Task) -> None:
        self.name, self.world, self.task = name, world, task
        self.cameras, self.action_spec = world.cameras, world.action_spec
        self.control_step_s, self.metrics = world.control_step_s, task.metrics
        self.goal_kinds = task.goal_kinds
        low, high = self.action_spec.bounds
        self.action_space = gymnasium.spaces.Box(low, high, dtype=np.float32)
        self.observation_space = observation_space(self.cameras, world.proprio_size)

    # --- gymnasium -------------------------------------------------------------------------------------------------

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """Start at random, or from `options["state"]`, toward `options["goal"]` if it is given."""
        super().reset(seed=seed)
        state, goal = read_reset_options(options)
        if state is None:
            self.world.begin(self.np_random)
        else:
            self.set_state(state)
        self.set_goal(goal)
        return self.observe(), self._info(self.get_state(), diverged=False)

    def step(self, action: NDArray[np.float32]) -> tuple[dict[str, Any], float, bool, bool, dict[str, Any]]:
        """Hold `action [A]`, clipped to the bounds, for one control step. Raises UserError for a non-finite one."""
        taken = np.asarray(action, np.float64)
        self._require_action(taken)
        before = self.get_state()
        diverged = bool(self.world.advance(np.clip(taken, self.action_space.low, self.action_space.high)))
        state = self.get_state()
        if diverged:
            self.world.set_state(before)  # a state that is not finite cannot be rendered
        info = self._info(state, diverged)
        return self.observe(), float(info["success"]), diverged, False, info

    def close(self) -> None:
        self.world.close()

    def _require_action(self, action: Floats) -> None:
        if action.shape != self.action_space.shape or not np.isfinite(action).all():
            size = self.action_spec.size
            raise UserError(f"action {action.tolist()} cannot be taken: expected {size} finite numbers")

    def _info(self, state: Floats, diverged: bool) -> dict[str, Any]:
        """The `info` that `reset` and `step` return for the state `[N]`."""
        success = self._goal is not None and not diverged and bool(self.is_success(state, self._goal))
        return {"state": state, "success": success, "diverged": diverged}

    # --- simulator state -------------------------------------------------------------------------------------------

    def get_state(self) -> Floats:
        """The full state of the simulation, `[N]`."""
        return self.world.get_state()

    def set_state(self, state: Floats) -> None:
        """Restore a stored state `[N]`. Raises UserError for a wrong shape or a non-finite number."""
        state, size = np.asarray(state, np.float64), len(self.get_state())
        if state.shape != (size,) or not np.isfinite(state).all():
            raise UserError(f"state of shape {state.shape} cannot be set: expected {size} finite numbers")
        self.world.set_state(state)

    def observe(self) -> dict[str, Any]:
        """The observation of the present state, in new arrays that are not shared with the environment."""
        images = {camera.name: self.world.picture(camera) for camera in self.cameras}
        return {"images": images, "proprio": self.world.proprio()}

    def render_state(self, state: Floats, camera: str | None = None, size: int | None = None) -> Pixels:
        """Image `[H, W, 3]` of a stored state. The present state is unchanged.

        Args:
            state: `[N]`.
            camera: name of the camera, None for the first one.
            size: height of the image [pixels] in place of the camera's own. The width scales with it.

        Raises:
            UserError: for an unknown camera.
        """
        seen_by = find_camera(camera, self.cameras)
        if size is not None:
            seen_by = resized(seen_by, size)
        with self.world.visit(state):
            return self.world.picture(seen_by)

    def goal_images(self, state: Floats) -> dict[str, Pixels]:
        """Images of a stored state `[N]` by all cameras. They can be used as a goal."""
        with self.world.visit(state):
            return {camera.name: self.world.picture(camera) for camera in self.cameras}

    def simulate(self, state: Floats, actions: Floats) -> Floats:
        """States `[S, T, N]` after each of `actions [S, T, A]` from `state [N]`, without rendering. A diverged
        sequence is NaN from there on."""
        actions = np.clip(np.asarray(actions, np.float64), self.action_space.low, self.action_space.high)
        return self.world.simulate(np.asarray(state, np.float64), actions)

    # --- goals -----------------------------------------------------------------------------------------------------

    def set_goal(self, state: Floats | None) -> None:
        """Measure success against this state `[N]` from now on. None removes the goal."""
        self._goal = None if state is None else np.array(state, np.float64)

    def goal_errors(self, states: Floats, goal: Floats) -> Mapping[str, Floats]:
        """Error `[...]` of `states [..., N]` against `goal [N]` or `[..., N]`, by metric and in its unit."""
        return self.task.errors(states, goal)

    def is_success(self, states: Floats, goal: Floats, scale: float = 1.0) -> NDArray[np.bool_]:
        """Whether each of `states [..., N]` meets `scale` times every metric's tolerance, `[...]`."""
        return within_tolerance(self.goal_errors(states, goal), self.metrics, scale)

    def goal_cost(self, states: Floats, goal: Floats) -> Floats:
        """Sum `[...]` of squared errors, each in units of its tolerance, and of `Task.approach`. The oracle's planner
        minimises it."""
        errors, task = self.goal_errors(states, goal), getattr(self, "task", None)  # as in `draw_pair`
        cost: Floats = np.add.reduce([(errors[m.name] / m.tolerance) ** 2 for m in self.metrics])
        return cost + task.approach(states, goal) if isinstance(task, Task) else cost

    def is_interesting(self, start: Floats, goal: Floats) -> bool:
        """Whether going from `start [N]` to `goal [N]` is worth evaluating, because enough has moved."""
        return bool(self.task.is_interesting(start, goal))

    def draw_pair(self, rng: np.random.Generator) -> tuple[Floats, Floats] | None:
        """Start and goal `[N]` of an evaluation by the task's own draw, or None. See `Task.draw_pair`."""
        task: Task | None = getattr(self, "task", None)  # an environment may do all of a task's work itself
        return None if task is None else task.draw_pair(rng)

    def goal_kind(self, start: Floats, goal: Floats) -> str:
        """Which of `goal_kinds` the goal `[N]` is. Empty text for none of them."""
        return self.task.goal_kind(start, goal)

    def explorer(self, rng: np.random.Generator, shares: Mapping[str, float] | None = None) -> Explorer:
        """A fresh exploration policy for one episode.

        Args:
            rng: source of randomness.
            shares: shares of kinds of exploration (`Task.exploration`), None for the task's own.

        Raises:
            UserError: for shares that the task does not accept.
        """
        return self.task.explorer(rng) if shares is None else self.task.explorer_with(rng, shares)

    def path_points(self, states: Floats) -> Mapping[str, Floats]:
        """Paths for plots of `states [..., N]`: name → `[..., 2]` (column, row) in fractions of the first camera's
        image."""
        return self.task.path_points(states)


def read_reset_options(options: Mapping[str, Any] | None) -> tuple[Floats | None, Floats | None]:
    """`state` and `goal` from the options of `reset`, or None. Raises UserError for other keys."""
    given = dict(options or {})
    for key in given:
        if key not in ("state", "goal"):
            raise UserError(choices_message("reset option", key, ("state", "goal")))
    return given.get("state"), given.get("goal")


def observation_space(cameras: Sequence[CameraSpec], proprio_size: int) -> gymnasium.spaces.Dict:
    """The space of an environment's observations."""
    images: dict[str, gymnasium.Space[Any]] = {
        camera.name: gymnasium.spaces.Box(0, 255, camera.shape, np.uint8) for camera in cameras
    }
    proprio = gymnasium.spaces.Box(-np.inf, np.inf, (proprio_size,), np.float32)
    return gymnasium.spaces.Dict(images=gymnasium.spaces.Dict(images), proprio=proprio)


def find_camera(name: str | None, cameras: Sequence[CameraSpec]) -> CameraSpec:
    """The camera called `name`, or the first one for None. Raises UserError for an unknown name."""
    for camera in cameras:
        if name in (None, camera.name):
            return camera
    raise UserError(choices_message("camera", name, [camera.name for camera in cameras]))


def resized(camera: CameraSpec, height: int) -> CameraSpec:
    """The same view, `height` pixels high. Raises UserError for a size that cannot be drawn."""
    width = max(1, round(height * camera.width / camera.height))
    require_size(height, width, "size")
    return dataclasses.replace(camera, height=height, width=width)

"""Any task of the DeepMind Control Suite behind the protocol (Tassa et al. 2018, arXiv:1801.00690).

The suite's reward is not used: the task is to bring the robot's joints to where they are in a goal picture.
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

import gymnasium
import mujoco
import numpy as np
from dm_control import suite
from numpy.typing import NDArray

from envs.exploration import SmoothRandomExplorer
from envs.joints import Encoders, Joint, choose_joints
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
from envs.simulation import MAX_FINITE, roll_out
from envs.view import MarkerView, hide_goal, lighten
from worldmodel.core.errors import UserError, choices_message
from worldmodel.core.spec import ActionSpec, one_camera

_DIVERGENCE = [
    int(mujoco.mjtWarning.mjWARN_BADQPOS),
    int(mujoco.mjtWarning.mjWARN_BADQVEL),
    int(mujoco.mjtWarning.mjWARN_BADQACC),
]


@dataclasses.dataclass(frozen=True)
class DmControlConfig:
    """Which task, and how it is seen.

    Attributes:
        domain: the suite's domain, for example `cartpole`.
        task: a task of that domain, for example `swingup`.
        name: what data and checkpoints are filed under; `<domain>_<task>` if empty.
        image_size: height and width of the frames [pixels].
        camera: name or number of one of the task's cameras.
        fovy: vertical field of view [degrees]; None keeps the camera's own.
        action_repeat: how many of the task's control time-steps one action lasts.
        action_units: unit of one unit of each action dimension; `control` for all if empty.
        success_joints: hinge and slide joints that have to match the goal; all actuated ones if empty.
        tolerance_rad: largest error of a hinge that counts as success.
        tolerance_m: largest error of a slide that counts as success.
        min_change_rad: a goal is interesting when a hinge is at least this far from it,
        min_change_m: or a slide this far.
        marker: geom, site or body whose path plots show; the body of the last success joint if empty.
        hidden: beginnings of the names of what shows the suite's own goal; it is not drawn.
    """

    domain: str
    task: str
    name: str = ""
    image_size: int = 64
    camera: int | str = 0
    fovy: float | None = None
    action_repeat: int = 1
    action_units: tuple[str, ...] = ()
    success_joints: tuple[str, ...] = ()
    tolerance_rad: float = 0.1
    tolerance_m: float = 0.02
    min_change_rad: float = 0.5
    min_change_m: float = 0.1
    marker: str = ""
    hidden: tuple[str, ...] = ("target",)

    def __post_init__(self) -> None:
        tasks = sorted(task for domain, task in suite.ALL_TASKS if domain == self.domain)
        if not tasks:
            raise UserError(choices_message("dm_control domain", self.domain, {d for d, _ in suite.ALL_TASKS}))
        if self.task not in tasks:
            raise UserError(choices_message(f"task of dm_control domain {self.domain}", self.task, tasks))
        for key in ("image_size", "action_repeat"):
            if type(getattr(self, key)) is not int or getattr(self, key) < 1:
                raise UserError(f"{key} {getattr(self, key)!r} cannot be used: expected a whole number of at least 1")
        for key in ("tolerance_rad", "tolerance_m", "min_change_rad", "min_change_m"):
            if not isinstance(getattr(self, key), int | float) or not getattr(self, key) > 0:
                raise UserError(f"{key} {getattr(self, key)!r} cannot be used: expected a number above 0")
        if self.fovy is not None and not (isinstance(self.fovy, int | float) and 0 < self.fovy < 180):
            raise UserError(f"fovy {self.fovy!r} cannot be used: expected degrees between 0 and 180")


class DmControlEnv(GoalEnv):
    """A dm_control suite task whose goal is a pose of its actuated joints.

    Action `[A]`: the task's control signal, within its limits (±1 where it has none). Proprioception `[P]`: the
    motors' encoders (`envs.joints.Encoders`). State `[N]`: `qpos`, `qvel`, `act`, and, only for tasks that draw
    something else anew in every episode (terrain, gains), the seed it was drawn from. Success: each success joint
    within its tolerance of the goal, [rad] for hinges and [cm] for slides.

    Raises:
        UserError: for an unknown domain, task, camera, joint or marker.
    """

    def __init__(self, config: DmControlConfig) -> None:
        self.name = config.name or f"{config.domain}_{config.task}"
        self._config = config
        task_env = suite.load(config.domain, config.task, task_kwargs={"random": 0})
        self._task, self._physics = task_env.task, task_env.physics
        self.model, self._data = self._physics.model.ptr, self._physics.data.ptr
        self._scratch = mujoco.MjData(self.model)
        self._substeps = round(task_env.control_timestep() / self.model.opt.timestep) * config.action_repeat
        self.control_step_s = float(self._substeps * self.model.opt.timestep)
        # Without the solver's memory of its last solution the future depends on the state alone, bit for bit.
        self.model.opt.disableflags |= mujoco.mjtDisableBit.mjDSBL_AUTORESET | mujoco.mjtDisableBit.mjDSBL_WARMSTART
        lighten(self.model)
        self._encoders = Encoders(self.model)
        self._success_joints = choose_joints(self.model, config.success_joints)
        marker = config.marker or self.model.body(self._success_joints[-1].body).name
        self._view = MarkerView(self.model, config.camera, config.fovy, marker)
        self.metrics = tuple(_metric(joint, config) for joint in self._success_joints)
        self._renderers: dict[int, LeanRenderer] = {config.image_size: LeanRenderer(self.model, config.image_size)}
        self._nominal = copy.copy(self.model)
        self._variation = 0
        self._varies = self._draw(1) != self._draw(2)
        self._load(self.get_state())
        self._make_spaces()

    def _make_spaces(self) -> None:
        spec, config = self._task.action_spec(self._physics), self._config
        low = np.where(spec.minimum > -MAX_FINITE, spec.minimum, -1).astype(np.float32)
        high = np.where(spec.maximum < MAX_FINITE, spec.maximum, 1).astype(np.float32)
        units = config.action_units or ("control",) * len(low)
        if len(units) != len(low):
            raise UserError(f"action_units {list(units)} do not fit {self.name}: expected {len(low)} units")
        names = tuple(self.model.actuator(i).name or f"action_{i}" for i in range(len(low)))
        self.action_spec = ActionSpec(tuple(low.tolist()), tuple(high.tolist()), units, names)
        self.cameras = one_camera(config.image_size)
        self.action_space = gymnasium.spaces.Box(low, high)
        self.observation_space = observation_space(self.cameras, self._encoders.size)

    def _draw(self, seed: int) -> bytes:
        """Begin the suite's episode `seed`. Returns the model it made, in which the hidden goal leaves no trace."""
        self._variation = seed
        self._task.random.seed(seed)
        with self._physics.reset_context():
            self._task.initialize_episode(self._physics)
        hide_goal(self.model, self._nominal, self._config.hidden)
        if self.model.nhfield:  # terrain lives on in the graphics contexts: make them anew
            self.close()
        buffer = np.empty(mujoco.mj_sizeModel(self.model), np.uint8)
        mujoco.mj_saveModel(self.model, None, buffer)
        return buffer.tobytes()

    # --- gymnasium -------------------------------------------------------------------------------------------------

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """Begin as the suite's task does; or start from `options["state"]`, toward `options["goal"]`."""
        super().reset(seed=seed)
        state, goal = read_reset_options(options)
        if state is None:
            self._draw(int(self.np_random.integers(2**31)))
            self._load(self.get_state())
        else:
            self.set_state(state)
        self.set_goal(goal)
        return self.observe(), self._info(self.get_state(), diverged=False)

    def step(self, action: NDArray[np.float32]) -> tuple[dict[str, Any], float, bool, bool, dict[str, Any]]:
        """Hold the control `action [A]` for one control step. Raises UserError for a non-finite one.

        When the simulation diverges the observation is the one before the step: the one after has no picture.
        """
        action = np.asarray(action, np.float64)
        if action.shape != self.action_space.shape or not np.isfinite(action).all():
            bad = ", ".join(map(str, np.flatnonzero(~np.isfinite(action))))
            where = f" (dimension {bad} is not finite)" if bad else ""
            wanted = f"{self.model.nu} finite numbers"
            raise UserError(f"action {action.tolist()} cannot be taken{where}: expected {wanted}")
        before = self.get_state()
        self._data.ctrl[:] = np.clip(action, self.action_space.low, self.action_space.high)
        mujoco.mj_step(self.model, self._data, nstep=self._substeps)
        mujoco.mj_step1(self.model, self._data)  # body poses and sensors lag one substep behind the joints
        after, diverged = self.get_state(), self._has_diverged()
        if diverged:
            self._load(before)
        info = self._info(after, diverged)
        return self.observe(), float(info["success"]), diverged, False, info

    def close(self) -> None:
        for renderer in self._renderers.values():
            renderer.close()

    def _has_diverged(self) -> bool:
        # With auto-reset off, MuJoCo counts bad numbers and goes on.
        return bool(self._data.warning.number[_DIVERGENCE].any()) or not np.isfinite(self._data.qpos).all()

    # --- state -----------------------------------------------------------------------------------------------------

    def get_state(self) -> Floats:
        variation = [self._variation] if self._varies else []
        return np.concatenate([self._data.qpos, self._data.qvel, self._data.act, variation])

    def set_state(self, state: Floats) -> None:
        """Return to a stored instant `[N]`. Raises UserError for a wrong shape or a non-finite number."""
        state, size = np.asarray(state, np.float64), len(self.get_state())
        if state.shape != (size,) or not np.isfinite(state).all():
            raise UserError(f"state of shape {state.shape} cannot be set: expected {size} finite numbers")
        self._load(state)

    def _load(self, state: Floats) -> None:
        if self._varies and int(state[-1]) != self._variation:
            self._draw(int(state[-1]))
        mujoco.mj_resetData(self.model, self._data)
        nq, nv, na = self.model.nq, self.model.nv, self.model.na
        self._data.qpos[:], self._data.qvel[:] = state[:nq], state[nq : nq + nv]
        self._data.act[:] = state[nq + nv : nq + nv + na]
        mujoco.mj_forward(self.model, self._data)

    @contextlib.contextmanager
    def _visit(self, state: Floats) -> Iterator[None]:
        """Be in `state` for a while."""
        present = self.get_state()
        self.set_state(state)
        try:
            yield
        finally:
            self._load(present)

    def observe(self) -> dict[str, Any]:
        pixels = self._renderers[self._config.image_size].render(self._data, self._view.camera)
        return {"images": {self.cameras[0].name: pixels}, "proprio": self._encoders.read(self._data)}

    def render_state(self, state: Floats, camera: str | None = None, size: int | None = None) -> Pixels:
        require_camera(camera, self.cameras)
        size = size or self._config.image_size
        if size not in self._renderers:
            self._renderers[size] = LeanRenderer(self.model, size)
        with self._visit(state):
            return self._renderers[size].render(self._data, self._view.camera)

    # --- goals -----------------------------------------------------------------------------------------------------

    def goal_errors(self, states: Floats, goal: Floats) -> Mapping[str, Floats]:
        """Per success joint its error `[...]`: [rad] for hinges, the short way round if periodic, [cm] for slides."""
        states, goal = np.asarray(states, np.float64), np.asarray(goal, np.float64)
        return {
            joint.name: joint.error(states[..., joint.position], goal[..., joint.position])
            * (1 if joint.is_hinge else 100)
            for joint in self._success_joints
        }

    def is_interesting(self, start: Floats, goal: Floats) -> bool:
        """Some success joint has to move by at least the configured change, and the start is not a success already."""
        config, moved = self._config, False
        for joint in self._success_joints:
            change = joint.error(start[..., joint.position], goal[..., joint.position])
            moved |= bool(change >= (config.min_change_rad if joint.is_hinge else config.min_change_m))
        return moved and not bool(self.is_success(start, goal))

    # --- exploration and simulation --------------------------------------------------------------------------------

    def explorer(self, rng: np.random.Generator) -> Explorer:
        low, high = self.action_space.low.astype(np.float32), self.action_space.high.astype(np.float32)
        return SmoothRandomExplorer(low, high, rng)

    def simulate(self, state: Floats, actions: Floats) -> Floats:
        actions = np.clip(np.asarray(actions, np.float64), self.action_space.low, self.action_space.high)
        with self._visit(state):
            physics = roll_out(self.model, self._data, self._scratch, actions, self._substeps)
        variation = np.full((*physics.shape[:-1], int(self._varies)), state[-1])
        states = np.concatenate([physics, variation], axis=-1)
        states[np.isnan(physics).any(-1)] = np.nan
        return states

    def path_points(self, states: Floats) -> Mapping[str, Floats]:
        states = np.asarray(states, np.float64)
        flat = states.reshape(-1, states.shape[-1])
        points = np.full((len(flat), 2), np.nan)
        for point, state in zip(points, flat, strict=True):
            if np.isfinite(state).all():
                self._scratch.qpos[:] = state[: self.model.nq]
                point[:] = self._view.project(self._scratch)
        return {self._view.marker: points.reshape(*states.shape[:-1], 2)}


def _metric(joint: Joint, config: DmControlConfig) -> Metric:
    if joint.is_hinge:
        return Metric(joint.name, "rad", config.tolerance_rad)
    return Metric(joint.name, "cm", 100 * config.tolerance_m)

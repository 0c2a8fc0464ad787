"""Any task of the DeepMind Control Suite behind the protocol (Tassa et al. 2018, arXiv:1801.00690).

The suite's reward is not used. The task is to bring the robot's joints to their positions in a goal image.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import mujoco
import numpy as np
from dm_control import suite

from envs.cameras import CameraConfig, read_cameras
from envs.drawn_world import DrawnWorld
from envs.exploration import SmoothRandomExplorer
from envs.joints import Joint, choose_joints
from envs.protocol import GoalEnv, Metric
from envs.registry import EnvFamily
from envs.simulation import MAX_FINITE
from envs.task import CriteriaTask, Criterion
from envs.view import Marker, MarkerPaths
from worldmodel.core.errors import UserError, choices_message
from worldmodel.core.spec import ActionSpec


@dataclasses.dataclass(frozen=True)
class DmControlConfig:
    """The task, its success rule and its cameras.

    Attributes:
        domain: the suite's domain, for example `cartpole`.
        task: a task of that domain, for example `swingup`.
        name: name of the folder of data and checkpoints, `<domain>_<task>` if empty.
        image_size: height and width of the frames [pixels].
        camera: name or number of one of the task's cameras.
        fovy: vertical field of view [degrees], None for the camera's own.
        cameras: several cameras, each with the fields of `envs.cameras.CameraConfig`, in place of `image_size`,
            `camera` and `fovy`.
        action_repeat: number of the task's own control steps that one action lasts.
        action_units: physical unit of each action dimension, `control` for all if empty.
        success_joints: hinge and slide joints that must match the goal, all actuated ones if empty.
        tolerance_rad: largest error of a hinge that counts as success.
        tolerance_m: largest error of a slide that counts as success.
        min_change_rad: change of a hinge from start to goal that makes the goal interesting.
        min_change_m: change of a slide from start to goal that makes the goal interesting.
        marker: geom, site or body whose path is shown in plots, the body of the last success joint if empty.
        hidden: prefixes of the names of objects that show the suite's own goal. These objects are not drawn.
    """

    domain: str
    task: str
    name: str = ""
    image_size: int = 64
    camera: int | str = 0
    fovy: float | None = None
    cameras: tuple[Any, ...] = ()
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
        assert self.views  # raises for cameras that cannot be used

    @property
    def views(self) -> tuple[CameraConfig, ...]:
        """The cameras."""
        if self.cameras:
            return read_cameras(self.cameras)
        return (CameraConfig(height=self.image_size, camera=self.camera, fovy=self.fovy),)


class DmControlEnv(GoalEnv):
    """A dm_control suite task whose goal is a pose of its actuated joints.

    Action `[A]`: the task's control signal, within its limits (±1 where it has none). Proprioception `[P]`: the
    motors' encoders (`envs.joints.Encoders`). State `[N]`: `qpos`, `qvel`, `act`, and, only for tasks that randomise
    something else in every episode (terrain, gains), its seed. Success: each success joint is within its tolerance of
    the goal, [rad] for hinges and [cm] for slides.

    Raises:
        UserError: for an unknown domain, task, camera, joint or marker.
    """

    def __init__(self, config: DmControlConfig) -> None:
        world = SuiteWorld(config)
        super().__init__(config.name or f"{config.domain}_{config.task}", world, _pose_task(world, config))

    @property
    def model(self) -> mujoco.MjModel:
        """The MuJoCo model."""
        assert isinstance(self.world, SuiteWorld)
        return self.world.model


class SuiteWorld(DrawnWorld):
    """The simulation of a task of the suite. Objects that show the task's own goal are hidden."""

    def __init__(self, config: DmControlConfig) -> None:
        task_env = suite.load(config.domain, config.task, task_kwargs={"random": 0})
        self._task, self._physics = task_env.task, task_env.physics
        model, data = self._physics.model.ptr, self._physics.data.ptr
        substeps = round(task_env.control_timestep() / model.opt.timestep) * config.action_repeat
        action, step_s = self._action_spec(model, config), float(substeps * model.opt.timestep)
        super().__init__(model, data, step_s, config.views, action, config.hidden)

    def _action_spec(self, model: mujoco.MjModel, config: DmControlConfig) -> ActionSpec:
        spec = self._task.action_spec(self._physics)
        low = np.where(spec.minimum > -MAX_FINITE, spec.minimum, -1).astype(np.float32)
        high = np.where(spec.maximum < MAX_FINITE, spec.maximum, 1).astype(np.float32)
        units = config.action_units or ("control",) * len(low)
        if len(units) != len(low):
            raise UserError(f"action_units {list(units)} do not fit {config.domain}: expected {len(low)} units")
        names = tuple(model.actuator(i).name or f"action_{i}" for i in range(len(low)))
        return ActionSpec(tuple(low.tolist()), tuple(high.tolist()), units, names)

    def initialise(self, seed: int) -> None:
        self._task.random.seed(seed)
        with self._physics.reset_context():
            self._task.initialize_episode(self._physics)


def _pose_task(world: SuiteWorld, config: DmControlConfig) -> CriteriaTask:
    """The task to bring each success joint to its position in the goal."""
    joints = choose_joints(world.model, config.success_joints)
    marker = Marker(world.model, config.marker or world.model.body(joints[-1].body).name)
    low, high = world.action_spec.bounds
    return CriteriaTask(
        [_criterion(joint, config) for joint in joints],
        lambda rng: SmoothRandomExplorer(low, high, rng),
        MarkerPaths(world.model, world.views[0], [marker]),
    )


def _criterion(joint: Joint, config: DmControlConfig) -> Criterion:
    """The error of `joint`, in [rad] the shorter way round for a hinge without limits, or in [cm] for a slide."""
    scale, unit = (1, "rad") if joint.is_hinge else (100, "cm")
    tolerance, change = (
        (config.tolerance_rad, config.min_change_rad) if joint.is_hinge else (config.tolerance_m, config.min_change_m)
    )
    return Criterion(
        Metric(joint.name, unit, scale * tolerance),
        lambda states, goal: scale * joint.error(states[..., joint.position], goal[..., joint.position]),
        scale * change,
    )


FAMILY = EnvFamily(DmControlConfig, DmControlEnv)

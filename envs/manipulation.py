"""Any task of dm_control.manipulation, in which a Kinova Jaco arm handles bricks and boxes.

The task's own reward is not used. The task is to bring its objects to their places in a goal image.
"""

from __future__ import annotations

import dataclasses
import logging
from typing import Any, Final

import mujoco
import numpy as np
from dm_control import manipulation

from envs.cameras import CameraConfig, read_cameras
from envs.drawn_world import DrawnWorld
from envs.exploration import SmoothRandomExplorer
from envs.measures import PointPosition
from envs.protocol import Floats, GoalEnv, Metric
from envs.registry import EnvFamily
from envs.task import CriteriaTask, Criterion
from envs.view import Marker, MarkerPaths
from worldmodel.core.errors import UserError, choices_message
from worldmodel.core.spec import ActionSpec

_FEATURES: Final = "_features"  # the variant without images, which are rendered here
TASKS: Final = tuple(name.removesuffix(_FEATURES) for name in manipulation.ALL if name.endswith(_FEATURES))
_HAND = "jaco_arm/jaco_hand/pinchsite"  # what has to match the goal in a task without movable objects


@dataclasses.dataclass(frozen=True)
class ManipulationConfig:
    """The task, its success rule and its cameras.

    Attributes:
        task: a task of dm_control.manipulation without its suffix, for example `place_brick`.
        name: name of the folder of data and checkpoints, `manipulation_<task>` if empty.
        image_size: height and width of the frames [pixels].
        camera: name or number of one of the task's cameras.
        cameras: several cameras, each with the fields of `envs.cameras.CameraConfig`, in place of these two.
        action_repeat: number of the task's own control steps that one action lasts, 0.04 s each.
        tolerance_m: largest distance of an object from its goal that counts as success.
        min_change_m: a goal is used if an object has to move at least this far.
        hidden: prefixes of the names of objects that show the task's own goal. These objects are not drawn.
    """

    task: str
    name: str = ""
    image_size: int = 64
    camera: int | str = "front_close"
    cameras: tuple[Any, ...] = ()
    action_repeat: int = 2
    tolerance_m: float = 0.03
    min_change_m: float = 0.05
    hidden: tuple[str, ...] = ("target",)

    def __post_init__(self) -> None:
        if self.task not in TASKS:
            raise UserError(choices_message("task of dm_control.manipulation", self.task, TASKS))
        if self.action_repeat < 1:
            raise UserError(f"action_repeat {self.action_repeat}: expected a whole number of at least 1")
        for key in ("tolerance_m", "min_change_m"):
            if not getattr(self, key) > 0:
                raise UserError(f"{key} {getattr(self, key)!r} cannot be used: expected metres, above 0")
        assert self.views  # raises for cameras that cannot be used

    @property
    def views(self) -> tuple[CameraConfig, ...]:
        """The cameras."""
        if self.cameras:
            return read_cameras(self.cameras)
        return (CameraConfig(height=self.image_size, camera=self.camera),)


class ManipulationWorld(DrawnWorld):
    """The simulation of one task. Its model is compiled once, and its episodes begin as dm_control's do.

    Action `[A]`: velocities of the arm's and the fingers' joints [rad/s]. Proprioception `[P]`: the motors' encoders.
    """

    def __init__(self, config: ManipulationConfig) -> None:
        task_env = manipulation.load(config.task + _FEATURES, seed=0)
        task_env.reset()
        self._inner = task_env  # `physics` is a weak reference into it
        self._task, self._physics = task_env.task, task_env.physics
        model, data = self._physics.model.ptr, self._physics.data.ptr
        substeps = round(task_env.control_timestep() / model.opt.timestep) * config.action_repeat
        low, high = model.actuator_ctrlrange.T.astype(np.float32)
        names = tuple(model.actuator(number).name.rpartition("/")[2] for number in range(model.nu))
        action = ActionSpec(tuple(low.tolist()), tuple(high.tolist()), ("rad/s",) * model.nu, names)
        step_s = float(substeps * model.opt.timestep)
        super().__init__(model, data, step_s, config.views, action, config.hidden)

    def initialise(self, seed: int) -> None:
        # It logs every draw of a pose that the arm cannot reach, after which it draws another one.
        logger = logging.getLogger("absl")
        level = logger.level
        logger.setLevel(logging.ERROR)
        try:
            with self._physics.reset_context():
                self._task.initialize_episode(self._physics, np.random.RandomState(seed))
        finally:
            logger.setLevel(level)


class ManipulationEnv(GoalEnv):
    """A task of dm_control.manipulation whose goal is where its movable objects are.

    Success: each object is within its tolerance of its goal. If nothing can be moved, the hand has to be.
    """

    def __init__(self, config: ManipulationConfig) -> None:
        world = ManipulationWorld(config)
        model, (low, high) = world.model, world.action_spec.bounds
        names = _movable(model)
        task = CriteriaTask(
            [_criterion(model, name, config) for name in names],
            lambda rng: SmoothRandomExplorer(low, high, rng),
            MarkerPaths(model, world.views[0], [Marker(model, name) for name in names]),
        )
        super().__init__(config.name or f"manipulation_{config.task}", world, task)


def _movable(model: mujoco.MjModel) -> list[str]:
    """Names of the bodies that move freely, or else the hand."""
    free = [number for number in range(model.njnt) if model.jnt_type[number] == mujoco.mjtJoint.mjJNT_FREE]
    return [model.body(model.jnt_bodyid[number]).name for number in free] or [_HAND]


def _criterion(model: mujoco.MjModel, name: str, config: ManipulationConfig) -> Criterion:
    measure = PointPosition(model, name)

    def error(states: Floats, goal: Floats) -> Floats:
        return 100 * measure.error(measure.values(states), measure.values(goal))

    metric = Metric(name.strip("/").rpartition("/")[2], "cm", 100 * config.tolerance_m)
    return Criterion(metric, error, 100 * config.min_change_m)


FAMILY = EnvFamily(ManipulationConfig, ManipulationEnv)

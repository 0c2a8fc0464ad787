"""Any environment of Gymnasium as a task with goal images.

An environment in MuJoCo needs only a configuration. Any other environment also needs two functions, which read and set
its state. The environment's reward, termination and time limit are not used.

Example:
    FETCH = GymConfig(
        id="gymnasium_robotics:FetchPush-v4",
        success=({"of": "body:object0", "unit": "cm", "tolerance": 5, "min_change": 5},),
        proprio=("site:robot0:grip",),
        hidden=("target0",),
        cameras=({"lookat": [1.32, 0.75, 0.45], "distance": 0.95, "azimuth": 180, "elevation": -45},),
    )
    env = GymGoalEnv(FETCH)
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import gymnasium
import yaml

from envs.cameras import CameraConfig, read_cameras
from envs.exploration import CommandExplorer
from envs.gym_hooks import HookedWorld, Hooks
from envs.gym_mujoco import GymMujocoWorld
from envs.measures import find_measure, make_criterion
from envs.protocol import Floats, GoalEnv
from envs.registry import EnvFamily, with_defaults
from envs.task import CriteriaTask
from envs.view import Marker, MarkerPaths
from worldmodel.core.errors import UserError, how_to_install
from worldmodel.core.options import from_config
from worldmodel.core.spec import ActionSpec


@dataclasses.dataclass(frozen=True)
class GymConfig:
    """Which environment, how it is seen and commanded, and when it is as in the goal.

    Attributes:
        id: as `gymnasium.make` takes it; `package:Id-v0` imports the package that registers it.
        name: what data and checkpoints are filed under; made from the id if empty.
        make: further arguments of `gymnasium.make`.
        cameras: each with the fields of `envs.cameras.CameraConfig`.
        action: fields of `worldmodel.core.spec.ActionSpec`. `low` and `high`, in physical units, stand for the bounds
            of the environment's own action space; without them the numbers stay as they are.
        proprio: quantities that the robot reads of itself (`envs.measures.find_measure`); empty: the motors' encoders.
        success: what has to be as in the goal, each with the fields of `envs.measures.CriterionConfig`.
        hidden: beginnings of the names of geoms, sites, bodies and lights that show the environment's own goal.
        paths: bodies, sites or geoms whose paths plots show; those of `success` if empty.
        control_step_s: how long one action lasts [s]; None: as the environment says.
    """

    id: str
    name: str = ""
    make: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    cameras: tuple[Any, ...] = (CameraConfig(),)
    action: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    proprio: tuple[str, ...] = ()
    success: tuple[Any, ...] = ()
    hidden: tuple[str, ...] = ()
    paths: tuple[str, ...] = ()
    control_step_s: float | None = None

    def __post_init__(self) -> None:
        if not self.success:
            raise UserError(f"success of {self.id} is empty: expected at least one quantity that has to match the goal")
        assert self.views  # refuses cameras that cannot be used

    @property
    def views(self) -> tuple[CameraConfig, ...]:
        """The cameras, one or several."""
        return read_cameras(self.cameras)

    @property
    def title(self) -> str:
        """The name, or what the id says: `FetchPush-v4` is `fetchpush_v4`."""
        return self.name or re.sub(r"\W+", "_", self.id.rpartition(":")[2].rpartition("/")[2]).lower()


class GymGoalEnv(GoalEnv):
    """An environment of Gymnasium.

    In MuJoCo, the state `[N]` is `qpos`, `qvel`, `act`, and where there are any, positions and orientations of mocap
    bodies. What else an environment changes in its model from episode to episode is not part of it.

    Args:
        config: see there.
        hooks: for an environment that is not in MuJoCo.

    Raises:
        UserError: for an id that is not registered, an environment that is not in MuJoCo and has no hooks, a name that
            its model does not have, or values that do not fit it.
    """

    def __init__(self, config: GymConfig, hooks: Hooks | None = None) -> None:
        inner = _make(config, hooks)
        action = _action_spec(config, inner)
        world: GymMujocoWorld | HookedWorld
        if hooks is None:
            world = GymMujocoWorld(inner, config.views, action, config.hidden)
            model = world.model
        else:
            world, model = HookedWorld(inner, hooks, config.views, action), None
        step_s = world.control_step_s if config.control_step_s is None else config.control_step_s
        world.control_step_s = step_s
        if config.proprio:
            world.read_proprio([find_measure(text, model) for text in config.proprio])
        task = CriteriaTask(
            [make_criterion(values, model) for values in config.success],
            lambda rng: CommandExplorer(action, step_s, rng),
            _paths(world, config) if isinstance(world, GymMujocoWorld) else world.paths,
        )
        super().__init__(config.title, world, task)


def gym_family(config: GymConfig | Path, hooks: Hooks | None = None) -> EnvFamily:
    """A task for `register("env", name, ...)`, given as a configuration or as a YAML file of one.

    Raises:
        UserError: for a file with options that are none.
    """
    if isinstance(config, Path):
        config = from_config(GymConfig, yaml.safe_load(config.read_text()), config.name)
    values = {field.name: getattr(config, field.name) for field in dataclasses.fields(config)}
    values |= {"name": config.title, "cameras": [dataclasses.asdict(camera) for camera in config.views]}
    return EnvFamily(with_defaults(GymConfig, values), lambda options: GymGoalEnv(options, hooks))


def _make(config: GymConfig, hooks: Hooks | None) -> gymnasium.Env[Any, Any]:
    # Ours render; theirs would open a context for nothing, and make every step slower.
    render_mode = "rgb_array" if hooks is not None else None
    try:
        made = gymnasium.make(config.id, **{"render_mode": render_mode, "disable_env_checker": True, **config.make})
    except (ImportError, gymnasium.error.Error) as error:
        if getattr(error, "name", None) == "imageio":  # gymnasium's own MuJoCo environments need it
            raise UserError(f"{config.id} needs the extra 'gym': {how_to_install('gym')}") from error
        raise UserError(f"gymnasium cannot make {config.id}: {' '.join(str(error).split())}") from error
    inner = made.unwrapped  # without its time limit and its checks
    if not isinstance(inner.action_space, gymnasium.spaces.Box) or inner.action_space.shape is None:
        raise UserError(f"{config.id} has the action space {inner.action_space}: expected a Box")
    if len(inner.action_space.shape) != 1:
        raise UserError(f"{config.id} has actions of shape {inner.action_space.shape}: expected one dimension")
    if hooks is None and not hasattr(inner, "model"):
        raise UserError(f"{config.id} is not in MuJoCo: expected an environment that is, or hooks that know its state")
    return inner


def _action_spec(config: GymConfig, inner: gymnasium.Env[Any, Any]) -> ActionSpec:
    space = inner.action_space
    assert isinstance(space, gymnasium.spaces.Box)
    values = dict(config.action)
    if "low" not in values and "high" not in values:
        values |= {"low": space.low.tolist(), "high": space.high.tolist()}
    values.setdefault("units", ["control"] * len(values.get("low", [])))
    spec = ActionSpec.from_dict(values)
    if spec.size != space.shape[0]:
        raise UserError(f"action of {config.id} has {spec.size} dimensions: expected {space.shape[0]}")
    return spec


def _paths(world: GymMujocoWorld, config: GymConfig) -> Callable[[Floats], Mapping[str, Floats]]:
    points = [
        values["of"].partition(":") for values in config.success if isinstance(values, Mapping) and "of" in values
    ]
    names = config.paths or [name for kind, _, name in points if kind in ("body", "site", "geom", "angle")]
    markers = [Marker(world.model, name) for name in dict.fromkeys(names)]
    return MarkerPaths(world.model, world.views[0], markers)


FAMILY = EnvFamily(GymConfig, GymGoalEnv)

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
    """The environment, its cameras, its action, and its success rule.

    Attributes:
        id: id for `gymnasium.make`. `package:Id-v0` imports the package that registers it.
        name: name of the folder of data and checkpoints, made from the id if empty.
        make: further arguments of `gymnasium.make`.
        cameras: cameras, each with the fields of `envs.cameras.CameraConfig`.
        action: fields of `worldmodel.core.spec.ActionSpec`. `low` and `high`, in physical units, correspond to the
            bounds of the environment's own action space. Without them, actions are in that space.
        proprio: quantities of proprioception (`envs.measures.find_measure`), the motors' encoders if empty.
        success: criteria of success, each with the fields of `envs.measures.CriterionConfig`.
        hidden: prefixes of the names of geoms, sites, bodies and lights that show the environment's own goal.
        paths: bodies, sites or geoms whose paths are shown in plots, those of `success` if empty.
        control_step_s: duration of one action [s], None for the environment's own.
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
        assert self.views  # raises for cameras that cannot be used

    @property
    def views(self) -> tuple[CameraConfig, ...]:
        """The cameras."""
        return read_cameras(self.cameras)

    @property
    def title(self) -> str:
        """The name, or one made from the id: `FetchPush-v4` becomes `fetchpush_v4`."""
        return self.name or re.sub(r"\W+", "_", self.id.rpartition(":")[2].rpartition("/")[2]).lower()


class GymGoalEnv(GoalEnv):
    """An environment of Gymnasium.

    In MuJoCo, the state `[N]` is `qpos`, `qvel`, `act`, and the positions and orientations of any mocap bodies. Other
    changes that an environment makes to its model from episode to episode are not part of the state.

    Args:
        config: configuration of the environment.
        hooks: functions for an environment that is not in MuJoCo.

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
    """A task for `register("env", name, ...)`, from a configuration or from a YAML file with one.

    Raises:
        UserError: for a file with unknown options.
    """
    if isinstance(config, Path):
        config = from_config(GymConfig, yaml.safe_load(config.read_text()), config.name)
    values = {field.name: getattr(config, field.name) for field in dataclasses.fields(config)}
    values |= {"name": config.title, "cameras": [dataclasses.asdict(camera) for camera in config.views]}
    return EnvFamily(with_defaults(GymConfig, values), lambda options: GymGoalEnv(options, hooks))


def _make(config: GymConfig, hooks: Hooks | None) -> gymnasium.Env[Any, Any]:
    # In MuJoCo, this project renders. The environment's own renderer would only make every step slower.
    render_mode = "rgb_array" if hooks is not None else None
    try:
        made = gymnasium.make(config.id, **{"render_mode": render_mode, "disable_env_checker": True, **config.make})
    except (ImportError, gymnasium.error.Error) as error:
        if getattr(error, "name", None) == "imageio":  # Gymnasium's own MuJoCo environments need it
            raise UserError(f"{config.id} needs the extra 'gym': {how_to_install('gym')}") from error
        raise UserError(f"gymnasium cannot make {config.id}: {' '.join(str(error).split())}") from error
    inner = made.unwrapped  # without time limit and checks
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

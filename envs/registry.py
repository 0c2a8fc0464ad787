"""Environments by name.

A new environment is a file with its class, a line in `ENVIRONMENTS` and a file in `configs/env/`. A new task of an
existing family needs only the file in `configs/env/`. A package of the user registers an `EnvFamily`:

    register("env", "my_env", EnvFamily(MyConfig, MyEnv))
"""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Callable, Mapping
from typing import Any

import gymnasium

from envs.protocol import GoalEnv
from worldmodel.core.configs import CONFIGS, group_choices, read_choice
from worldmodel.core.errors import UserError, choices_message
from worldmodel.core.options import from_config
from worldmodel.core.registry import Registry
from worldmodel.core.spec import EnvironmentSpec

# Keys that are not options, since the description has them elsewhere, or they only choose the environment.
_NOT_OPTIONS = ("name", "family", "image_size", "cameras")


@dataclasses.dataclass(frozen=True)
class EnvFamily:
    """How environments of one kind are made.

    Attributes:
        config: frozen dataclass of the options. `env=` with its name takes their defaults. It receives the name only if
            it has a field `name`. None if `make` takes a plain mapping.
        make: makes the environment from an instance of `config`, or from a plain mapping.
    """

    config: type[Any] | None
    make: Callable[[Any], GoalEnv]

    @property
    def options(self) -> dict[str, Any]:
        """All options that have defaults, as plain values."""
        values = {}
        for field in self._fields:
            if field.default is not dataclasses.MISSING:
                values[field.name] = field.default
            elif field.default_factory is not dataclasses.MISSING:
                values[field.name] = field.default_factory()
        return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}

    @property
    def needs(self) -> list[str]:
        """The options that have no default."""
        return [field.name for field in self._fields if field.name not in self.options]

    @property
    def _fields(self) -> list[dataclasses.Field[Any]]:
        return [] if self.config is None else [field for field in dataclasses.fields(self.config) if field.init]

    def build(self, options: Mapping[str, Any], name: str) -> GoalEnv:
        """The environment called `name`. Raises UserError for an unknown option or an unacceptable value."""
        plain = dict(options)
        try:
            if self.config is None:
                return self.make(plain)
            if "name" not in [field.name for field in self._fields]:
                plain.pop("name", None)
            return self.make(from_config(self.config, plain, name))
        except UserError:
            raise
        except (TypeError, ValueError, KeyError) as error:
            raise UserError(f"env {name}: {error}") from error


def with_defaults(config: type[Any], values: Mapping[str, Any]) -> type[Any]:
    """A dataclass like `config` whose fields have `values` as their defaults. It describes one task of a family.

    Raises:
        UserError: for a value of a field that `config` does not have.
    """
    hints = typing.get_type_hints(config)
    for name in values:
        if name not in hints:
            raise UserError(choices_message(f"{config.__name__} option", name, hints))
    # Defaults come from factories, since a list or a mapping cannot be a default itself.
    fields = [(name, hints[name], dataclasses.field(default_factory=_always(v))) for name, v in values.items()]
    made = dataclasses.make_dataclass(config.__name__, fields, bases=(config,), frozen=True)
    made.__doc__ = config.__doc__
    return made


def _always(value: Any) -> Callable[[], Any]:
    return lambda: value


# A family is imported when it is asked for, because loading dm_control takes longer than loading pushing.
ENVIRONMENTS: Registry[EnvFamily] = Registry(
    "env",
    "env family",
    {
        "push": "envs.push:FAMILY",
        "push_scene": "envs.push_scene:FAMILY",
        "dm_control": "envs.dm_control:FAMILY",
        "arm": "envs.arm.environment:FAMILY",
        "manipulation": "envs.manipulation:FAMILY",
        "gym": "envs.gym:FAMILY",
    },
    EnvFamily,
)


def env_names() -> list[str]:
    """Names that `env=` accepts for simulations: plug-ins, and the files in `configs/env/` except `robot`."""
    files = {name for name in group_choices("env") if read_choice("env", name).get("simulated", True)}
    others = {name for name in ENVIRONMENTS.names() if name not in files and not ENVIRONMENTS.get(name).needs}
    return sorted(files | others)


def env_options(name: str, /, **overrides: Any) -> dict[str, Any]:
    """Plain values of `configs/env/<name>.yaml` or of a plug-in's dataclass, with `overrides`.

    Raises:
        UserError: for an unknown name.
    """
    if name not in env_names():
        raise UserError(choices_message("env", name, env_names()))
    if (CONFIGS / "env" / f"{name}.yaml").is_file():
        return {**read_choice("env", name), **overrides}
    options = ENVIRONMENTS.get(name).options
    return {"family": name, **options, "name": options.get("name") or name, **overrides}


def make_env(config: Mapping[str, Any]) -> GoalEnv:
    """The environment of a configuration of the group `env`, which has `name`, `family` and the family's options.

    Without `family`, the name is also the family's name.

    Raises:
        UserError: for an unknown name or option, or an unacceptable value.
    """
    options = dict(config)
    name = str(options.get("name") or "")
    if options.get("simulated") is False:
        raise UserError(
            f"{name} is a robot of yours, which nothing here simulates: docs/robot.md says how to act on it"
        )
    family = options.pop("family", None)
    if family is None and name not in env_names():
        raise UserError(choices_message("env", name, env_names()))
    family = name if family is None else str(family)
    return ENVIRONMENTS.get(family).build(options, name or family)


def make_named(group: str, **overrides: Any) -> GoalEnv:
    """`make_env` for `configs/env/<group>.yaml` or a plug-in, with some options changed.

    Raises:
        UserError: as `make_env`.
    """
    return make_env(env_options(group, **overrides))


def describe(env: GoalEnv, options: Mapping[str, Any]) -> EnvironmentSpec:
    """The specification that decides whether a recording, a model and `env` fit each other.

    Args:
        env: any environment.
        options: the configuration that it was made from.
    """
    proprio = env.observation_space["proprio"]
    assert proprio.shape is not None
    return EnvironmentSpec(
        env=env.name,
        cameras=env.cameras,
        control_step_s=env.control_step_s,
        action=env.action_spec,
        proprio_size=proprio.shape[0],
        state_size=len(env.get_state()),
        simulator=env.world.simulator,
        options={key: value for key, value in options.items() if key not in _NOT_OPTIONS},
    )


def register_all() -> None:
    """Make `gymnasium.make("push-v0")` and the like work, for every task that has a name. Safe to call twice."""
    for group in ("push", "reacher", "arm_push", "arm_pick_place", "arm_drawer"):
        if f"{group}-v0" not in gymnasium.registry:
            # There is no time limit, since the caller sets the budget of an episode.
            gymnasium.register(f"{group}-v0", entry_point="envs.registry:make_named", kwargs={"group": group})

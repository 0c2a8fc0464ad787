"""Environments by name.

A new environment is a file with its class, a line in `ENVIRONMENTS` and a file in `configs/env/`. A new task of an
existing family needs only the last one. A package of the user registers an `EnvFamily`:

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

# What is said of an environment elsewhere in its description, or only chooses it.
_NOT_OPTIONS = ("name", "family", "image_size", "cameras")


@dataclasses.dataclass(frozen=True)
class EnvFamily:
    """How environments of one kind are made.

    Attributes:
        config: frozen dataclass of the options; `env=` with its name takes their defaults. It is given the name only if
            it has a field `name`. None: there are no options.
        make: the environment, of an instance of `config`; without one, of a plain mapping.
    """

    config: type[Any] | None
    make: Callable[[Any], GoalEnv]

    @property
    def options(self) -> dict[str, Any]:
        """All options with their defaults, as plain values; those that have to be given are left out."""
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
        """The environment called `name`. Raises UserError for an unknown option, or a value that it refuses."""
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
    """A dataclass like `config` whose fields have `values` as their defaults: a task that is nothing but its values.

    Raises:
        UserError: for a value of a field that `config` does not have.
    """
    hints = typing.get_type_hints(config)
    for name in values:
        if name not in hints:
            raise UserError(choices_message(f"{config.__name__} option", name, hints))
    # By a factory, since a list or a mapping cannot be a default itself.
    fields = [(name, hints[name], dataclasses.field(default_factory=_always(v))) for name, v in values.items()]
    made = dataclasses.make_dataclass(config.__name__, fields, bases=(config,), frozen=True)
    made.__doc__ = config.__doc__
    return made


def _always(value: Any) -> Callable[[], Any]:
    return lambda: value


# The families are imported when one is asked for: dm_control alone takes longer to load than pushing does.
ENVIRONMENTS: Registry[EnvFamily] = Registry(
    "env",
    "env family",
    {
        "push": "envs.push:FAMILY",
        "dm_control": "envs.dm_control:FAMILY",
        "gym": "envs.gym:FAMILY",
    },
    EnvFamily,
)


def env_names() -> list[str]:
    """What `env=` accepts where something is simulated: the files in `configs/env/`, but for `robot`, and plug-ins."""
    files = {name for name in group_choices("env") if read_choice("env", name).get("simulated", True)}
    others = {name for name in ENVIRONMENTS.names() if name not in files and not ENVIRONMENTS.get(name).needs}
    return sorted(files | others)


def env_options(name: str, /, **overrides: Any) -> dict[str, Any]:
    """Plain values of `configs/env/<name>.yaml`, or of a plug-in's dataclass, changed by `overrides`.

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
    """The environment that a configuration of the group `env` describes: `name`, `family`, and its family's options.

    Without `family`, its name is that of its family too.

    Raises:
        UserError: for an unknown name or option, or a value that the environment refuses.
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
    """`make_env` of `configs/env/<group>.yaml`, or of a plug-in, with some options changed.

    Raises:
        UserError: as `make_env`.
    """
    return make_env(env_options(group, **overrides))


def describe(env: GoalEnv, options: Mapping[str, Any]) -> EnvironmentSpec:
    """The facts that decide whether a recording, a model and `env` fit each other.

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
    """Make `gymnasium.make("push-v0")` and `gymnasium.make("reacher-v0")` work. Safe to call twice."""
    for group in ("push", "reacher"):
        if f"{group}-v0" not in gymnasium.registry:
            # No time limit: whoever runs the episode brings the budget.
            gymnasium.register(f"{group}-v0", entry_point="envs.registry:make_named", kwargs={"group": group})

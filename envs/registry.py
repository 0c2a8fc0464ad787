"""Environments by name.

A new environment is a file with its class, a line in `_FAMILIES` and a file in `configs/env/`. A new task of a family
that exists is only the latter.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import gymnasium

from envs.protocol import GoalEnv
from worldmodel.core.configs import group_choices, read_choice
from worldmodel.core.errors import UserError, choices_message
from worldmodel.core.options import from_config
from worldmodel.core.spec import EnvironmentSpec

# The families are imported when one is asked for: dm_control alone takes longer to load than pushing does.


def _make_push(options: dict[str, Any]) -> GoalEnv:
    from envs.push import PushConfig, PushEnv

    values = {key: value for key, value in options.items() if key != "name"}
    return PushEnv(from_config(PushConfig, values, "push"))


def _make_dm_control(options: dict[str, Any]) -> GoalEnv:
    from envs.dm_control import DmControlConfig, DmControlEnv

    return DmControlEnv(from_config(DmControlConfig, options, str(options.get("name", options["domain"]))))


_FAMILIES: dict[str, Callable[[dict[str, Any]], GoalEnv]] = {
    "push": _make_push,
    "dm_control": _make_dm_control,
}


def env_names() -> list[str]:
    """What `env=` accepts where something is simulated: the files in `configs/env/`, but for `robot`."""
    return [name for name in group_choices("env") if read_choice("env", name).get("simulated", True)]


def env_options(name: str, **overrides: Any) -> dict[str, Any]:
    """Plain values of `configs/env/<name>.yaml`, changed by `overrides`.

    Raises:
        UserError: for an unknown name.
    """
    if name not in env_names():
        raise UserError(choices_message("env", name, env_names()))
    return {**read_choice("env", name), **overrides}


def make_env(config: Mapping[str, Any]) -> GoalEnv:
    """The environment that a configuration of the group `env` describes: `name` and its class's options.

    A configuration with a `domain` is a task of the control suite, whatever its name.

    Raises:
        UserError: for an unknown name or option, or a value that the environment refuses.
    """
    options = dict(config)
    name = options.get("name", "")
    if options.get("simulated") is False:
        raise UserError(
            f"{name} is a robot of yours, which nothing here simulates: docs/robot.md says how to act on it"
        )
    family = "dm_control" if "domain" in options else name
    if family not in _FAMILIES or (family == "dm_control" and "domain" not in options):
        raise UserError(choices_message("env", name, env_names()))
    try:
        return _FAMILIES[family](options)
    except UserError:
        raise
    except (TypeError, ValueError) as error:
        raise UserError(f"env {name}: {error}") from error


def make_named(group: str, **overrides: Any) -> GoalEnv:
    """`make_env` of `configs/env/<group>.yaml` with some options changed.

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
    import mujoco

    proprio = env.observation_space["proprio"]
    assert proprio.shape is not None
    return EnvironmentSpec(
        env=env.name,
        cameras=env.cameras,
        control_step_s=env.control_step_s,
        action=env.action_spec,
        proprio_size=proprio.shape[0],
        state_size=len(env.get_state()),
        simulator=f"mujoco {mujoco.__version__}",
        options={key: value for key, value in options.items() if key not in ("name", "image_size")},
    )


def register_all() -> None:
    """Make `gymnasium.make("push-v0")` and `gymnasium.make("reacher-v0")` work. Safe to call twice."""
    for group in ("push", "reacher"):
        if f"{group}-v0" not in gymnasium.registry:
            # No time limit: whoever runs the episode brings the budget.
            gymnasium.register(f"{group}-v0", entry_point="envs.registry:make_named", kwargs={"group": group})

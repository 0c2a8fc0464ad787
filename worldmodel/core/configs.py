"""Finds the files of `configs/` and the options of plug-ins, and reads their values without Hydra.

The files lie beside this package. They are not imported by the name `configs`, which a folder of the user may have.
"""

from __future__ import annotations

import copy
import dataclasses
import enum
import functools
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import yaml

from worldmodel.core import registry
from worldmodel.core.errors import UserError, choices_message

CONFIGS: Final = Path(__file__).resolve().parents[2] / "configs"
USUAL_BODY: Final = "hand"  # of environments whose robot can have several; it is not part of their names
_AT_THE_TOP: Final = "# @package _global_"  # Hydra's mark of a file whose options have no group name before them
# Groups of options to which plug-ins can add choices, with the kind of those plug-ins.
GROUPS_OF_PLUGINS: Final = {"env": "env", "planner": "optimiser", "encoder": "encoder", "family": "family"}


def group_choices(group: str) -> list[str]:
    """The choices that `group=` accepts, which are the files in `configs/<group>/` and plug-ins."""
    return sorted({*_files(group), *plugin_choices(group)})


def _files(group: str) -> list[str]:
    return [path.stem for path in (CONFIGS / group).glob("*.yaml")]


def plugin_choices(group: str) -> list[str]:
    """The choices that plug-ins add and that have no file."""
    kind = GROUPS_OF_PLUGINS.get(group)
    return [] if kind is None else sorted(registry.plugins(kind).keys() - set(_files(group)))


def read_choice(group: str, name: str) -> dict[str, Any]:
    """The values of `configs/<group>/<name>.yaml` or of a plug-in, without those that refer to others (`${...}`).

    Raises:
        UserError: for a name that the group does not have.
    """
    if name in plugin_choices(group):
        return _of_plugin(group, name)
    if name not in group_choices(group):
        raise UserError(choices_message(group, name, group_choices(group)))
    values = copy.deepcopy(_parsed(CONFIGS / group / f"{name}.yaml"))  # the caller may change its copy
    return {key: value for key, value in values.items() if not (isinstance(value, str) and "${" in value)}


def usual_planner(env: str) -> str | None:
    """The planner that an environment uses unless another is chosen; None if `configs/planner_for/` has none for it."""
    name = choice_for("planner_for", env)
    return None if name is None else str(read_choice("planner_for", name)["planner"])


def usual_objective(env: str) -> dict[str, Any]:
    """What `configs/objective_for/` changes in a planner's objective for an environment."""
    name = choice_for("objective_for", env)
    return {} if name is None else read_choice("objective_for", name)


def choice_for(group: str, env: str, prefix: str = "") -> str | None:
    """The choice of a group such as `planner_for` for an environment, or else for its family.

    Args:
        group: the group, with choices that begin with `prefix`.
        env: a choice of `env=`, or the name of an environment or a robot.
        prefix: what is before the names of environments and families.

    Returns:
        The choice; None if the group has none for either.
    """
    env = _choice_of(env)
    if env not in group_choices("env"):
        return None
    choices, family = group_choices(group), read_choice("env", env).get("family")
    return next((f"{prefix}{name}" for name in (env, family) if f"{prefix}{name}" in choices), None)


def with_body(env: str, body: str) -> str:
    """The name of an environment whose robot has a body. States and recordings of one body do not fit another."""
    return env if body == USUAL_BODY or env.endswith(f"_{body}") else f"{env}_{body}"


def _choice_of(env: str) -> str:
    """The choice of `env=` that an environment with another body is made by, or the same name."""
    if env in group_choices("env"):
        return env
    choices = {name: read_choice("env", name) for name in group_choices("env")}
    with_bodies = {values.get("family") for values in choices.values() if "body" in values}
    made_by = [name for name in choices if choices[name].get("family") in with_bodies and env.startswith(f"{name}_")]
    return max(made_by, key=len, default=env)


@functools.cache
def _parsed(path: Path) -> dict[str, Any]:
    return yaml.safe_load(path.read_text()) or {}


def _of_plugin(group: str, name: str) -> dict[str, Any]:
    """The defaults of the dataclass `config` of a plug-in's entry, in the structure of the group's files."""
    config = getattr(registry.plugins(GROUPS_OF_PLUGINS[group])[name], "config", None)
    values = {} if config is None else default_values(config)
    if group == "planner":  # the other values, such as the horizon, are the controller's
        return {**read_choice("planner", "cem"), "name": name, "options": values}
    if group == "encoder":
        values.pop("image_size", None)  # the recording determines it
        return {"kind": name, **values}
    if group == "env":  # `name` only determines where data and checkpoints are stored
        return {"family": name, **values, "name": values.get("name") or name}
    return {"name": name, **values}


def default_values(config: type[Any]) -> dict[str, Any]:
    """Name and default of every field of a dataclass, as plain values; ??? for a field without a default.

    Raises:
        UserError: for anything but a dataclass.
    """
    if not dataclasses.is_dataclass(config):
        raise UserError(f"{config!r} is the config of a plug-in: expected a dataclass")
    values: dict[str, Any] = {}
    for field in dataclasses.fields(config):
        if not field.init:
            continue
        if field.default is not dataclasses.MISSING:
            values[field.name] = _plain(field.default)
        elif field.default_factory is not dataclasses.MISSING:
            values[field.name] = _plain(field.default_factory())
        else:
            values[field.name] = "???"
    return values


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return _plain(dataclasses.asdict(value))
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return [_plain(item) for item in value]
    if isinstance(value, enum.Enum):
        return value.name
    return str(value) if isinstance(value, Path) else value


def is_at_the_top(group: str, name: str) -> bool:
    """Whether the options of a choice are typed without the name of its group."""
    path = CONFIGS / group / f"{name}.yaml"
    return path.exists() and _AT_THE_TOP in path.read_text().splitlines()


def choice_text(group: str, name: str) -> str:
    """The help text of a choice, which is its file, or a plug-in's defaults with the meanings from its docstring."""
    if name not in plugin_choices(group):
        path = CONFIGS / group / f"{name}.yaml"
        paragraphs = path.read_text().replace(f"{_AT_THE_TOP}\n", "").strip().split("\n\n")
        own = "\n\n".join(part for part in paragraphs if not part.startswith("defaults:"))
        begins_with = [other for other in _parsed(path).get("defaults", ()) if other != "_self_"]
        return "\n".join([*(choice_text(group, other) for other in begins_with), own])
    entry = registry.plugins(GROUPS_OF_PLUGINS[group])[name]
    config = getattr(entry, "config", None)
    purpose, meanings = _docstring(config)
    lines = [f"# {group}={name}: {purpose or 'of a plug-in'}", *_lines(_of_plugin(group, name), meanings)]
    return "\n".join(lines)


def _lines(values: dict[str, Any], meanings: dict[str, str], indent: str = "") -> Iterator[str]:
    """Values in the form of a file of `configs/`, one per line and followed by its meaning."""
    for key, value in values.items():
        if isinstance(value, dict) and value:
            yield f"{indent}{key}:"
            yield from _lines(value, meanings, f"{indent}  ")
        else:
            written = yaml.safe_dump(value, default_flow_style=True, width=1000).removesuffix("...\n").strip()
            yield f"{indent}{key}: {written}" + (f"  # {meanings[key]}" if key in meanings else "")


def _docstring(config: type[Any] | None) -> tuple[str, dict[str, str]]:
    """The first line of a dataclass' docstring, and the meaning of each field from its section `Attributes:`."""
    text = "" if config is None else config.__doc__ or ""
    if config is not None and text.startswith(f"{config.__name__}("):  # a docstring that `dataclass` generated
        return "", {}
    before, _, attributes = text.partition("Attributes:")
    meanings: dict[str, str] = {}
    last = None
    for line in attributes.splitlines():
        name, colon, meaning = line.strip().partition(":")
        if colon and name.isidentifier():
            meanings[name] = meaning.strip()
            last = name
        elif last is not None and line.strip():
            meanings[last] += f" {line.strip()}"
    return (before.strip().splitlines() or [""])[0].rstrip("."), meanings

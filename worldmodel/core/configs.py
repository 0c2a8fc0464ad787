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
_AT_THE_TOP: Final = "# @package _global_"  # what Hydra reads in a file whose options are the command's own
# Groups of options that a plug-in adds a choice to, with the kind of plug-in that does.
GROUPS_OF_PLUGINS: Final = {"env": "env", "planner": "optimiser", "encoder": "encoder", "family": "family"}


def group_choices(group: str) -> list[str]:
    """What `group=` accepts: the names of the files in `configs/<group>/`, and of plug-ins."""
    return sorted({*_files(group), *plugin_choices(group)})


def _files(group: str) -> list[str]:
    return [path.stem for path in (CONFIGS / group).glob("*.yaml")]


def plugin_choices(group: str) -> list[str]:
    """Those that plug-ins bring, and for which there is no file."""
    kind = GROUPS_OF_PLUGINS.get(group)
    return [] if kind is None else sorted(registry.plugins(kind).keys() - set(_files(group)))


def read_choice(group: str, name: str) -> dict[str, Any]:
    """The values of `configs/<group>/<name>.yaml`, or of a plug-in; those that refer to others (`${...}`) are left out.

    Raises:
        UserError: for a name that the group does not have.
    """
    if name in plugin_choices(group):
        return _of_plugin(group, name)
    if name not in group_choices(group):
        raise UserError(choices_message(group, name, group_choices(group)))
    values = copy.deepcopy(_parsed(CONFIGS / group / f"{name}.yaml"))  # whoever changes them changes their own
    return {key: value for key, value in values.items() if not (isinstance(value, str) and "${" in value)}


@functools.cache
def _parsed(path: Path) -> dict[str, Any]:
    return yaml.safe_load(path.read_text()) or {}


def _of_plugin(group: str, name: str) -> dict[str, Any]:
    """The defaults of the dataclass that a plug-in's entry has as `config`, in the shape of the group's files."""
    config = getattr(registry.plugins(GROUPS_OF_PLUGINS[group])[name], "config", None)
    values = {} if config is None else default_values(config)
    if group == "planner":  # how often and how far to plan is the controller's
        return {**read_choice("planner", "cem"), "name": name, "options": values}
    if group == "encoder":
        values.pop("image_size", None)  # the recording has it
        return {"kind": name, **values}
    if group == "env":  # whatever data and checkpoints are filed under, it is made by this plug-in
        return {"family": name, **values, "name": values.get("name") or name}
    return {"name": name, **values}


def default_values(config: type[Any]) -> dict[str, Any]:
    """Name and default of every field of a dataclass, as plain values; ??? where there is no default.

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
    """Whether the options of a choice are written without the name of its group."""
    path = CONFIGS / group / f"{name}.yaml"
    return path.exists() and _AT_THE_TOP in path.read_text().splitlines()


def choice_text(group: str, name: str) -> str:
    """What the user reads about a choice: its file, or the defaults of a plug-in, explained by its docstring."""
    if name not in plugin_choices(group):
        lines = (CONFIGS / group / f"{name}.yaml").read_text().strip().splitlines()
        return "\n".join(line for line in lines if line != _AT_THE_TOP)
    entry = registry.plugins(GROUPS_OF_PLUGINS[group])[name]
    config = getattr(entry, "config", None)
    purpose, meanings = _docstring(config)
    lines = [f"# {group}={name}: {purpose or 'of a plug-in'}", *_lines(_of_plugin(group, name), meanings)]
    return "\n".join(lines)


def _lines(values: dict[str, Any], meanings: dict[str, str], indent: str = "") -> Iterator[str]:
    """As a file of `configs/` has them: a line for each value, with its meaning behind it."""
    for key, value in values.items():
        if isinstance(value, dict) and value:
            yield f"{indent}{key}:"
            yield from _lines(value, meanings, f"{indent}  ")
        else:
            written = yaml.safe_dump(value, default_flow_style=True, width=1000).removesuffix("...\n").strip()
            yield f"{indent}{key}: {written}" + (f"  # {meanings[key]}" if key in meanings else "")


def _docstring(config: type[Any] | None) -> tuple[str, dict[str, str]]:
    """The first line of a dataclass' docstring, and what its section `Attributes:` says of each field."""
    text = "" if config is None else config.__doc__ or ""
    if config is not None and text.startswith(f"{config.__name__}("):  # the one that `dataclass` makes up
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

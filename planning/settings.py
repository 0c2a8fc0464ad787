"""Options of the planner without Hydra, for a robot's process. They are a mapping, or strings as on the command line.

{"horizon": 8, "options.samples": 64}        the same as        ["planner.horizon=8", "planner.options.samples=64"]
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from worldmodel.core.configs import read_choice, usual_objective, usual_planner
from worldmodel.core.errors import UserError, choices_message

_PREFIX = "planner."
_NAME = "planner"


def read_settings(options: Mapping[str, Any] | Sequence[str], env: str = "") -> dict[str, Any]:
    """The configuration group `planner` with `options`, as the commands compose it.

    Args:
        options: `{"horizon": 8, "options.samples": 64}`, or strings as on the command line, with or without the prefix
            `planner.`. The key `planner` chooses another planner: `{"planner": "random_shooting"}`.
        env: name of the model's environment, which may have its own planner and objective.

    Raises:
        UserError: for an unknown option, and for a string that is no option.
    """
    given = dict(options) if isinstance(options, Mapping) else dict(_read_text(option) for option in _texts(options))
    changes = {str(key).removeprefix(_PREFIX): value for key, value in given.items()}
    usual = usual_planner(env) or "cem"
    settings = read_choice(_NAME, str(changes.pop(_NAME, usual)))
    if "otherwise" in settings:  # planner=auto
        settings["otherwise"] = usual
    settings.setdefault("objective", {}).update(usual_objective(env))
    for key, value in _flat(changes).items():
        _change(settings, key, value)
    return settings


def _texts(options: Sequence[str]) -> Sequence[str]:
    if isinstance(options, str):
        raise UserError(f"options is the text '{options}': expected a list of texts, or a mapping")
    return options


def _read_text(option: Any) -> tuple[str, Any]:
    if not isinstance(option, str) or "=" not in option:
        raise UserError(f"option {option!r}: expected an option of the planner, for example 'planner.horizon=8'")
    key, _, text = option.partition("=")
    try:
        return key, yaml.safe_load(text)
    except (yaml.YAMLError, ValueError) as error:
        raise UserError(f"option {option!r} cannot be read: expected a value as in YAML") from error


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """`values` with dotted keys in place of nested mappings."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        flat.update(_flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value})
    return flat


def _change(settings: dict[str, Any], key: str, value: Any) -> None:
    accepted = {name for name in _flat(settings) if name != "name"}
    if key not in accepted:
        raise UserError(choices_message("option of the planner", key, accepted))
    *sections, name = key.split(".")
    for section in sections:
        settings = settings[section]
    # YAML reads `inf` and `1e-3` as text, but Hydra reads them as numbers.
    settings[name] = _number(value) if isinstance(value, str) and isinstance(settings[name], float) else value


def _number(text: str) -> Any:
    try:
        return float(text)
    except ValueError:
        return text

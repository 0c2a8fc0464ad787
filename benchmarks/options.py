"""Reads the options of a benchmark, which are written `key=value` like those of the commands."""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Sequence, Set
from typing import Any, TypeVar

import yaml

from worldmodel.core.errors import UserError, choices_message
from worldmodel.core.options import from_config

T = TypeVar("T")


def read_own(config: type[T], arguments: Sequence[str]) -> tuple[T, list[str]]:
    """The options of the dataclass `config` among `arguments`, and the other arguments.

    Numbers are read as YAML. Lists may be written `a,b` or `[a,b]`, and text stands as it is.

    Raises:
        UserError: for a value that cannot be read, or that `config` does not accept.
    """
    hints, own, others = typing.get_type_hints(config), dict[str, Any](), []
    accepted = {field.name for field in dataclasses.fields(config)}  # type: ignore[arg-type]
    for argument in arguments:
        key, _, text = argument.partition("=")
        if key not in accepted:
            others.append(argument)
            continue
        kinds = {hints[key], *typing.get_args(hints[key])}
        if typing.get_origin(hints[key]) is tuple:
            is_whole = text.startswith("[") == text.endswith("]")
            if not is_whole:
                raise UserError(f"option '{argument}' cannot be read: expected for example {key}=[first,second]")
            parts = text.strip("[]").split(",") if text not in ("", "[]") else []
            own[key] = [_value(part, kinds, argument) for part in parts]
        else:
            own[key] = _value(text, kinds, argument)
    return from_config(config, own, "benchmark"), others


def _value(text: str, kinds: Set[Any], argument: str) -> Any:
    """A value of one of the `kinds`, which stays text where that is one of them."""
    if str in kinds:
        return text.strip()
    try:
        return float(text) if float in kinds else yaml.safe_load(text)
    except (yaml.YAMLError, ValueError) as error:
        raise UserError(f"option '{argument}' cannot be read: expected numbers") from error


def read_all(config: type[T], arguments: Sequence[str]) -> T:
    """The options of the dataclass `config`. Raises UserError as `read_own`, and for other arguments."""
    own, others = read_own(config, arguments)
    for other in others:
        names = [field.name for field in dataclasses.fields(config)]  # type: ignore[arg-type]
        raise UserError(choices_message("option", other.partition("=")[0], names))
    return own

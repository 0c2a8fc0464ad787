"""Frozen dataclasses from plain values, as a configuration file or a caller gives them."""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Mapping
from typing import Any, TypeVar

from worldmodel.core.errors import UserError, choices_message

T = TypeVar("T")


def from_config(cls: type[T], values: Mapping[str, Any], what: str) -> T:
    """Build the dataclass `cls` from plain values; a list becomes a tuple.

    Raises:
        UserError: for a key that `cls` does not have, a value of another type, or one that it refuses.
    """
    accepted = {field.name for field in dataclasses.fields(cls) if field.init}  # type: ignore[arg-type]
    for key in values:
        if key not in accepted:
            raise UserError(choices_message(f"{what} option", key, accepted))
    plain = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
    hints = typing.get_type_hints(cls)
    for key, value in plain.items():
        if not _fits(value, hints[key]):
            raise UserError(f"{what} option {key} is {value!r}: expected {_describe_type(hints[key])}")
    try:
        return cls(**plain)
    except (TypeError, ValueError) as error:
        raise UserError(f"{what}: {error}") from error


_PLAIN_TYPES = {bool: "true or false", int: "a whole number", float: "a number", str: "text", type(None): "null"}


def _fits(value: object, hint: Any) -> bool:
    """Whether a value from YAML is what a field is annotated with, as far as that is plain: `int`, `str | None`, ..."""
    if typing.get_origin(hint) in (types.UnionType, typing.Union):
        return any(_fits(value, part) for part in typing.get_args(hint))
    if typing.get_origin(hint) is tuple:
        parts = [part for part in typing.get_args(hint) if part is not ...]
        return isinstance(value, tuple) and all(any(_fits(item, part) for part in parts) for item in value)
    if hint is float:
        return type(value) in (int, float)
    return type(value) is hint if hint in _PLAIN_TYPES else True


def _describe_type(hint: Any) -> str:
    if typing.get_origin(hint) is tuple:
        return f"a list of {_describe_type(typing.get_args(hint)[0]).removeprefix('a ')}s"
    parts = typing.get_args(hint) or (hint,)
    return " or ".join(_PLAIN_TYPES.get(part, str(part)) for part in parts)

"""Builds frozen dataclasses from the plain values of a configuration file or a caller."""

from __future__ import annotations

import dataclasses
import math
import types
import typing
from collections.abc import Mapping
from typing import Any, Final, TypeVar

from worldmodel.core.errors import UserError, choices_message

T = TypeVar("T")

_LARGEST_SIDE: Final = 2048  # of images [pixels]


def from_config(cls: type[T], values: Mapping[str, Any], what: str) -> T:
    """Build the dataclass `cls` from plain values. Lists become tuples.

    Raises:
        UserError: for a key that `cls` does not have, a value of another type, a number that does not fit into 64 bits,
            or a value that `cls` refuses.
    """
    if not isinstance(values, Mapping):
        raise UserError(f"{what} is {_shown(values)}: expected its options")
    accepted = {field.name for field in dataclasses.fields(cls) if field.init}  # type: ignore[arg-type]
    for key in values:
        if key not in accepted:
            raise UserError(choices_message(f"{what} option", key, accepted))
    plain = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
    hints = typing.get_type_hints(cls)
    for key, value in plain.items():
        if not _fits(value, hints[key]):
            raise UserError(f"{what} option {key} is {_shown(value)}: expected {_describe_type(hints[key])}")
        _check_number(f"{what} option {key}", key, value)
    try:
        return cls(**plain)
    except (TypeError, ValueError, OverflowError) as error:
        raise UserError(f"{what}: {error}") from error


_MOST_WHOLE: Final = 2**63 - 1  # largest number in 64 bits, as arrays have
_MOST_SEED: Final = 2**32 - 1  # leaves room in 64 bits for steps and episodes, which are added to seeds
_LONGEST: Final = 60  # characters of a value that a message quotes


def _shown(value: object) -> str:
    """`value` as a message quotes it."""
    try:
        text = repr(value)
    except ValueError:  # Python does not print numbers of more than 4,300 digits
        return "a number of thousands of digits"
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."


def _check_number(what: str, name: str, value: object) -> None:
    """Raises UserError for numbers that no computation can handle."""
    if isinstance(value, float) and math.isnan(value):
        raise UserError(f"{what} is nan: expected a number")
    if type(value) is int:
        is_seed = name == "seed" or name.endswith("_seed")
        most = _MOST_SEED if is_seed else _MOST_WHOLE
        if abs(value) > most:
            raise UserError(f"{what} is {_shown(value)}: expected a whole number of at most {most}")
    if isinstance(value, tuple):
        for item in value:
            _check_number(what, name, item)


_PLAIN_TYPES = {bool: "true or false", int: "a whole number", float: "a number", str: "text", type(None): "null"}


def _fits(value: object, hint: Any) -> bool:
    """Whether a value from YAML has a field's annotated type. Only plain types such as `int | None` are checked."""
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
    if typing.get_args(hint):
        return " or ".join(_describe_type(part) for part in typing.get_args(hint))
    return _PLAIN_TYPES.get(hint, str(hint))


def height_and_width(size: int | tuple[int, ...] | None) -> tuple[int, int] | None:
    """The option `size` of images, which is a side or (height, width) [pixels].

    Raises:
        ValueError: for other numbers of sides, and for sides that no image here has.
    """
    if size is None:
        return None
    sides = size if isinstance(size, tuple) else (size, size)
    if len(sides) != 2 or not all(1 <= side <= _LARGEST_SIDE for side in sides):
        raise ValueError(f"size {size}: expected one or two whole numbers from 1 to {_LARGEST_SIDE}, or null")
    return sides[0], sides[1]

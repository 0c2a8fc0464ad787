"""Untrusted JSON. Reading it gives plain values or a one-line error."""

from __future__ import annotations

import json
import math
from typing import Any, Final, NoReturn

from worldmodel.core.errors import UserError

_MOST_LEVELS: Final = 64  # of lists in lists: what we write has a dozen


def parse_json(content: bytes, name: str) -> Any:
    """The values of a JSON text in UTF-8, all numbers finite and all texts whole.

    Args:
        content: of bounded size: that is up to who reads it.
        name: of the file, for messages.

    Raises:
        UserError: for what is no JSON, is nested too deep, or has numbers that are no finite ones.
    """
    try:
        values = json.loads(content.decode(), parse_constant=_refuse, parse_float=_finite)
        _require_shallow(values)
        json.dumps(values, ensure_ascii=False).encode()  # half a character, written as an escape, cannot be printed
        return values
    except RecursionError as error:
        raise UserError(f"{name} cannot be read: its lists are nested too deep") from error
    except ValueError as error:  # also of a text that is no UTF-8, and of whole numbers of thousands of digits
        raise UserError(f"{name} cannot be read: {error}") from error


def _require_shallow(values: Any) -> None:
    level = [values]
    for _ in range(_MOST_LEVELS):
        level = [
            inner
            for outer in level
            if isinstance(outer, dict | list)
            for inner in (outer.values() if isinstance(outer, dict) else outer)
        ]
        if not level:
            return
    raise RecursionError


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is no finite number")


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError("a number is too large")
    return value

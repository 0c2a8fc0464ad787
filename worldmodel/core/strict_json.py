"""Untrusted JSON. Reading it gives plain values or a one-line error."""

from __future__ import annotations

import json
import math
from typing import Any, Final, NoReturn

from worldmodel.core.errors import UserError

_MOST_LEVELS: Final = 64  # levels of nested lists; files of this project have a dozen


def parse_json(content: bytes, name: str) -> Any:
    """The values of a JSON text in UTF-8, with finite numbers and complete characters.

    Args:
        content: the text. The caller must limit its size.
        name: name of the file, for messages.

    Raises:
        UserError: for a text that is not JSON, is nested too deep, or has numbers that are not finite.
    """
    try:
        values = json.loads(content.decode(), parse_constant=_refuse, parse_float=_finite)
        _require_shallow(values)
        json.dumps(values, ensure_ascii=False).encode()  # refuses half a surrogate pair, which cannot be printed
        return values
    except RecursionError as error:
        raise UserError(f"{name} cannot be read: its lists are nested too deep") from error
    except ValueError as error:  # also for a text that is not UTF-8, and for integers of thousands of digits
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

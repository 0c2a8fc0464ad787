"""Reads the numbers of an episode from the chosen columns."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from worldmodel.core.errors import UserError
from worldmodel.data.formats.limits import MOST_NUMBERS, require
from worldmodel.data.formats.mapping import Part
from worldmodel.data.formats.source import FormatError, Source


def numbers(source: Source, episode: int, role: str, parts: Sequence[Part], rows: int) -> NDArray[Any]:
    """The concatenated columns, float64 `[rows, D]`. Raises FormatError for a number that is not finite."""
    columns = [np.zeros((rows, 0))]
    for part in parts:
        where = f"{part.name} in episode {episode} of {source.path}"
        column = source.column(episode, part.name, rows)
        if column.dtype.kind not in "biuf" or len(column) != rows:
            raise FormatError(f"{where} is {column.dtype} {list(column.shape)}: expected {rows} rows of numbers")
        flat = column.reshape(rows, -1).astype(np.float64)
        stop = flat.shape[1] if part.stop is None else part.stop
        if not 0 <= part.start < stop <= flat.shape[1]:
            raise UserError(f"--{role} '{part}': {part.name} has {flat.shape[1]} numbers")
        flat = flat[:, part.start : stop]
        if not np.isfinite(flat).all():
            row = int(np.argmax(~np.isfinite(flat).all(axis=1)))
            raise FormatError(f"{where} has a number that is not finite, in row {row}")
        columns.append(flat)
    together = np.concatenate(columns, axis=1)
    require(together.shape[1] <= MOST_NUMBERS, f"{role} has {together.shape[1]} numbers: at most {MOST_NUMBERS:,}")
    return together


def single(values: NDArray[Any]) -> NDArray[np.float32]:
    """The values in float32, as the store keeps them. Values that are too large become infinite."""
    with np.errstate(over="ignore"):  # infinite values are refused later
        return values.astype(np.float32)

"""What can be commanded, told from the data set, from its actions, and from what the user says."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from worldmodel.core.errors import UserError
from worldmodel.data.formats.source import Facts, FormatError
from worldmodel.data.formats.survey import Survey

Bounds = tuple[tuple[float, ...], tuple[float, ...], str]


def bounds_of(
    facts: Facts, found: Survey, low: Sequence[float] | None, high: Sequence[float] | None, where: str
) -> Bounds:
    """Smallest and largest action, and in words where they are from: given, said by the data set, or what was taken.

    Raises:
        UserError: when `low` and `high` do not belong together, or actions lie outside of them.
        FormatError: naming `where`, when actions lie outside of what the data set says.
    """
    width = len(found.low)
    said = (facts.action_low, facts.action_high)
    if facts.spec is not None:
        said = (facts.spec.action.low, facts.spec.action.high)
    given_low, given_high = for_each(low, width, "--action-low"), for_each(high, width, "--action-high")
    if bool(given_low) != bool(given_high):
        raise UserError("--action-low and --action-high belong together: give both or none")
    if given_low:
        bounds = (given_low, given_high, "given")
    elif said[0] is not None and said[1] is not None and len(said[0]) == len(said[1]) == width:
        bounds = (said[0], said[1], "the data set's")
    else:
        return tuple(found.low.tolist()), tuple(found.high.tolist()), "smallest and largest that was taken"
    if not all(a <= b for a, b in zip(bounds[0], bounds[1], strict=True)):
        raise UserError(f"actions from {list(bounds[0])} to {list(bounds[1])}: the first may not be above the second")
    _require_within(found, bounds, where)
    return bounds


def _require_within(found: Survey, bounds: Bounds, where: str) -> None:
    # As float32, which the store keeps: 0.2 becomes a little more.
    with np.errstate(over="ignore"):  # bounds beyond single precision are refused by ActionSpec
        low, high = (np.asarray(side, np.float64).astype(np.float32) for side in bounds[:2])
        least, most = np.nextafter(low, np.float32(-np.inf)), np.nextafter(high, np.float32(np.inf))
    outside = (found.low < least) | (found.high > most)
    if not outside.any():
        return
    index = int(np.argmax(outside))
    message = (
        f"action[{index}] of {where} goes from {found.low[index]:.6g} to {found.high[index]:.6g}, outside the bounds "
        f"{bounds[0][index]:.6g} to {bounds[1][index]:.6g}"
    )
    if bounds[2] == "given":
        raise UserError(f"{message} of --action-low and --action-high: give bounds that hold them")
    raise FormatError(f"{message} of the data set: --action-low and --action-high say others")


def for_each(values: Sequence[Any] | None, width: int, option: str) -> tuple[Any, ...]:
    """One value for each of `width` dimensions, where one or as many are given. Raises UserError for other numbers."""
    if not values:
        return ()
    if len(values) not in (1, width):
        raise UserError(
            f"{option} has {len(values)} values: expected 1 or {width}, one for each dimension of the action"
        )
    return tuple(values) * (width if len(values) == 1 else 1)

"""What can be commanded, told from the data set, from its actions, and from what the user says.

The rest rule of a dimension, where the user gives none:

    hold   its bounds leave zero out, or it is binary, or it follows a proprioceptive reading: a position
    zero   otherwise: a velocity, or a relative move

It follows a reading of the same name that is near it, or one that is very near it. A reading that is told to be a
velocity is not followed, whatever the numbers say.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np

from worldmodel.core.errors import UserError, choices_message
from worldmodel.core.spec import BINARY, CONTINUOUS, HOLD, ZERO, ActionSpec
from worldmodel.core.text import printable
from worldmodel.data.formats.mapping import Choice, Part
from worldmodel.data.formats.source import Facts, Feature, FormatError
from worldmodel.data.formats.survey import Survey

# How far an action may be from the reading that follows it, in standard deviations of the action: of the same name, and
# of any name. And from the reading at which it is taken: a position moves little within a step, what repeats the last
# command may move by all its range.
_NEAR, _VERY_NEAR, _NEAR_BEFORE = 1.0, 0.2, 0.5
_VELOCITY = re.compile(r"vel|delta|speed|rate|torque|effort|force", re.IGNORECASE)
_MOST_NAME: Final = 64  # characters


@dataclasses.dataclass(frozen=True)
class ActionOptions:
    """What a user says of the action; None is found out. One value for all dimensions, or one for each.

    Attributes:
        low: smallest action.
        high: largest action.
        units: for example `m/s`.
        rest: `zero`, `hold` or a number.
        binary: names of the dimensions that know two values only; empty for none.
        max_rate: largest change from one command to the next [unit/s]; `none` for no limit.
    """

    low: Sequence[float] | None = None
    high: Sequence[float] | None = None
    units: Sequence[str] | None = None
    rest: Sequence[str] | None = None
    binary: Sequence[str] | None = None
    max_rate: Sequence[str] | None = None


@dataclasses.dataclass(frozen=True)
class Told:
    """An action's specification, and why it is so.

    Attributes:
        spec: of the action.
        bounds: where its bounds are from, in words.
        why: of each dimension's rest rule and kind, in words.
    """

    spec: ActionSpec
    bounds: str
    why: tuple[str, ...]


def tell_action(
    facts: Facts, features: Mapping[str, Feature], choice: Choice, found: Survey, given: ActionOptions, where: str
) -> Told:
    """Specification of the action of the data set at `where`.

    Raises:
        UserError: when what is given contradicts itself, or the actions that were taken.
        FormatError: when actions lie outside of the bounds that the data set says.
    """
    width = len(found.low)
    low, high, bounds = _bounds(facts, found, given, where)
    ours = facts.spec.action if facts.spec is not None and facts.spec.action.size == width else None
    names = ours.names if ours is not None else names_of(features, choice.action, width)
    units = for_each(given.units, width, "--action-units") or (ours.units if ours is not None else ("",) * width)
    kinds, why = _kinds(found, given, ours, names, low, high)
    readings = names_of(features, choice.proprio, None)
    rests: list[str | float] = []
    holds: list[int | None] = []
    for index in range(width):
        reading, told = _followed(found, index, names[index], readings)
        rest: str | float = HOLD if reading is not None else ZERO
        if reading is None and not low[index] <= 0 <= high[index]:
            rest, told = HOLD, "its bounds leave zero out"
        elif kinds[index] == BINARY and reading is None:
            rest, told = HOLD, ""
        if ours is not None:
            rest, reading, told = ours.rest[index], ours.hold_from[index], "as it was recorded"
            reading = reading if reading is not None and reading < len(readings) else None
        if given.rest:
            rest, told = _rest(for_each(given.rest, width, "--rest")[index]), "given"
        rests.append(rest)
        holds.append(reading if rest == HOLD else None)
        why[index] = ", ".join(text for text in (told, why[index]) if text)
    spec = ActionSpec(low, high, units, names, tuple(rests), kinds, _rates(given, width, ours), tuple(holds))
    _require_within(found, spec, bounds, where)
    return Told(spec, bounds, tuple(why))


def names_of(features: Mapping[str, Feature], parts: Sequence[Part], width: int | None) -> tuple[str, ...]:
    """Names of the numbers in `parts`, one after the other; `action_0 ...` where there are no `width` names."""
    names: list[str] = []
    for part in parts:
        feature = features[part.name]
        size = int(np.prod(feature.shape, dtype=np.int64))
        of_part = feature.names if len(feature.names) == size else ("",) * size
        names += [printable(name)[:_MOST_NAME] for name in of_part[part.start : part.stop]]
    if width is None:
        return tuple(names)
    plain = tuple(f"action_{index}" for index in range(width))
    if len(names) != width:
        return plain
    named = tuple(name or other for name, other in zip(names, plain, strict=True))
    return named if len(set(named)) == width else plain


def _bounds(
    facts: Facts, found: Survey, given: ActionOptions, where: str
) -> tuple[tuple[float, ...], tuple[float, ...], str]:
    """Given, or said by the data set, or else the smallest and largest that was taken."""
    width = len(found.low)
    said = (facts.action_low, facts.action_high)
    if facts.spec is not None:
        said = (facts.spec.action.low, facts.spec.action.high)
    low, high = for_each(given.low, width, "--action-low"), for_each(given.high, width, "--action-high")
    if bool(low) != bool(high):
        raise UserError("--action-low and --action-high belong together: give both or none")
    if low:
        if not all(a <= b for a, b in zip(low, high, strict=True)):
            raise UserError(f"actions from {list(low)} to {list(high)}: the first may not be above the second")
        return low, high, _GIVEN
    if said[0] is not None and said[1] is not None and len(said[0]) == len(said[1]) == width:
        return said[0], said[1], "the data set's"
    return tuple(found.low.tolist()), tuple(found.high.tolist()), "smallest and largest that was taken"


_GIVEN: Final = "given"


def _require_within(found: Survey, spec: ActionSpec, bounds: str, where: str) -> None:
    low, high = spec.bounds
    # To the next number: 0.2 becomes a little more in single precision.
    least, most = np.nextafter(low, np.float32(-np.inf)), np.nextafter(high, np.float32(np.inf))
    outside = (found.low < least) | (found.high > most)
    if not outside.any():
        return
    index = int(np.argmax(outside))
    message = (
        f"action[{index}] of {where} goes from {found.low[index]:.6g} to {found.high[index]:.6g}, outside the bounds "
        f"{spec.low[index]:.6g} to {spec.high[index]:.6g}"
    )
    if bounds == _GIVEN:
        raise UserError(f"{message} of --action-low and --action-high: give bounds that hold them")
    raise FormatError(f"{message} of the data set: --action-low and --action-high say others")


def _kinds(
    found: Survey,
    given: ActionOptions,
    ours: ActionSpec | None,
    names: Sequence[str],
    low: Sequence[float],
    high: Sequence[float],
) -> tuple[tuple[str, ...], list[str]]:
    """Kind of each dimension, and why it is binary."""
    width = len(names)
    # As float32, which the actions that were taken are.
    with np.errstate(over="ignore"):  # bounds beyond that are refused by ActionSpec
        ends = np.array([low, high], np.float64).astype(np.float32)
    two = found.only_two & (found.low == ends[0]) & (found.high == ends[1])
    if given.binary is None:
        if ours is not None:
            return ours.kinds, [""] * width
        binary = two & found.is_enough
        return tuple(BINARY if b else CONTINUOUS for b in binary), [
            "takes two values only" if b else "" for b in binary
        ]
    for name in given.binary:
        if name not in names:
            raise UserError(choices_message("dimension of --binary", name, names))
        index = list(names).index(name)
        if not two[index]:
            raise UserError(
                f"--binary {name}: a binary action is {low[index]:g} or {high[index]:g}, the data set has others from "
                f"{found.low[index]:g} to {found.high[index]:g}"
            )
    chosen = [name in given.binary for name in names]
    return tuple(BINARY if b else CONTINUOUS for b in chosen), ["binary as given" if b else "" for b in chosen]


def _followed(found: Survey, index: int, name: str, readings: Sequence[str]) -> tuple[int | None, str]:
    """The reading that shows what a dimension commands, and why; None where none does."""
    distances = found.distances()
    if distances is None or distances.shape[2] != len(readings) or _VELOCITY.search(name):
        return None, ""
    late, before = distances[:, index]
    if name in readings and late[readings.index(name)] < _NEAR:
        return readings.index(name), f"the reading {name} follows it"
    usable = (late < _VERY_NEAR) & (before < _NEAR_BEFORE) & [not _VELOCITY.search(reading) for reading in readings]
    if not usable.any():
        return None, ""
    nearest = int(np.argmin(np.where(usable, late, np.inf)))
    return nearest, f"reading {nearest}{f' ({readings[nearest]})' if readings[nearest] else ''} follows it"


def _rest(text: str) -> str | float:
    if text in (ZERO, HOLD):
        return text
    try:
        return float(text)
    except ValueError:
        raise UserError(f"--rest '{text}': expected {ZERO}, {HOLD} or a number") from None


def _rates(given: ActionOptions, width: int, ours: ActionSpec | None) -> tuple[float | None, ...]:
    values = for_each(given.max_rate, width, "--max-rate")
    if not values:
        return ours.max_rate if ours is not None else (None,) * width
    try:
        return tuple(None if value == "none" else float(value) for value in values)
    except ValueError:
        raise UserError(f"--max-rate {' '.join(given.max_rate or ())}: expected numbers above 0, or none") from None


def for_each(values: Sequence[Any] | None, width: int, option: str) -> tuple[Any, ...]:
    """One value for each of `width` dimensions, where one or as many are given. Raises UserError for other numbers."""
    if not values:
        return ()
    if len(values) not in (1, width):
        raise UserError(
            f"{option} has {len(values)} values: expected 1 or {width}, one for each dimension of the action"
        )
    return tuple(values) * (width if len(values) == 1 else 1)

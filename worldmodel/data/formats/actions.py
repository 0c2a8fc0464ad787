"""Infers the action's specification from the data set's description, its actions, and the user's options.

If the user gives no rest rule, a dimension gets

    hold   (a position) if its bounds exclude zero, or it is binary, or a proprioceptive reading follows it
    zero   (a velocity or a relative move) otherwise

A reading follows a dimension if it is near the action and has the same name, or if it is very near the action.
Dimensions and readings whose names mean a velocity are excluded, whatever the numbers say.
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

# Largest distances in standard deviations of the action. The first two are to the reading one step later, of the same
# name and of any name. The third is to the reading at which the action is taken. It excludes readings that repeat the
# last command, since these can jump by their whole range in one step, while a position moves little.
_NEAR, _VERY_NEAR, _NEAR_BEFORE = 1.0, 0.2, 0.5
_VELOCITY = re.compile(r"vel|delta|speed|rate|torque|effort|force", re.IGNORECASE)
_MOST_NAME: Final = 64  # characters


@dataclasses.dataclass(frozen=True)
class ActionOptions:
    """The user's options of the action, with one value for all dimensions or one for each. None means to infer it.

    Attributes:
        low: smallest action.
        high: largest action.
        units: for example `m/s`.
        rest: `zero`, `hold` or a number.
        binary: names of the dimensions that take only two values; empty for none.
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
    """An action's specification, with the reasons for it.

    Attributes:
        spec: specification of the action.
        bounds: origin of its bounds, in words.
        why: reasons for each dimension's rest rule and kind, in words.
    """

    spec: ActionSpec
    bounds: str
    why: tuple[str, ...]


def tell_action(
    facts: Facts, features: Mapping[str, Feature], choice: Choice, found: Survey, given: ActionOptions, where: str
) -> Told:
    """Specification of the action of the data set at `where`.

    Raises:
        UserError: when the options contradict each other or the recorded actions.
        FormatError: when actions lie outside of the data set's own bounds.
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
    """Names of the numbers in `parts`, in order; `action_0 ...` if these are not `width` distinct names."""
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
    """The user's bounds, or the data set's, or else the smallest and largest recorded action. Also their origin."""
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
    # One float32 step of tolerance, since 0.2 becomes slightly larger in single precision.
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
    # The recorded actions are float32, too.
    with np.errstate(over="ignore"):  # ActionSpec refuses bounds beyond float32
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
    """Index of the reading that follows a dimension, or None, and the reason."""
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
    """One value for each of `width` dimensions, from one or `width` values. Raises UserError for another number."""
    if not values:
        return ()
    if len(values) not in (1, width):
        raise UserError(
            f"{option} has {len(values)} values: expected 1 or {width}, one for each dimension of the action"
        )
    return tuple(values) * (width if len(values) == 1 else 1)

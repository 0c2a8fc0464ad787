"""Which columns of a data set become cameras, action, proprioception, state and reward.

A column is named as the data set names it. `name[2:5]` takes some of its numbers only; several columns are put one
after the other. What is not said is found, where there is one candidate only or the format has a usual name for it.
A camera is called after the last part of its column's name; `front=observation.images.top` calls it otherwise.
"""

from __future__ import annotations

import dataclasses
import difflib
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Final

from worldmodel.core.errors import UserError
from worldmodel.core.spec import CAMERA

if TYPE_CHECKING:
    from worldmodel.data.formats.source import Feature

NONE: Final = "none"
_SLICE = re.compile(r"(?P<name>.+)\[(?P<start>\d{0,6}):(?P<stop>\d{0,6})\]")


@dataclasses.dataclass(frozen=True)
class Part:
    """Numbers `start:stop` of each row of a column, counted after its rows are made flat.

    Attributes:
        name: the column's.
        start: first number.
        stop: number after the last one; None for all that follow.
    """

    name: str
    start: int = 0
    stop: int | None = None

    def __str__(self) -> str:
        return f"{self.name}[{self.start}:{'' if self.stop is None else self.stop}]" if self.is_some else self.name

    @property
    def is_some(self) -> bool:
        """Whether numbers are left out."""
        return self.start > 0 or self.stop is not None


@dataclasses.dataclass(frozen=True)
class Choice:
    """What becomes what.

    Attributes:
        cameras: columns of pictures, by the camera's name in the store.
        action: columns of numbers, one after the other.
        proprio: likewise; may be empty.
        state: likewise; may be empty.
        reward: one number, or empty.
    """

    cameras: Mapping[str, str]
    action: tuple[Part, ...]
    proprio: tuple[Part, ...]
    state: tuple[Part, ...]
    reward: tuple[Part, ...] = ()

    @property
    def observed(self) -> tuple[str, ...]:
        """Columns that are observations."""
        return (*self.cameras.values(), *(part.name for part in (*self.proprio, *self.state)))


def choose(
    features: Mapping[str, Feature],
    usual: Mapping[str, str],
    camera: Sequence[str] | None = None,
    action: Sequence[str] | None = None,
    proprio: Sequence[str] | None = None,
    state: Sequence[str] | None = None,
    reward: Sequence[str] | None = None,
) -> Choice:
    """Take what was asked for, and find the rest.

    Raises:
        UserError: for a column that is not there or cannot be that; when there are several candidates, naming them all.
    """
    pictures = [name for name, feature in features.items() if feature.is_image]
    numbers = [name for name, feature in features.items() if not feature.is_image]
    rewards = _chosen("reward", reward, numbers, usual, [], optional=True)
    # What is asked for as something else, or bears its usual name, was felt and not commanded.
    felt = {usual.get("proprio"), usual.get("state"), usual.get("reward"), *_asked_for(numbers, proprio, state, reward)}
    commanded = [name for name in numbers if name not in felt]
    actions = _chosen("action", action, numbers, usual, commanded, optional=False)
    taken = {usual.get("state"), usual.get("reward"), *(part.name for part in (*actions, *rewards))}
    free = [name for name in numbers if name not in taken]
    readings = _chosen("proprio", proprio, numbers, usual, free, optional=True)
    # A state is for evaluation only: nothing is taken for one that does not bear the name.
    states = _chosen("state", state, numbers, usual, [], optional=True)
    return Choice(_cameras(camera, pictures, usual), actions, readings, states, rewards)


def _cameras(given: Sequence[str] | None, pictures: Sequence[str], usual: Mapping[str, str]) -> dict[str, str]:
    if given is None:
        (view,) = _chosen("camera", None, pictures, usual, pictures, optional=False)
        return called([view.name])
    columns, names = [], {}
    for text in given:
        name, is_named, column = text.partition("=")
        if text in pictures or not is_named:
            name, column = "", text
        view = _part("camera", column, pictures, optional=False)
        if view.is_some:
            raise UserError(f"--camera '{column}': pictures are taken whole")
        columns.append(view.name)
        if name:
            names[view.name] = name
    if len(set(columns)) < len(columns):
        raise UserError(f"--camera names a column twice: {', '.join(columns)}")
    found = {column: name for name, column in called([c for c in columns if c not in names]).items()} | names
    chosen = {found[column]: column for column in columns}
    if len(chosen) < len(columns):
        raise UserError(f"--camera gives a name twice: {', '.join(given)}")
    return chosen


def called(columns: Sequence[str]) -> dict[str, str]:
    """Columns of pictures by the names of their cameras: the last part of a column's, or all of it where two agree."""
    last = [_as_name(re.split(r"[./]", column)[-1]) for column in columns]
    if len(set(last)) < len(last):
        last = [_as_name(column) for column in columns]
    return dict(zip(last, columns, strict=True))


def _as_name(text: str) -> str:
    """With letters, digits, `_` and `-` only, as a camera's name has."""
    return re.sub(r"[^A-Za-z0-9_-]+", "_", text).strip("_-")[:64] or CAMERA


def _chosen(
    role: str,
    given: Sequence[str] | None,
    accepted: Sequence[str],
    usual: Mapping[str, str],
    candidates: Sequence[str],
    optional: bool,
) -> tuple[Part, ...]:
    if given is not None:
        if optional and list(given) == [NONE]:
            return ()
        return tuple(_part(role, text, accepted, optional) for text in given)
    if usual.get(role) in accepted:
        return (Part(usual[role]),)
    if len(candidates) == 1:
        return (Part(candidates[0]),)
    if not candidates and optional:
        return ()
    if not candidates:
        raise UserError(f"nothing in it can be --{role}: {_listed(accepted, role)}")
    more = " (one of them, or several)" if role == "camera" else ""
    raise UserError(f"several columns can be --{role}: {_choices(candidates, optional)}{more}")


def _part(role: str, text: str, accepted: Sequence[str], optional: bool) -> Part:
    if text in accepted:
        return Part(text)
    found = _SLICE.fullmatch(text)
    if found is not None and found["name"] in accepted:
        start, stop = int(found["start"] or 0), int(found["stop"]) if found["stop"] else None
        return Part(found["name"], start, stop)
    if not accepted:
        raise UserError(f"--{role} '{text}': {_listed(accepted, role)}")
    nearest = difflib.get_close_matches(text, accepted, n=1, cutoff=0.5)
    hint = f" (did you mean {nearest[0]}?)" if nearest else ""
    raise UserError(f"--{role} '{text}': choose from {_choices(accepted, optional)}{hint}")


def _choices(names: Sequence[str], optional: bool) -> str:
    return ", ".join([*names, *([NONE] if optional else [])])


def _asked_for(numbers: Sequence[str], *given: Sequence[str] | None) -> list[str]:
    """Columns that are named in the options `given`."""
    texts = [text for option in given for text in option or ()]
    slices = [found["name"] for found in map(_SLICE.fullmatch, texts) if found is not None]
    return [name for name in numbers if name in texts or name in slices]


def _listed(names: Sequence[str], role: str) -> str:
    kind = "pictures" if role == "camera" else "numbers"
    return f"it has {', '.join(names)}" if names else f"it has no column of {kind}"

"""Chooses which columns of a data set become cameras, action, proprioception, state and reward.

Columns have the data set's own names. `name[2:5]` takes only some numbers of a column, and several columns are
concatenated. A role without an option gets the column that the format usually uses, or the only candidate. A camera is
named after the last part of its column's name, unless an option such as `front=observation.images.top` names it.
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
    """Numbers `start:stop` of each row of a column, counted in the flattened row.

    Attributes:
        name: name of the column.
        start: index of the first number.
        stop: index after the last number; None for all that follow.
    """

    name: str
    start: int = 0
    stop: int | None = None

    def __str__(self) -> str:
        return f"{self.name}[{self.start}:{'' if self.stop is None else self.stop}]" if self.is_some else self.name

    @property
    def is_some(self) -> bool:
        """Whether the part leaves out numbers of its column."""
        return self.start > 0 or self.stop is not None


@dataclasses.dataclass(frozen=True)
class Choice:
    """The columns of each role.

    Attributes:
        cameras: columns of images, by the camera's name in the store.
        action: columns of numbers, which are concatenated.
        proprio: columns of numbers, which are concatenated; may be empty.
        state: columns of numbers, which are concatenated; may be empty.
        reward: a single number, or empty.
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
    """Choose the columns that the options name, and infer the others.

    Raises:
        UserError: for a column that does not exist or cannot have its role. Also for a role with several candidates,
            which the message lists.
    """
    pictures = [name for name, feature in features.items() if feature.is_image]
    numbers = [name for name, feature in features.items() if not feature.is_image]
    rewards = _chosen("reward", reward, numbers, usual, [], optional=True)
    # Columns with another role, by an option or by their usual names, are not candidates for the action.
    felt = {usual.get("proprio"), usual.get("state"), usual.get("reward"), *_asked_for(numbers, proprio, state, reward)}
    commanded = [name for name in numbers if name not in felt]
    actions = _chosen("action", action, numbers, usual, commanded, optional=False)
    taken = {usual.get("state"), usual.get("reward"), *(part.name for part in (*actions, *rewards))}
    free = [name for name in numbers if name not in taken]
    readings = _chosen("proprio", proprio, numbers, usual, free, optional=True)
    # A state is for evaluation only, so a column is never taken as the state merely because it is the only candidate.
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
    """Columns of images by camera name, which is the last part of a column's name, or all of it if two would agree."""
    last = [_as_name(re.split(r"[./]", column)[-1]) for column in columns]
    if len(set(last)) < len(last):
        last = [_as_name(column) for column in columns]
    return dict(zip(last, columns, strict=True))


def _as_name(text: str) -> str:
    """`text` as a camera's name, which consists of letters, digits, `_` and `-`."""
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
    """The columns that the options `given` name."""
    texts = [text for option in given for text in option or ()]
    slices = [found["name"] for found in map(_SLICE.fullmatch, texts) if found is not None]
    return [name for name in numbers if name in texts or name in slices]


def _listed(names: Sequence[str], role: str) -> str:
    kind = "pictures" if role == "camera" else "numbers"
    return f"it has {', '.join(names)}" if names else f"it has no column of {kind}"

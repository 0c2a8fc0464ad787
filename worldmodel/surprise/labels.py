"""Which episodes of a recording form pairs of a possible and an impossible clip: the file `pairs.json` beside it."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from worldmodel.core.errors import UserError
from worldmodel.core.files import regular_file, write_json
from worldmodel.core.strict_json import parse_json
from worldmodel.data.store.reader import TrajectoryStore

LABELS: Final = "pairs.json"
STORE: Final = "pairs.zarr"
_MOST_BYTES: Final = 2**26  # a hundred times the size of what `wm physics_clips` writes by default
_VERSION: Final = 1


@dataclasses.dataclass(frozen=True)
class PairLabel:
    """A pair of clips that show the same until a break.

    Attributes:
        property: what physics is about, such as `vanish`.
        variant: how it is shown, such as `visible` or `hidden`.
        violation: what is impossible in the impossible clip, such as `vanishes`.
        scene: number of the scene within property and variant. Pairs of a scene share frames.
        possible: number of the episode that is possible.
        impossible: number of the episode that is not.
        break_row: the first row in which they may differ.
    """

    property: str
    variant: str
    violation: str
    scene: int
    possible: int
    impossible: int
    break_row: int

    def __post_init__(self) -> None:
        for name in ("property", "variant", "violation"):
            if not isinstance(getattr(self, name), str):
                raise UserError(f"{name} {getattr(self, name)!r:.40}: expected text")
        for name in ("scene", "possible", "impossible", "break_row"):
            value = getattr(self, name)
            if type(value) is not int or value < 0:
                raise UserError(f"{name} {value!r:.40}: expected a whole number of at least 0")


def write_labels(labels: Sequence[PairLabel], store: TrajectoryStore, path: Path) -> None:
    """Write the `labels` of the episodes of `store`."""
    rows = [dataclasses.asdict(label) for label in labels]
    write_json({"format_version": _VERSION, "store": store.identity, "pairs": rows}, path, indent=1)


def read_labels(path: Path, store: TrajectoryStore) -> tuple[PairLabel, ...]:
    """The labels of the episodes of `store`.

    Raises:
        UserError: for a file that is missing, or was not made for `store`.
    """
    try:
        with regular_file(path, _MOST_BYTES) as file:
            content = parse_json(file.read(_MOST_BYTES), str(path))
    except OSError as error:
        raise UserError(f"no pairs at {path}: `python -m envs.physics_clips` makes them") from error
    if not isinstance(content, dict) or content.get("format_version") != _VERSION:
        raise UserError(f"{path} does not describe pairs of format {_VERSION}")
    if content.get("store") != store.identity:
        raise UserError(f"{path} describes the pairs of another recording than {store.name}")
    labels = tuple(_read(row, path) for row in _listed(content.get("pairs"), path))
    for label in labels:
        if max(label.possible, label.impossible) >= store.num_episodes:
            raise UserError(f"{path} names episode {max(label.possible, label.impossible)}: {store.name} has fewer")
    return labels


def _listed(rows: Any, path: Path) -> list[Any]:
    if not isinstance(rows, list) or not rows:
        raise UserError(f"{path} has no pairs")
    return rows


def _read(row: Any, path: Path) -> PairLabel:
    names = {field.name for field in dataclasses.fields(PairLabel)}
    if not isinstance(row, dict) or set(row) != names:
        raise UserError(f"{path} has a pair {row!r:.60}: expected {', '.join(sorted(names))}")
    try:
        return PairLabel(**row)
    except UserError as error:
        raise UserError(f"{path} has a pair with {error}") from error

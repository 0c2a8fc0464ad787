"""Files of features that any program can read: numbered shards of safetensors, and two files that describe them.

    features-00000.safetensors   features [n, D] or [n, N, D], item [n], time_s [n], and of recordings row [n]
    items.csv                    item,name,frames: what the numbers in `item` stand for
    index.json                   the encoder, the options, the number of rows, and the shards with their SHA-256

Rows are in the order of items and time. A shard is written whole, under another name first. The last one is written
again while it grows, so that a kill loses a minute of work. It also says where the writing goes on, in its own
metadata, so that rows and place cannot disagree.

Shapes: `R` rows in all, `n` rows of a shard, `N` tokens of a row, `D` numbers of a token.
"""

from __future__ import annotations

import csv
import dataclasses
import hashlib
import io
import json
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final, Self

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as to_bytes
from torch import Tensor

from worldmodel.core.errors import UserError
from worldmodel.core.files import replacing, write_json
from worldmodel.core.strict_json import parse_json
from worldmodel.training.runs import first_difference

FORMAT: Final = 1
INDEX, ITEMS = "index.json", "items.csv"
_PLACE: Final = "place"  # in the metadata of a shard: where the writing goes on
_SAVED_EVERY_S: Final = 60.0  # a kill loses at most this much work, and little time is spent on writing
_MOST_INDEX: Final = 2**26  # bytes; 100,000 shards have 2**24

Columns = Mapping[str, Tensor]


def shard_name(number: int) -> str:
    """The file of a shard."""
    return f"features-{number:05d}.safetensors"


@dataclasses.dataclass(frozen=True)
class Place:
    """Where the writing of features goes on.

    Attributes:
        batch: number of the next batch.
        left_out: items that cannot be read, and why.
    """

    batch: int = 0
    left_out: Mapping[int, str] = dataclasses.field(default_factory=dict)

    def to_text(self, key: str) -> str:
        """As the metadata of a shard hold it. `key` tells the features to which it belongs."""
        left_out = {str(item): reason for item, reason in self.left_out.items()}
        return json.dumps({"key": key, "batch": self.batch, "left_out": left_out})

    @classmethod
    def of_text(cls, text: str, key: str) -> Self | None:
        """Reads what `to_text` wrote; None for another `key`. Raises ValueError or KeyError for anything else."""
        values = parse_json(text.encode(), "the place")
        if values["key"] != key:
            return None
        return cls(int(values["batch"]), {int(item): str(reason) for item, reason in values["left_out"].items()})


@dataclasses.dataclass(frozen=True)
class _State:
    """What was added, in one object, so that an interruption finds all of it or nothing.

    Attributes:
        shards: what the index says about complete shards.
        held: the columns of the last shard, which may still grow.
        place: where the writing goes on.
    """

    shards: tuple[Mapping[str, Any], ...] = ()
    held: tuple[Columns, ...] = ()
    place: Place = Place()

    @property
    def held_rows(self) -> int:
        """Number of rows of the last shard, n."""
        return sum(len(columns["item"]) for columns in self.held)

    def joined(self) -> dict[str, Tensor]:
        """The columns `[n, ...]` of the last shard."""
        return {name: torch.cat([columns[name] for columns in self.held]) for name in self.held[0]}


class ShardWriter:
    """Writes shards into a folder, or goes on where an earlier writer with the same description ended.

    Args:
        folder: an existing folder.
        description: everything that determines the rows, in plain values.
        rows_per_shard: a shard ends with the first batch that gives it so many rows.
        clock: the time [s]; tests give another clock.

    Attributes:
        is_finished: whether all rows are there already.

    Raises:
        UserError: when the folder holds features with another description, or a damaged shard.
    """

    def __init__(
        self,
        folder: Path,
        description: Mapping[str, Any],
        rows_per_shard: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._folder, self._rows_per_shard, self._clock = folder, rows_per_shard, clock
        self._description = json.loads(json.dumps(description))
        # Shards of other features, whose index was removed, are not gone on with.
        self._key = hashlib.sha256(json.dumps(self._description, sort_keys=True).encode()).hexdigest()
        self._state, self.is_finished = _State(), False
        if (folder / INDEX).exists():
            self._go_on()
        else:
            self._write_index()
        self._saved = clock()

    @property
    def rows(self) -> int:
        """Number of rows so far, R."""
        return sum(shard["rows"] for shard in self._state.shards) + self._state.held_rows

    @property
    def place(self) -> Place:
        """Where to go on."""
        return self._state.place

    def write_items(self, rows: Iterable[tuple[int, str, int]]) -> None:
        """Write `items.csv` with number, name and number of sampled frames of every item."""
        with replacing(self._folder / ITEMS) as file:
            text = io.TextIOWrapper(file, "utf-8", errors="surrogateescape", newline="", write_through=True)
            writer = csv.writer(text, lineterminator="\n")
            writer.writerow(("item", "name", "frames"))
            writer.writerows(rows)
            text.detach()

    def add(self, columns: Columns, place: Place) -> None:
        """Append the rows of one batch. `place` is where the writing goes on after them."""
        held = (*self._state.held, columns) if len(columns["item"]) else self._state.held
        self._state = dataclasses.replace(self._state, held=held, place=place)
        if self._state.held_rows >= self._rows_per_shard:
            self._complete()
            self._write_index()
        elif self._clock() - self._saved >= _SAVED_EVERY_S:
            self.save()

    def save(self) -> None:
        """Write the last shard as far as it is. Nothing that was added is lost afterwards."""
        self._saved, state = self._clock(), self._state
        if not state.held:
            return
        joined = state.joined()
        self._state = dataclasses.replace(state, held=(joined,))
        content = to_bytes(joined, {_PLACE: state.place.to_text(self._key)})
        with replacing(self._folder / shard_name(len(state.shards)), one_writer=True) as file:
            file.write(content)

    def finish(self) -> None:
        """Write what is left, and the index that says that all rows are there."""
        if self._state.held:
            self._complete()
        self.is_finished = True
        self._write_index()

    def _complete(self) -> None:
        """Write the last shard and begin the next one."""
        self.save()
        self._state = self._with_complete(self._state)

    def _with_complete(self, state: _State) -> _State:
        path = self._folder / shard_name(len(state.shards))
        listed = {"file": path.name, "rows": state.held_rows, "sha256": _sha256(path)}
        return dataclasses.replace(state, shards=(*state.shards, listed), held=())

    def _write_index(self) -> None:
        content = {
            "format": FORMAT,
            "finished": self.is_finished,
            "rows": self.rows,
            **self._description,
            "left_out": {str(item): reason for item, reason in self.place.left_out.items()},
            "shards": list(self._state.shards),
        }
        write_json(content, self._folder / INDEX, indent=1)

    def _go_on(self) -> None:
        present = read_index(self._folder)
        told = {name: present.get(name) for name in self._description}
        difference = first_difference(told, self._description)
        if difference is not None:
            key, old, new = difference
            raise UserError(
                f"{self._folder} holds features with {key}={old!s:.60}, this command asks for {new!s:.60}: repeat the "
                "first command to go on, give another out=, or remove the folder"
            )
        self.is_finished = present.get("finished") is True
        if self.is_finished:
            left_out = {int(item): reason for item, reason in present["left_out"].items()}
            self._state = _State(tuple(present["shards"]), place=Place(0, left_out))
            return
        # The index is written after a shard, so a shard that it does not list may be complete too.
        while (found := self._read(self._folder / shard_name(len(self._state.shards)))) is not None:
            self._state = dataclasses.replace(self._state, held=found.held, place=found.place)
            if self._state.held_rows < self._rows_per_shard:
                return
            self._state = self._with_complete(self._state)

    def _read(self, path: Path) -> _State | None:
        """The rows and the place in a shard; None if there is none of these features."""
        if not path.exists():
            return None
        try:
            with safe_open(path, framework="pt") as file:
                place = Place.of_text((file.metadata() or {})[_PLACE], self._key)
                columns = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (this is no mapping)
        except (SafetensorError, OSError, ValueError, KeyError, TypeError) as error:
            raise UserError(f"{path} cannot be read ({error}): remove {self._folder} to start over") from error
        return None if place is None else _State(held=(columns,), place=place)


def read_index(folder: Path) -> dict[str, Any]:
    """`index.json` of a folder of features. Raises UserError if there is none, or one of another format."""
    path = folder / INDEX
    try:
        content = parse_json(path.read_bytes()[:_MOST_INDEX], str(path))
    except OSError as error:
        raise UserError(f"no features at {folder}: make some with `python -m worldmodel.features`") from error
    if not isinstance(content, dict) or content.get("format") != FORMAT or not isinstance(content.get("shards"), list):
        raise UserError(f"{path} does not describe features of format {FORMAT}")
    return content


@dataclasses.dataclass(frozen=True)
class FeatureFolder:
    """Features that `python -m worldmodel.features` has written.

    Attributes:
        folder: the folder.
        index: content of `index.json`.
        names: name of every item.
    """

    folder: Path
    index: Mapping[str, Any]
    names: tuple[str, ...]

    @classmethod
    def open(cls, folder: str | Path) -> Self:
        """Open a folder. Raises UserError if there are no features, or they are unfinished."""
        place = Path(folder)
        index = read_index(place)
        if index.get("finished") is not True:
            raise UserError(f"the features in {place} are unfinished: repeat the command that writes them")
        with (place / ITEMS).open(encoding="utf-8", errors="surrogateescape", newline="") as file:
            return cls(place, index, tuple(row["name"] for row in csv.DictReader(file)))

    def __len__(self) -> int:
        return int(self.index["rows"])

    def shards(self) -> Iterator[dict[str, Tensor]]:
        """The columns of one shard after the other. Only one of them is in memory, unless the caller keeps more."""
        for shard in self.index["shards"]:
            with safe_open(self.folder / str(shard["file"]), framework="pt") as file:
                yield {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (this is no mapping)

    def read(self) -> dict[str, Tensor]:
        """All columns at once, `[R, ...]`."""
        parts = list(self.shards())
        return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()

"""Logs of finished episodes, from which an interrupted command resumes."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar, Generic, Protocol, TypeVar

from worldmodel.core.files import naming


class Numbered(Protocol):
    """A frozen dataclass of plain values with an `index`, which is its position in the manifest."""

    __dataclass_fields__: ClassVar[dict[str, Any]]

    @property
    def index(self) -> int: ...


T = TypeVar("T", bound=Numbered)


class JsonLog(Generic[T]):
    """Records of finished episodes, one JSON line each.

    Args:
        path: the file, made with its folder by the first `append`.
        also: further files with records, which other commands write.

    Attributes:
        record: the dataclass of a record. A subclass says which.
    """

    record: type[T]

    def __init__(self, path: Path, also: Sequence[Path] = ()) -> None:
        self.path, self._also = path, also

    def read(self) -> dict[int, T]:
        """Records by index. A line that a crash cut short is ignored."""
        found: dict[int, T] = {}
        for path in (*self._also, self.path):
            for line in path.read_text().splitlines() if path.exists() else ():
                try:
                    record = self.record(**json.loads(line))
                except (ValueError, TypeError):
                    continue
                found[record.index] = record
        return found

    def append(self, records: Iterable[T]) -> None:
        """Add records, which are safe when this returns. Raises OSError when they cannot be written."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with naming(self.path), self.path.open("a+b") as file:
            # A new line must not be appended to a line that was cut short.
            if file.tell() and not self.path.read_bytes().endswith(b"\n"):
                file.write(b"\n")
            for record in records:
                file.write(json.dumps(dataclasses.asdict(record)).encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())


class Resumed(Generic[T]):
    """The episodes of a command that goes on from its log.

    Args:
        log: has the records of earlier calls. New ones are added to it.
        indices: which episodes the command needs. Others in the log are left alone.
    """

    def __init__(self, log: JsonLog[T], indices: Sequence[int]) -> None:
        self._log, self._indices = log, indices
        known = log.read()
        self._done = {index: known[index] for index in indices if index in known}

    @property
    def records(self) -> list[T]:
        """The records that there are, in the order of `indices`."""
        return [self._done[index] for index in self._indices if index in self._done]

    def batches(self, size: int) -> Iterator[list[int]]:
        """The indices without a record, `size` at a time."""
        waiting = [index for index in self._indices if index not in self._done]
        for begin in range(0, len(waiting), size):
            yield waiting[begin : begin + size]

    def add(self, records: Sequence[T]) -> None:
        """Log new records. Raises OSError when they cannot be written."""
        self._log.append(records)
        self._done.update((record.index, record) for record in records)

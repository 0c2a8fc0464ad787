"""The trajectory store, which holds recorded episodes in one zarr v3 group.

    data/images/<camera>  [N, H, W, 3] uint8   RGB; each camera has its own height and width; chunks of 16 frames
    data/action    [N, A]       float32    physical units; row t holds the action taken at t
    data/proprio   [N, P]       float32
    data/state     [N, S]       float64    simulator state, for evaluation only
    data/reward    [N]          float32    row t holds the reward of the action at t; only in stores with rewards
    meta/episode_ends  [E]      int64      row after the last one of each episode
    meta/episode_seed  [E]      int64
    meta/episode_record  [E, ...]  uint8   checksums (`worldmodel.data.store.integrity`)
    meta/episode_instruction  [E, 512]  uint8  instruction to the robot (`worldmodel.data.store.instruction`)

An episode of T actions has T + 1 rows, one per observation. **The last row's action is zero and was never taken.** The
action of row t leads to row t + 1 only if both rows belong to the same episode. The last row's reward is zero, too.

`episode_ends` is written last, so it alone determines what exists. Rows beyond its last entry are leftovers of an
interrupted writer. zarr silently reads a missing chunk as zeros, so every read here first checks that its chunks exist.
The layout is Diffusion Policy's (Chi et al. 2023), in zarr v3. `worldmodel.data.store.layout` lists older schemas.

Training, statistics and displays read whole episodes (`episode`, `column`, `blocks`), which are compared with their
checksums. `read` returns any rows, and checks only that their chunks can be decoded.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from worldmodel.core.errors import UserError, choices_message
from worldmodel.data.store.episode import Episode as Episode
from worldmodel.data.store.files import LocalFiles, StoreFiles, address_in
from worldmodel.data.store.files import StoreError as StoreError
from worldmodel.data.store.instruction import INSTRUCTION_BYTES, decode_instruction
from worldmodel.data.store.integrity import ColumnDigest, Records, chain, column_digest, from_bytes
from worldmodel.data.store.layout import (
    CHAIN,
    ENDS,
    HOW_TO_MAKE_ONE,
    INSTRUCTION,
    INSTRUCTIONS,
    NOT_A_STORE,
    RECORDS,
    SEEDS,
    Layout,
    attribute,
)
from worldmodel.data.store.metadata import MetadataError, RowType, group_attributes, open_array
from worldmodel.data.store.remote import RemoteFiles
from worldmodel.data.store.rows import ChunkError, Pass, StrictRows

NO_INSTRUCTION_DIGEST = column_digest(np.zeros(INSTRUCTION_BYTES, np.uint8))


class AlteredError(StoreError):
    """An episode can be decoded but differs from what was recorded."""


class TrajectoryStore:
    """Read access to the episodes that were committed when the store was opened. A writer may add more meanwhile.

    Each process should open its own, which is cheap and shares nothing.

    Attributes:
        path: the folder that files are read from. For a store at an address, it is a part of the cache.
        name: the path or address by which the user knows the store.
        is_remote: whether the store is at an address.
        hint: advice on damage, for messages.
        layout: the columns of the store.
        spec: specification of the recorded robot.
        recording: the writer's description of how the store was recorded.
        episode_ends: int64 `[E]`, row after the last one of each episode.
        episode_seeds: int64 `[E]`.
        records: checksums `[E]`; None for a store of schema 1, which has none.
    """

    def __init__(self, files: StoreFiles, attributes: dict[str, Any]) -> None:
        self.path, self.name, self.is_remote, self.hint = files.root, files.name, files.is_remote, files.hint
        self.layout = Layout.described(attributes, self.name, f": {self.hint}")
        if files.is_remote and not self.layout.has_checksums:  # the cache could not tell that the store has changed
            raise StoreError(f"{self.name} is of schema 1, which has no checksums: such stores are not read from afar")
        self.spec = self.layout.spec
        self.recording: dict[str, Any] = attribute(attributes, "recording", self.name)
        # The ends are read first. A live writer may add rows afterwards, but the rows up to these ends exist already.
        types = self.layout.array_types
        index: list[str] = [name for name in (ENDS, SEEDS, RECORDS, INSTRUCTIONS) if name in types]
        self._rows = {name: _rows(files, name, types[name]) for name in index}
        self.episode_ends = self._read_ends()
        self.episode_seeds = self._read_all(SEEDS, len(self.episode_ends)).astype(np.int64)
        self.records: Records | None = self._read_records() if self.layout.has_checksums else None
        arrays = {name: self.layout.array(name) for name in self.layout.columns}
        self._rows |= {name: _rows(files, array, types[array]) for name, array in arrays.items()}
        self._require_rows()

    @classmethod
    def open(cls, path: str | Path) -> Self:
        """Open a folder or an address (`https://...`, `http://...`, `s3://...`) for reading.

        Raises:
            StoreError: when there is no store at `path`, or it is damaged or newer than this program.
            UnreachableError: a StoreError, when the server of an address does not answer as it should.
            UserError: when a library for the address is not installed.
        """
        files = _files(path)
        try:
            attributes = group_attributes(files.root)
        except FileNotFoundError as error:
            raise StoreError(NOT_A_STORE.format(path=files.name)) from error
        except MetadataError as error:
            raise StoreError(f"{files.name} is damaged ({error}), or no trajectory store: {files.hint}") from error
        return cls(files, attributes)

    @property
    def num_episodes(self) -> int:
        """Number of whole episodes, `E`."""
        return len(self.episode_ends)

    @property
    def num_rows(self) -> int:
        """Number of observations in whole episodes, `N`."""
        return int(self.episode_ends[-1]) if self.num_episodes else 0

    @property
    def num_steps(self) -> int:
        """Number of actions that were taken, `N - E`."""
        return self.num_rows - self.num_episodes

    @cached_property
    def identity(self) -> str:
        """SHA-256 (hexadecimal) of the environment, the recording and the checksums of all episodes.

        A store of schema 1 has no checksums, so all of it is read once. Raises StoreError if it is damaged.
        """
        description = json.dumps([self.spec.to_dict(), self.recording], sort_keys=True)
        digest = hashlib.sha256(description.encode())
        if self.records is not None:
            digest.update(chain(self.records).encode())
            return digest.hexdigest()
        digest.update(self.episode_ends.tobytes())
        digest.update(self.episode_seeds.tobytes())
        for name in self.layout.columns:
            for rows in self.blocks(name):
                digest.update(np.ascontiguousarray(rows).reshape(-1).view(np.uint8).data)
        return digest.hexdigest()

    def episode_rows(self, index: int) -> slice:
        """Rows of one episode."""
        if not 0 <= index < self.num_episodes:
            raise IndexError(f"episode {index}: {self.name} has {self.num_episodes}")
        return slice(int(self.episode_ends[index - 1]) if index else 0, int(self.episode_ends[index]))

    def episode(self, index: int) -> Episode:
        """One whole episode.

        Raises:
            StoreError: when one of its chunks is missing or damaged, or the episode differs from what was recorded.
        """
        rows = self.episode_rows(index)
        columns = {name: self.read(name, rows.start, rows.stop) for name in self.layout.columns}
        for name, values in columns.items():
            try:
                self._require_recorded(index, name, column_digest(values))
            except AlteredError:
                if not self.is_remote:
                    raise
                columns[name] = self.read(name, rows.start, rows.stop)  # again, since the cache has discarded it
                self._require_recorded(index, name, column_digest(columns[name]))
        return Episode.of(self.layout, columns, int(self.episode_seeds[index]), self.instruction(index))

    def instruction(self, index: int) -> str:
        """The instruction to the robot in one episode; empty if there was none. Raises StoreError."""
        self.episode_rows(index)
        if not self.layout.has_instructions:
            return ""
        (row,) = self._read_rows(INSTRUCTIONS, index, index + 1)
        self._require_recorded(index, INSTRUCTION, column_digest(row))
        try:
            return decode_instruction(row)
        except ValueError as error:
            raise StoreError(f"{self.name}: the instruction of episode {index} is no text: {self.hint}") from error

    def column(self, name: str) -> NDArray[Any]:
        """All rows of a column of numbers, `[N, ...]`.

        Raises:
            StoreError: when a chunk is missing or damaged, or an episode differs from what was recorded.
        """
        rows = self._column_rows(name)
        with self._naming(name):
            rows.require(0, self.num_rows)
        values, done = np.empty((self.num_rows, *rows.array.shape[1:]), rows.array.dtype), 0
        for block in self.blocks(name):
            values[done : done + len(block)] = block
            done += len(block)
        return values

    def blocks(self, name: str) -> Iterator[NDArray[Any]]:
        """All rows of a column in order, in blocks `[n, ...]` of at most one chunk.

        An episode is verified only when the iteration continues past its last block.

        Raises: as `column`.
        """
        reading = self.reading(name)
        for index in range(self.num_episodes):
            yield from self.episode_blocks(name, index, reading)

    def reading(self, name: str) -> Pass:
        """A pass over a column, for calls of `episode_blocks` in the order of the episodes."""
        return Pass(self._column_rows(name), self.num_rows)

    def episode_blocks(self, name: str, index: int, reading: Pass) -> Iterator[NDArray[Any]]:
        """The rows of one episode and column, in blocks as from `blocks`."""
        rows, digest = self.episode_rows(index), ColumnDigest()
        with self._naming(name):
            for block in reading.blocks(rows.start, rows.stop):
                if self.records is not None:
                    digest.update(block)
                yield block
        self._require_recorded(index, name, digest.digest())

    def digests(self, index: int) -> dict[str, bytes]:
        """The digests of each column of one episode and of its instruction. Only stores with checksums have them."""
        assert self.records is not None
        recorded = (digest.tobytes() for digest in self.records["digests"][index])
        return {INSTRUCTION: NO_INSTRUCTION_DIGEST} | dict(zip(self.layout.digested, recorded, strict=True))

    def read(self, name: str, start: int, stop: int) -> NDArray[Any]:
        """Rows `start:stop` of the column `name`, `[stop - start, ...]`, without a comparison of checksums.

        Columns are `images/<camera>`, `action`, `proprio`, `state`, and in some stores `reward`.

        Raises:
            StoreError: when a chunk of these rows is missing or damaged.
        """
        self._column_rows(name)
        if not 0 <= start <= stop <= self.num_rows:
            raise IndexError(f"rows {start}:{stop} of {name}: {self.name} has {self.num_rows}")
        return self._read_rows(name, start, stop)

    def _column_rows(self, name: str) -> StrictRows:
        if name not in self.layout.columns:
            raise UserError(choices_message("column", name, self.layout.columns))
        return self._rows[name]

    def _require_recorded(self, index: int, name: str, digest: bytes) -> None:
        """Raises AlteredError if a column of an episode no longer has the digest that was recorded."""
        if self.records is None or self.digests(index)[name] == digest:
            return
        rows = self.episode_rows(index)
        place = slice(index, index + 1) if name == INSTRUCTION else rows
        self._rows[INSTRUCTIONS if name == INSTRUCTION else name].forget(place.start, place.stop)
        raise AlteredError(
            f"{self.name}: {name} of episode {index} is not what was recorded (its checksum differs): "
            f"restore the files, or {self.hint}"
        )

    def _read_rows(self, name: str, start: int, stop: int) -> NDArray[Any]:
        with self._naming(name):
            return self._rows[name].read(start, stop)

    @contextlib.contextmanager
    def _naming(self, name: str) -> Iterator[None]:
        """A context for reads of rows. It turns a ChunkError into a StoreError."""
        try:
            yield
        except ChunkError as error:
            array = self._rows[name].array
            where = f"{self.name}: chunk {error.chunk} of {array.path} {error.what} ({error.file.name})"
            if name in self.layout.columns:
                episode = int(np.searchsorted(self.episode_ends, error.row, side="right"))
                where = f"{where}, in episode {episode}"
            raise StoreError(f"{where}: restore the file, or {self.hint}") from error

    def _read_ends(self) -> NDArray[np.int64]:
        """The episode ends, read in blocks. A damaged shape may claim endless episodes, but ends have to increase."""
        rows = self._rows[ENDS]
        blocks, last = [np.zeros(0, np.int64)], 0
        with self._naming(ENDS):
            for block in Pass(rows, len(rows)).blocks(0, len(rows)):
                if (np.diff(block, prepend=last) <= 0).any():
                    raise StoreError(f"{self.name} is damaged: {ENDS} does not increase")
                blocks.append(block.astype(np.int64))
                last = int(block[-1])
        return np.concatenate(blocks)

    def _read_all(self, name: str, length: int) -> NDArray[Any]:
        present = len(self._rows[name])
        if present < length:
            raise StoreError(f"{self.name} is truncated: {name} has {present} entries, not {length}")
        return self._read_rows(name, 0, length)

    def _read_records(self) -> Records:
        records = from_bytes(self._read_all(RECORDS, self.num_episodes))
        same = (records["end"] == self.episode_ends).all() and (records["seed"] == self.episode_seeds).all()
        if not same or self._rows[ENDS].array.attrs.get(CHAIN) != chain(records):
            for name in (ENDS, SEEDS, RECORDS):
                self._rows[name].forget(0, self.num_episodes)
            raise StoreError(
                f"{self.name} is damaged: {ENDS}, {SEEDS} and {RECORDS} contradict each other: {self.hint}"
            )
        return records

    def _require_rows(self) -> None:
        """Raises StoreError if an array has fewer rows than the episode ends require."""
        promised = dict.fromkeys(self.layout.columns, self.num_rows)
        if self.layout.has_instructions:
            promised[INSTRUCTIONS] = self.num_episodes
        for name, length in promised.items():
            array = self._rows[name].array
            if array.shape[0] < length:
                raise StoreError(
                    f"{self.name} is truncated: {array.path} has {array.shape[0]} rows, {ENDS} promises {length}"
                )


def recovered_path(path: Path) -> Path:
    """Where a recovery keeps the new store that will replace the one at `path`."""
    return path.with_name(f"{path.name}.recovered")


def _files(path: str | Path) -> StoreFiles:
    address = address_in(path)
    if address is not None:
        # The ends come first for the same reason as above. A writer may be adding episodes meanwhile.
        return RemoteFiles.open(address, ["zarr.json", f"{ENDS}/zarr.json"], _other_descriptions)
    path = Path(path)
    if not path.exists() and recovered_path(path).exists():
        raise StoreError(f"the recovery of {path} was interrupted: `python -m worldmodel.data recover {path}`")
    if not path.exists():
        raise StoreError(f"no recording at {path}: {HOW_TO_MAKE_ONE}")
    return LocalFiles(path)


def _other_descriptions(root: Path) -> list[str]:
    """Further files to fetch for a store whose description is in `root`; none if the description is damaged."""
    try:
        layout = Layout.described(group_attributes(root), root)
    except (FileNotFoundError, MetadataError, StoreError):
        return []  # opening the store reports the damage
    return [f"{name}/zarr.json" for name in layout.array_types if name != ENDS]


def _rows(files: StoreFiles, name: str, row: RowType) -> StrictRows:
    try:
        return StrictRows(files, open_array(files.root, name, row))
    except MetadataError as error:
        raise StoreError(f"{files.name} is damaged: {name}: {error}: {files.hint}") from error

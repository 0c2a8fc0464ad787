"""Adds episodes to a trajectory store. A kill or a power cut at any time loses no committed episode."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import zarr
from numpy.typing import NDArray
from zarr.core.buffer import default_buffer_prototype
from zarr.core.metadata import ArrayMetadata

from worldmodel.core.errors import UserError
from worldmodel.core.files import PARTIAL
from worldmodel.core.spec import EnvironmentSpec
from worldmodel.data.store.creating import create_store, is_vacant
from worldmodel.data.store.durable import DurableLocalStore, make_folder, writing
from worldmodel.data.store.files import require_folder
from worldmodel.data.store.instruction import encode_instruction
from worldmodel.data.store.integrity import Records, chain, column_digest, make_records, to_bytes
from worldmodel.data.store.layout import (
    CHAIN,
    ENDS,
    INSTRUCTIONS,
    RECORDS,
    REWARD,
    SCHEMA_VERSION,
    SEEDS,
    Layout,
)
from worldmodel.data.store.lock import WriterLock
from worldmodel.data.store.metadata import MetadataError, open_array
from worldmodel.data.store.reader import Episode, StoreError, TrajectoryStore
from worldmodel.data.store.rows import chunk_number, rows_per_file


class EpisodeWriter:
    """Creates a trajectory store, or continues one in whatever way its last writer ended.

    `append` keeps episodes in memory. They are safe once `commit` returns. `append` commits after every
    `episodes_per_commit` episodes, and leaving the context without an error commits the rest. A commit first writes
    rows, seeds and checksums and syncs them to disk. Then it atomically replaces `meta/episode_ends/zarr.json`, which
    holds the new shape and the checksum of all records. A reader sees none of the new episodes before that, and all of
    them afterwards.

    Args:
        path: the store's directory; an address is refused with UserError.
        spec: specification of the recorded robot.
        recording: how the store is recorded, as JSON values (for example the seed). Later writers must give the same.
        episodes_per_commit: a larger number is faster, and loses more episodes to a kill.
        reward: whether every episode has rewards.
    """

    def __init__(
        self,
        path: str | Path,
        spec: EnvironmentSpec,
        recording: Mapping[str, Any] | None = None,
        episodes_per_commit: int = 20,
        *,
        reward: bool = False,
    ) -> None:
        require_folder(path)
        self.path = Path(path)
        self._layout = Layout(spec, reward)
        self._recording = _as_json(recording or {})
        self._episodes_per_commit = episodes_per_commit
        self._lock = WriterLock(self.path)
        self._store = DurableLocalStore(self.path)
        self._arrays: dict[str, zarr.Array[Any]] = {}
        self._pending: list[Episode] = []
        self._records = make_records([], [], [], len(self._layout.digested))
        self._num_rows = self._num_episodes = 0

    @property
    def num_episodes(self) -> int:
        """Number of committed episodes."""
        return self._num_episodes

    @property
    def num_rows(self) -> int:
        """Number of committed rows."""
        return self._num_rows

    def __enter__(self) -> Self:
        """Open or create the store.

        Raises:
            UserError: when another writer is at work, or the store was recorded differently.
            WritingStopped: when the disk is full or fails.
        """
        try:
            with writing(self.path):
                make_folder(self.path.parent)
                self._lock.acquire()
                if is_vacant(self.path):
                    create_store(self.path, self._layout, self._recording)
                self._resume()
        except BaseException:
            self._lock.release()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            # After the user's interruption, pending episodes are complete. After an error, they are doubtful.
            if kind is None or issubclass(kind, KeyboardInterrupt):
                self.commit()
        finally:
            self._lock.release()

    def append(self, episode: Episode) -> None:
        """Add one complete episode.

        Raises:
            UserError: when it does not have the store's shapes, or holds a number that is not finite.
            WritingStopped: when the disk is full or fails.
        """
        self._check(episode)
        self._pending.append(episode)
        if len(self._pending) >= self._episodes_per_commit:
            self.commit()

    def commit(self) -> None:
        """Make all appended episodes durable and visible. A repeated call is safe, also after a failure.

        Ctrl-C takes effect after the commit.

        Raises:
            WritingStopped: when the disk is full or fails. The episodes stay pending.
        """
        if self._pending:
            with writing(self.path):
                self._commit()

    def discard_pending(self) -> None:
        """Drop all episodes that were appended and not committed."""
        self._pending.clear()

    def _commit(self) -> None:
        pending = [episode.columns for episode in self._pending]
        rows = {self._layout.array(name): [columns[name] for columns in pending] for name in self._layout.columns}
        for array, values in rows.items():
            self._write_rows(array, self._num_rows, np.concatenate(values))
        seeds = np.array([e.seed for e in self._pending], np.int64)
        ends = self._num_rows + np.cumsum([len(e.action) for e in self._pending], dtype=np.int64)
        instructions = np.stack([encode_instruction(e.instruction) for e in self._pending])
        digests = [
            [*(column_digest(columns[name]) for name in self._layout.columns), column_digest(instruction)]
            for columns, instruction in zip(pending, instructions, strict=True)
        ]
        new = make_records(ends, seeds, digests, len(self._layout.digested))
        records = np.concatenate([self._records, new])
        index: dict[str, NDArray[Any]] = {SEEDS: seeds, INSTRUCTIONS: instructions, RECORDS: to_bytes(new)}
        for array, entries in index.items():
            self._write_rows(array, self._num_episodes, entries)
        for array in (*rows, *index):
            self._set_length(array, int(ends[-1]) if array in rows else len(records))
        self._write_rows(ENDS, self._num_episodes, ends)
        self._store.sync_directories()
        self._publish(records)
        self._records = records
        self._num_rows, self._num_episodes = int(ends[-1]), len(records)
        self._pending.clear()

    def _publish(self, records: Records) -> None:
        """Replace the one file that determines which episodes exist."""
        array = self._arrays[ENDS]
        metadata = array.metadata.update_shape((len(records),))
        metadata = metadata.update_attributes({CHAIN: chain(records)})
        for name, content in metadata.to_buffer_dict(default_buffer_prototype()).items():
            self._store.set_sync(f"{array.path}/{name}", content)
        self._store.sync_directories()
        self._arrays[ENDS] = _described(array, metadata)

    def _write_rows(self, name: str, start: int, values: NDArray[Any]) -> None:
        """Write beyond the end of an array, without a change to its shape on disk."""
        array = self._arrays[name]
        longer = _described(array, array.metadata.update_shape((start + len(values), *array.shape[1:])))
        longer[start:] = values

    def _set_length(self, name: str, length: int) -> None:
        array = self._arrays[name]
        array.resize((length, *array.shape[1:]))

    def _resume(self) -> None:
        committed = TrajectoryStore.open(self.path)
        require_same_recording(committed, self._layout, self._recording)
        if committed.layout.version < SCHEMA_VERSION or committed.records is None:
            raise UserError(
                f"{self.path} is of schema {committed.layout.version}, which is read and not added to: "
                f"`python -m worldmodel.data upgrade {self.path} NEW` makes a store that can be"
            )
        self._records = committed.records
        self._num_rows, self._num_episodes = committed.num_rows, committed.num_episodes
        if self._num_episodes:  # an append fills up the last chunk, and zarr would read a missing one as zeros
            for name in self._layout.columns:
                committed.read(name, self._num_rows - 1, self._num_rows)
            committed.instruction(self._num_episodes - 1)
        for leftover in self.path.rglob(f"*{PARTIAL}"):
            leftover.unlink()
        for name in self._layout.array_types:
            self._arrays[name] = self._open(name)
            length = self._num_rows if name.startswith("data/") else self._num_episodes
            if self._arrays[name].shape[0] != length:
                self._set_length(name, length)
            self._remove_chunks_beyond(name, length)

    def _open(self, name: str) -> zarr.Array[Any]:
        # zarr alone would refuse metadata that a reader ignores, with errors of its own.
        try:
            array = open_array(self.path, name, self._layout.array_types[name], self._store)
        except MetadataError as error:
            if isinstance(error.__cause__, OSError):  # the disk fails, since the file was readable just before
                raise error.__cause__ from None
            raise StoreError(f"{self.path} is damaged: {name}: {error}") from error
        # By default zarr does not write chunks that are all zeros, so a black frame would look like a lost one.
        return array.with_config({"write_empty_chunks": True})

    def _remove_chunks_beyond(self, name: str, length: int) -> None:
        keep = -(-length // rows_per_file(self._arrays[name]))
        for file in (self.path / name).glob("c.*"):
            number = chunk_number(file)
            if number is not None and number >= keep:
                file.unlink()

    def _check(self, episode: Episode) -> None:
        length, columns = len(episode.action), episode.columns
        if columns.keys() != set(self._layout.columns):
            has, expected = sorted(columns), sorted(self._layout.columns)
            raise UserError(f"episode has the columns {', '.join(has)}, expected {', '.join(expected)}")
        for name, (dtype, shape) in self._layout.row_types.items():
            values = columns[name]
            if values.shape != (length, *shape) or values.dtype != dtype:
                raise UserError(
                    f"episode has {name} {values.dtype} {list(values.shape)}, expected {dtype} {[length, *shape]}"
                )
            if not np.isfinite(values).all():
                raise UserError(f"episode has {name} with a number that is not finite")
        if length < 2:
            raise UserError(f"episode has {length} observations, expected at least 2")
        for name in ("action", REWARD):
            if name in columns and columns[name][-1].any():
                raise UserError(f"episode has a last {name} other than zero: no action follows the last observation")
        encode_instruction(episode.instruction)


def require_same_recording(store: TrajectoryStore, layout: Layout, recording: Mapping[str, Any]) -> None:
    """Raises UserError if `store` records something else or was recorded differently. It cannot be continued then."""
    made, wanted = store.recording.keys(), _as_json(recording).keys()
    if made != wanted:
        raise UserError(
            f"{store.path} holds a recording that came about otherwise (its description has {_listed(made)}, that of "
            f"this run {_listed(wanted)}): write to another place"
        )
    for stored, given in (
        (store.recording, _as_json(recording)),
        (store.spec.to_dict(), _as_json(layout.spec.to_dict())),
        ({"reward": store.layout.has_reward}, {"reward": layout.has_reward}),
    ):
        for name in sorted(stored.keys() | given.keys()):
            if stored.get(name) != given.get(name):
                raise UserError(
                    f"{store.path} was recorded with {name} {stored.get(name)}, this run has {given.get(name)}: "
                    "use the same, or write to another place"
                )


def _listed(names: Iterable[str]) -> str:
    return ", ".join(sorted(names)) or "nothing"


def _as_json(recording: Mapping[str, Any]) -> dict[str, Any]:
    """The values as they come back from a JSON file. Raises UserError for values that JSON cannot express."""
    try:
        values: dict[str, Any] = json.loads(json.dumps(dict(recording), allow_nan=False))
    except (TypeError, ValueError) as error:
        raise UserError(f"recording is {recording!r} ({error}): expected JSON values") from error
    return values


def _described(array: zarr.Array[Any], metadata: ArrayMetadata) -> zarr.Array[Any]:
    """The same array under the description `metadata`, whatever its file says."""
    return zarr.Array(zarr.AsyncArray(metadata=metadata, store_path=array.store_path, config=array.async_array.config))

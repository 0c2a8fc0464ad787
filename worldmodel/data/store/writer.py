"""Adding episodes to a trajectory store so that a kill or a power cut at any moment loses no committed episode."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import zarr
from numpy.typing import DTypeLike, NDArray
from zarr.codecs import ZstdCodec
from zarr.core.buffer import default_buffer_prototype
from zarr.core.metadata import ArrayMetadata

from worldmodel.core.errors import UserError
from worldmodel.core.files import PARTIAL
from worldmodel.core.spec import EnvironmentSpec
from worldmodel.data.store.durable import DurableLocalStore, make_folder, sync_directory, writing
from worldmodel.data.store.files import require_folder
from worldmodel.data.store.integrity import (
    COLUMNS,
    RECORD_BYTES,
    Records,
    chain,
    column_digest,
    description_checksum,
    make_records,
    to_bytes,
)
from worldmodel.data.store.lock import WriterLock
from worldmodel.data.store.metadata import MetadataError, open_array
from worldmodel.data.store.reader import (
    CHAIN,
    ENDS,
    FORMAT,
    RECORDS,
    SCHEMA_VERSION,
    SEEDS,
    Episode,
    StoreError,
    TrajectoryStore,
    array_types,
    row_types,
)
from worldmodel.data.store.rows import chunk_number, rows_per_file

_PIXEL_CHUNK = 16  # frames: about one clip, so that a random clip decodes two chunks
_VECTOR_CHUNK = 512  # rows: few files, and the last one is still cheap to write again
_META_CHUNK = 4096
_PACKED_BYTES = 64_000_000  # of a file of a packed store, before compression


class EpisodeWriter:
    """Creates a trajectory store, or goes on where an earlier writer stopped, however it stopped.

    `append` keeps episodes in memory; they are safe once `commit` returns (which `append` calls for every
    `episodes_per_commit` of them, and leaving the context without an error does too). Commit order: rows, seeds and
    checksums, synced to disk, then the shape in `meta/episode_ends/zarr.json`, replaced atomically together with the
    checksum of all records. Until that instant a reader sees nothing of the new episodes, after it all of them.

    Args:
        path: the store's directory; an address is refused with UserError.
        spec: what is recorded.
        recording: how, as JSON values (for example the seed); a later writer must say the same.
        episodes_per_commit: more is faster, and loses more to a kill.
    """

    def __init__(
        self,
        path: str | Path,
        spec: EnvironmentSpec,
        recording: Mapping[str, Any] | None = None,
        episodes_per_commit: int = 20,
    ) -> None:
        require_folder(path)
        self.path = Path(path)
        self._spec = spec
        self._recording = _as_json(recording or {})
        self._episodes_per_commit = episodes_per_commit
        self._lock = WriterLock(self.path)
        self._store = DurableLocalStore(self.path)
        self._arrays: dict[str, zarr.Array[Any]] = {}
        self._pending: list[Episode] = []
        self._records = make_records([], [], [])
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
        """Raises UserError when another writer is at work, or the store was recorded differently.

        WritingStopped when the disk is full, or fails.
        """
        try:
            with writing(self.path):
                make_folder(self.path.parent)
                self._lock.acquire()
                if is_vacant(self.path):
                    create_store(self.path, self._spec, self._recording)
                self._resume()
        except BaseException:
            self._lock.release()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            # Interrupted by the user, what is pending is whole and welcome; after an error it is suspect.
            if kind is None or issubclass(kind, KeyboardInterrupt):
                self.commit()
        finally:
            self._lock.release()

    def append(self, episode: Episode) -> None:
        """Take over one whole episode.

        Raises:
            UserError: when it does not have the store's shapes, or holds a number that is not finite.
            WritingStopped: when the disk is full, or fails.
        """
        self._check(episode)
        self._pending.append(episode)
        if len(self._pending) >= self._episodes_per_commit:
            self.commit()

    def commit(self) -> None:
        """Make everything that was appended durable and visible. Doing it twice, or again after a failure, is safe.

        Ctrl-C waits until it is done.

        Raises:
            WritingStopped: when the disk is full, or fails. What was pending still is.
        """
        if self._pending:
            with writing(self.path):
                self._commit()

    def discard_pending(self) -> None:
        """Forget what was appended and is not committed."""
        self._pending.clear()

    def _commit(self) -> None:
        for name in COLUMNS:
            self._write_rows(f"data/{name}", self._num_rows, np.concatenate([getattr(e, name) for e in self._pending]))
        seeds = np.array([e.seed for e in self._pending], np.int64)
        ends = self._num_rows + np.cumsum([len(e.pixels) for e in self._pending], dtype=np.int64)
        digests = [{name: column_digest(getattr(e, name)) for name in COLUMNS} for e in self._pending]
        records = np.concatenate([self._records, make_records(ends, seeds, digests)])
        self._write_rows(SEEDS, self._num_episodes, seeds)
        self._write_rows(RECORDS, self._num_episodes, to_bytes(records[self._num_episodes :]))
        for name in (*(f"data/{name}" for name in COLUMNS), SEEDS, RECORDS):
            self._set_length(name, int(ends[-1]) if name.startswith("data/") else len(records))
        self._write_rows(ENDS, self._num_episodes, ends)
        self._store.sync_directories()
        self._publish(records)
        self._records = records
        self._num_rows, self._num_episodes = int(ends[-1]), len(records)
        self._pending.clear()

    def _publish(self, records: Records) -> None:
        """Replace the one file that says what exists."""
        array = self._arrays[ENDS]
        metadata = array.metadata.update_shape((len(records),))
        metadata = metadata.update_attributes({CHAIN: chain(records)})
        for name, content in metadata.to_buffer_dict(default_buffer_prototype()).items():
            self._store.set_sync(f"{array.path}/{name}", content)
        self._store.sync_directories()
        self._arrays[ENDS] = _described(array, metadata)

    def _write_rows(self, name: str, start: int, values: NDArray[Any]) -> None:
        """Write beyond the end of an array whose shape on disk stays as it is."""
        array = self._arrays[name]
        longer = _described(array, array.metadata.update_shape((start + len(values), *array.shape[1:])))
        longer[start:] = values

    def _set_length(self, name: str, length: int) -> None:
        array = self._arrays[name]
        array.resize((length, *array.shape[1:]))

    def _resume(self) -> None:
        committed = TrajectoryStore.open(self.path)
        require_same_recording(committed, self._spec, self._recording)
        if committed.records is None:
            raise UserError(
                f"{self.path} is of schema 1, which has no checksums, and cannot be added to: "
                f"`python -m worldmodel.data pack {self.path} NEW` makes one that can"
            )
        self._records = committed.records
        self._num_rows, self._num_episodes = committed.num_rows, committed.num_episodes
        if self._num_rows:
            for name in COLUMNS:  # an append fills up the last chunk: zarr would take a missing one for zeros
                committed.read(name, self._num_rows - 1, self._num_rows)
        for leftover in self.path.rglob(f"*{PARTIAL}"):
            leftover.unlink()
        for name in (*(f"data/{name}" for name in COLUMNS), SEEDS, RECORDS, ENDS):
            self._arrays[name] = self._open(name)
            length = self._num_rows if name.startswith("data/") else self._num_episodes
            if self._arrays[name].shape[0] != length:
                self._set_length(name, length)
            self._remove_chunks_beyond(name, length)

    def _open(self, name: str) -> zarr.Array[Any]:
        # Not by zarr alone: it refuses, in its own way, what a reader passes over.
        try:
            array = open_array(self.path, name, array_types(self._spec)[name], self._store)
        except MetadataError as error:
            if isinstance(error.__cause__, OSError):  # the disk fails: it could be read a moment ago
                raise error.__cause__ from None
            raise StoreError(f"{self.path} is damaged: {name}: {error}") from error
        # By default zarr leaves out chunks that are all zeros: a black frame would read as a lost one.
        return array.with_config({"write_empty_chunks": True})

    def _remove_chunks_beyond(self, name: str, length: int) -> None:
        keep = -(-length // rows_per_file(self._arrays[name]))
        for file in (self.path / name).glob("c.*"):
            number = chunk_number(file)
            if number is not None and number >= keep:
                file.unlink()

    def _check(self, episode: Episode) -> None:
        length = len(episode.pixels)
        for name, (dtype, shape) in row_types(self._spec).items():
            values = getattr(episode, name)
            if values.shape != (length, *shape) or values.dtype != dtype:
                raise UserError(
                    f"episode has {name} {values.dtype} {list(values.shape)}, expected {dtype} {[length, *shape]}"
                )
            if not np.isfinite(values).all():
                raise UserError(f"episode has {name} with a number that is not finite")
        if length < 2:
            raise UserError(f"episode has {length} observations, expected at least 2")
        if episode.action[-1].any():
            raise UserError("episode has a last action other than zero: no action follows the last observation")


def require_same_recording(store: TrajectoryStore, spec: EnvironmentSpec, recording: Mapping[str, Any]) -> None:
    """Raises UserError where `store` is a recording of something else, or made otherwise: it is not gone on with."""
    for stored, given in ((store.recording, _as_json(recording)), (store.spec.to_dict(), _as_json(spec.to_dict()))):
        for name in sorted(stored.keys() | given.keys()):
            if stored.get(name) != given.get(name):
                raise UserError(
                    f"{store.path} was recorded with {name} {stored.get(name)}, this run has {given.get(name)}: "
                    "use the same, or write to another place"
                )


def is_vacant(path: Path) -> bool:
    """Whether a store can be made at `path`: nothing is there, or an empty folder."""
    return not path.exists() or (path.is_dir() and not any(path.iterdir()))


def _as_json(recording: Mapping[str, Any]) -> dict[str, Any]:
    """As it comes back from a file. Raises UserError for what JSON has no word for."""
    try:
        values: dict[str, Any] = json.loads(json.dumps(dict(recording), allow_nan=False))
    except (TypeError, ValueError) as error:
        raise UserError(f"recording is {recording!r} ({error}): expected JSON values") from error
    return values


def create_store(path: Path, spec: EnvironmentSpec, recording: Mapping[str, Any], packed: bool = False) -> None:
    """An empty store, which appears at `path` whole or not at all.

    `packed` puts many chunks into one file (zarr's shards), as archives and object storage like it. A clip is read from
    it all the same; adding an episode writes the last file anew.
    """
    require_folder(path)
    draft = path.with_name(path.name + PARTIAL)
    if draft.exists():
        shutil.rmtree(draft)
    store = DurableLocalStore(draft)
    attributes = {
        "format": FORMAT,
        "schema_version": SCHEMA_VERSION,
        "environment": spec.to_dict(),
        "recording": dict(recording),
        "packed": packed,
        "zarr_version": zarr.__version__,
    }
    attributes["checksum"] = description_checksum(attributes)
    group = zarr.create_group(store, attributes=attributes)
    group.create_group("meta", attributes=attributes)  # a second copy: without a description, nothing can be read
    for name, (dtype, shape) in row_types(spec).items():
        chunk = _PIXEL_CHUNK if name == "pixels" else _VECTOR_CHUNK
        row_bytes = dtype.itemsize * math.prod(max(1, size) for size in shape)  # in a chunk, no length is 0
        per_file = max(1, _PACKED_BYTES // (chunk * row_bytes)) if packed else None
        _create_array(group, f"data/{name}", shape, chunk, dtype, per_file)
    for name in (SEEDS, ENDS):
        _create_array(group, name, (), _META_CHUNK, np.int64)
    _create_array(group, RECORDS, (RECORD_BYTES,), _META_CHUNK, np.uint8)
    group[ENDS].update_attributes({CHAIN: chain(make_records([], [], []))})
    store.sync_directories()
    draft.replace(path)
    sync_directory(path.parent)


def _described(array: zarr.Array[Any], metadata: ArrayMetadata) -> zarr.Array[Any]:
    """The same array as `metadata` describes it, whatever its file says."""
    return zarr.Array(zarr.AsyncArray(metadata=metadata, store_path=array.store_path, config=array.async_array.config))


def _create_array(
    group: zarr.Group,
    name: str,
    row_shape: tuple[int, ...],
    chunk: int,
    dtype: DTypeLike,
    chunks_per_file: int | None = None,
) -> None:
    within = tuple(max(1, size) for size in row_shape)
    group.create_array(
        name,
        shape=(0, *row_shape),
        chunks=(chunk, *within),
        shards=None if chunks_per_file is None else (chunk * chunks_per_file, *within),
        dtype=dtype,
        compressors=ZstdCodec(level=1, checksum=True),
        fill_value=0,
        chunk_key_encoding={"name": "default", "separator": "."},  # one folder per array, not one per chunk
    )

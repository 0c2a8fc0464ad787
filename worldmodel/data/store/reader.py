"""The trajectory store: recorded episodes in one zarr v3 group.

    data/pixels    [N, H, W, 3] uint8      chunks of 16 frames, about one clip
    data/action    [N, A]       float32    physical units; row t holds the action taken at t
    data/proprio   [N, P]       float32
    data/state     [N, S]       float64    simulator state, for evaluation only
    meta/episode_ends  [E]      int64      row after the last one of each episode
    meta/episode_seed  [E]      int64
    meta/episode_record  [E, 88]  uint8    checksums (`worldmodel.data.store.integrity`)

An episode of T actions has T + 1 rows, one per observation. **The last row's action is zero and was never taken**: the
action of row t leads to row t + 1 only where both rows are of one episode.

`episode_ends` is written last, so it alone says what exists: rows beyond its last entry are leftovers of an interrupted
writer. zarr reads a missing chunk as zeros without a word, so every read here first checks that its chunks exist.
The layout is that of Diffusion Policy (Chi et al. 2023), in zarr v3. Stores of schema 1 have no checksums.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from pathlib import Path
from typing import Any, Final, Self

import numpy as np
from numpy.typing import NDArray

from worldmodel.core.errors import UserError, choices_message
from worldmodel.core.spec import EnvironmentSpec
from worldmodel.data.store.files import LocalFiles, StoreFiles, address_in
from worldmodel.data.store.files import StoreError as StoreError
from worldmodel.data.store.integrity import (
    COLUMNS,
    RECORD_BYTES,
    Records,
    chain,
    column_digest,
    description_checksum,
    from_bytes,
)
from worldmodel.data.store.metadata import MetadataError, RowType, group_attributes, open_array
from worldmodel.data.store.remote import RemoteFiles
from worldmodel.data.store.rows import ChunkError, StrictRows

FORMAT: Final = "trajectory-store"
SCHEMA_VERSION: Final = 2
ENDS: Final = "meta/episode_ends"
SEEDS: Final = "meta/episode_seed"
RECORDS: Final = "meta/episode_record"
# Attribute of `meta/episode_ends`, so that one rename changes both: the checksum of all records.
CHAIN: Final = "records"
_HOW_TO_MAKE_ONE = (
    "make one with `python -m envs.collect`, `worldmodel.data.Recorder` or `python -m worldmodel.data import`"
)
_NOT_A_STORE = "{path} is not a trajectory store: " + _HOW_TO_MAKE_ONE


@dataclasses.dataclass(frozen=True)
class Episode:
    """One recorded episode of `T` actions.

    Attributes:
        pixels: uint8 `[T+1, H, W, 3]`.
        action: float32 `[T+1, A]`, in physical units; the last row is zero and was never taken.
        proprio: float32 `[T+1, P]`.
        state: float64 `[T+1, S]`, the simulator's.
        seed: what the environment was reset with.
    """

    pixels: NDArray[np.uint8]
    action: NDArray[np.float32]
    proprio: NDArray[np.float32]
    state: NDArray[np.float64]
    seed: int

    @property
    def num_steps(self) -> int:
        """Number of actions taken, `T`."""
        return len(self.action) - 1


class TrajectoryStore:
    """Read access to the episodes that were whole when it was opened; a writer may go on adding more.

    Open one in each process: it is cheap and shares nothing.

    Attributes:
        path: the folder that its files are read from; of a store at an address, a part of the cache.
        name: what the user calls it: its path or address.
        is_remote: whether it is at an address.
        hint: what can be done about damage, for messages.
        spec: what was recorded.
        recording: how it was recorded, as its writer described it.
        episode_ends: int64 `[E]`, row after the last one of each episode.
        episode_seeds: int64 `[E]`.
        records: checksums `[E]`; None for a store of schema 1, which has none.
    """

    def __init__(self, files: StoreFiles, attributes: dict[str, Any]) -> None:
        self.path, self.name, self.is_remote, self.hint = files.root, files.name, files.is_remote, files.hint
        version = check_schema(attributes, self.name, f": {self.hint}")
        if version < 2 and files.is_remote:  # the cache could not tell that the store has changed
            raise StoreError(f"{self.name} is of schema 1, which has no checksums: such stores are not read from afar")
        self.spec = described_environment(attributes, self.name)
        self.recording: dict[str, Any] = attribute(attributes, "recording", self.name)
        # The ends first: whatever a live writer adds afterwards, the arrays hold at least what they promise.
        types = array_types(self.spec)
        self._rows = {name: _rows(files, name, types[name]) for name in (ENDS, SEEDS)}
        self.episode_ends = self._read_all(ENDS, len(self._rows[ENDS])).astype(np.int64)
        self.episode_seeds = self._read_all(SEEDS, len(self.episode_ends)).astype(np.int64)
        self.records: Records | None = None
        if version >= 2:
            self._rows[RECORDS] = _rows(files, RECORDS, types[RECORDS])
            self.records = self._read_records()
        self._rows |= {name: _rows(files, f"data/{name}", types[f"data/{name}"]) for name in COLUMNS}
        self._check_consistency()

    @classmethod
    def open(cls, path: str | Path) -> Self:
        """Open for reading: a folder, or an address (`https://...`, `http://...`, `s3://...`).

        Raises:
            StoreError: when there is no store at `path`, or it is damaged, or newer than this program.
            UnreachableError: a StoreError, when the server of an address does not answer as it should.
            UserError: when a library for the address is not installed.
        """
        files = _files(path)
        try:
            attributes = group_attributes(files.root)
        except FileNotFoundError as error:
            raise StoreError(_NOT_A_STORE.format(path=files.name)) from error
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

    @property
    def identity(self) -> str:
        """SHA-256 (hexadecimal) of what decides the content: environment, recording, episode ends and seeds."""
        description = json.dumps([self.spec.to_dict(), self.recording], sort_keys=True)
        digest = hashlib.sha256(description.encode())
        digest.update(self.episode_ends.tobytes())
        digest.update(self.episode_seeds.tobytes())
        return digest.hexdigest()

    def episode_rows(self, index: int) -> slice:
        """Rows of one episode."""
        if not 0 <= index < self.num_episodes:
            raise IndexError(f"episode {index}: {self.name} has {self.num_episodes}")
        return slice(int(self.episode_ends[index - 1]) if index else 0, int(self.episode_ends[index]))

    def episode(self, index: int) -> Episode:
        """One whole episode.

        Raises:
            StoreError: when a chunk of it is missing or damaged, or it is not what was recorded.
        """
        rows = self.episode_rows(index)
        columns = {name: self.read(name, rows.start, rows.stop) for name in COLUMNS}
        for name, values in columns.items():
            if not self.is_as_recorded(index, name, values):
                raise StoreError(
                    f"{self.name}: {name} of episode {index} is not what was recorded (its checksum differs): "
                    f"restore the files, or {self.hint}"
                )
        return Episode(**columns, seed=int(self.episode_seeds[index]))

    def is_as_recorded(self, index: int, name: str, values: NDArray[Any]) -> bool:
        """Whether `values [T+1, ...]` have the checksum of that column of that episode; True where there is none."""
        if self.records is None:
            return True
        recorded: bytes = self.records["digests"][index, COLUMNS.index(name)].tobytes()
        if column_digest(values) == recorded:
            return True
        rows = self.episode_rows(index)
        self._rows[name].forget(rows.start, rows.stop)
        return False

    def read(self, name: str, start: int, stop: int) -> NDArray[Any]:
        """Rows `start:stop` of the column `name` (pixels, action, proprio or state), `[stop - start, ...]`.

        Raises:
            StoreError: when a chunk of them is missing or damaged.
        """
        if name not in COLUMNS:
            raise UserError(choices_message("column", name, COLUMNS))
        if not 0 <= start <= stop <= self.num_rows:
            raise IndexError(f"rows {start}:{stop} of {name}: {self.name} has {self.num_rows}")
        return self._read_rows(name, start, stop)

    def _read_rows(self, name: str, start: int, stop: int) -> NDArray[Any]:
        try:
            return self._rows[name].read(start, stop)
        except ChunkError as error:
            where = (
                f"{self.name}: chunk {error.chunk} of {self._rows[name].array.path} {error.what} ({error.file.name})"
            )
            if name in COLUMNS:
                episode = int(np.searchsorted(self.episode_ends, error.row, side="right"))
                where = f"{where}, in episode {episode}"
            raise StoreError(f"{where}: restore the file, or {self.hint}") from error

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

    def _check_consistency(self) -> None:
        if (np.diff(self.episode_ends, prepend=0) <= 0).any():
            raise StoreError(f"{self.name} is damaged: {ENDS} does not increase")
        for name in COLUMNS:
            array = self._rows[name].array
            if array.shape[0] < self.num_rows:
                raise StoreError(
                    f"{self.name} is truncated: data/{name} has {array.shape[0]} rows, {ENDS} promises {self.num_rows}"
                )


_INDEX_TYPES: Final = {
    ENDS: RowType(np.dtype(np.int64), ()),
    SEEDS: RowType(np.dtype(np.int64), ()),
    RECORDS: RowType(np.dtype(np.uint8), (RECORD_BYTES,)),
}


def array_types(spec: EnvironmentSpec) -> dict[str, RowType]:
    """Element type and shape of one row, by array."""
    return {f"data/{column}": row for column, row in row_types(spec).items()} | _INDEX_TYPES


def row_types(spec: EnvironmentSpec) -> dict[str, RowType]:
    """What one row of each column is."""
    return {
        "pixels": RowType(np.dtype(np.uint8), (spec.only_camera.height, spec.only_camera.height, 3)),
        "action": RowType(np.dtype(np.float32), (len(spec.action.low),)),
        "proprio": RowType(np.dtype(np.float32), (spec.proprio_size,)),
        "state": RowType(np.dtype(np.float64), (spec.state_size,)),
    }


def check_schema(attributes: dict[str, Any], path: str | Path, hint: str = "") -> int:
    """The schema version. Raises StoreError for a description that cannot be trusted or understood."""
    if attributes.get("format") != FORMAT:
        raise StoreError(_NOT_A_STORE.format(path=path))
    version = attributes.get("schema_version")
    if not isinstance(version, int) or isinstance(version, bool) or version < 1:
        raise StoreError(f"{path} has schema version {version!r}: expected 1 to {SCHEMA_VERSION}")
    if version > SCHEMA_VERSION:
        raise StoreError(
            f"{path} has schema version {version}, this program reads up to {SCHEMA_VERSION}: update the program"
        )
    if not is_as_written(attributes):
        raise StoreError(f"{path} is damaged: its description in zarr.json is not what was written there{hint}")
    return version


def is_as_written(attributes: dict[str, Any]) -> bool:
    """Whether a store's description has the checksum that was written with it."""
    if "checksum" not in attributes:
        return bool(attributes.get("schema_version") == 1)  # the only schema without
    return bool(attributes["checksum"] == description_checksum(attributes))


def attribute(attributes: dict[str, Any], name: str, path: str | Path) -> dict[str, Any]:
    """The values `name` of a store's description. Raises StoreError where there are none."""
    value = attributes.get(name)
    if not isinstance(value, dict):
        raise StoreError(f"{path} is damaged: it does not say its {name}")
    return value


def described_environment(attributes: dict[str, Any], path: str | Path) -> EnvironmentSpec:
    """What a store's description says of its environment. Raises StoreError where that makes no sense."""
    try:
        return EnvironmentSpec.from_dict(attribute(attributes, "environment", path))
    except StoreError:
        raise
    except UserError as error:
        raise StoreError(f"{path} is damaged: {error}") from error


def recovered_path(path: Path) -> Path:
    """Where a recovery keeps the new store that is about to take the place of the one at `path`."""
    return path.with_name(f"{path.name}.recovered")


def _files(path: str | Path) -> StoreFiles:
    address = address_in(path)
    if address is not None:
        # The ends first, as below: a writer may be adding episodes at this moment.
        others = (SEEDS, RECORDS, *(f"data/{name}" for name in COLUMNS))
        return RemoteFiles.open(address, ["zarr.json", f"{ENDS}/zarr.json"], [f"{name}/zarr.json" for name in others])
    path = Path(path)
    if not path.exists() and recovered_path(path).exists():
        raise StoreError(f"the recovery of {path} was interrupted: `python -m worldmodel.data recover {path}`")
    if not path.exists():
        raise StoreError(f"no recording at {path}: {_HOW_TO_MAKE_ONE}")
    return LocalFiles(path)


def _rows(files: StoreFiles, name: str, row: RowType) -> StrictRows:
    try:
        return StrictRows(files, open_array(files.root, name, row))
    except MetadataError as error:
        raise StoreError(f"{files.name} is damaged: {name}: {error}: {files.hint}") from error

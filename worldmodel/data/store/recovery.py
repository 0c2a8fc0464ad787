"""Recovers a damaged store. Undamaged episodes are kept, and the damaged store is set aside.

An unfinished tail (rows, files and lengths beyond the last commit) is cut off, as the next writer would do. If anything
committed is damaged, the undamaged episodes are copied into a new store. The new store then replaces the old one, which
stays beside it. A second recovery changes nothing more. A recovery after a kill finishes the work.

Three sources that partly repeat each other show what is undamaged. They are the description of the store (in its own
attributes and in those of `meta`), the episodes' index, and the episodes' records. Array metadata follow from the
description. A new store is written in the present schema.
"""

from __future__ import annotations

import dataclasses
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import zarr
from numpy.typing import NDArray

from worldmodel.core.errors import UserError
from worldmodel.data.store.creating import create_store
from worldmodel.data.store.durable import naming_what_is_refused, sync_directory
from worldmodel.data.store.files import LocalFiles, StoreError, require_folder
from worldmodel.data.store.instruction import decode_instruction
from worldmodel.data.store.integrity import Records, chain, column_digest, from_bytes, intact
from worldmodel.data.store.layout import (
    CHAIN,
    ENDS,
    FORMAT,
    INSTRUCTION,
    INSTRUCTIONS,
    RECORDS,
    SCHEMA_VERSION,
    SEEDS,
    Layout,
    attribute,
    check_schema,
    is_as_written,
)
from worldmodel.data.store.lock import WriterLock
from worldmodel.data.store.metadata import MetadataError, open_array, read_json
from worldmodel.data.store.reader import NO_INSTRUCTION_DIGEST, Episode, TrajectoryStore, recovered_path
from worldmodel.data.store.rows import ChunkError, StrictRows, chunk_number, rows_per_file
from worldmodel.data.store.verification import verify
from worldmodel.data.store.writer import EpisodeWriter

Progress = Callable[[int, int], None]
_MOST_EPISODES = 10**9  # a larger number of episodes counts as damaged
_MOST_LOST_IN_A_ROW = 10_000  # chunks; files behind a larger gap are ignored


@dataclasses.dataclass(frozen=True)
class Recovery:
    """The outcome of a recovery.

    Attributes:
        kept: number of episodes in the store afterwards.
        lost: numbers of the lost episodes, as far as their existence is known.
        set_aside: path of the damaged store, if it had to be replaced.
    """

    kept: int
    lost: tuple[int, ...]
    set_aside: Path | None


def recover(path: Path, progress: Progress) -> Recovery:
    """Make the store at `path` whole. `progress` is called with (episodes done, episodes in all).

    Raises:
        StoreError: when there is no store, it is from a newer program, or both copies of its description are lost.
        UserError: when another writer is at work, or `path` is an address.
        WritingStopped: when the disk is full or fails. Another call finishes the recovery.
    """
    require_folder(path)
    with naming_what_is_refused(path), WriterLock(path):
        _finish_replacement(path)
        intact = _open_if_whole(path, progress)
        if intact is None:
            recovery = _rebuild(path, progress)
            intact = TrajectoryStore.open(path)
        else:
            recovery = Recovery(intact.num_episodes, (), None)
    if intact.layout.version == SCHEMA_VERSION:
        with EpisodeWriter(path, intact.spec, intact.recording, reward=intact.layout.has_reward):
            pass  # entering the context cuts off everything beyond the last commit
    return recovery


def _open_if_whole(path: Path, progress: Progress) -> TrajectoryStore | None:
    try:
        store = TrajectoryStore.open(path)
    except StoreError:
        _read_description(path)  # raises for a newer store or none, which is no damage
        return None
    return None if verify(store, progress) else store


def _rebuild(path: Path, progress: Progress) -> Recovery:
    layout, recording, packed = _read_description(path)
    draft, linked = (path.with_name(f"{path.name}.{stage}") for stage in ("recovering", "linked"))
    for leftover in (draft, linked):
        shutil.rmtree(leftover, ignore_errors=True)
    salvage = _Salvage(path, linked, layout, packed)
    lost = []
    create_store(draft, Layout(layout.spec, layout.has_reward), recording, packed)
    with EpisodeWriter(draft, layout.spec, recording, reward=layout.has_reward) as writer:
        for number, episode in enumerate(salvage.episodes()):
            try:
                if episode is None:
                    raise StoreError("not whole")
                writer.append(episode)
            except UserError:  # also for an episode without checksums whose content is invalid
                lost.append(number)
            progress(number + 1, salvage.num_episodes)
    kept = writer.num_episodes
    shutil.rmtree(linked)
    draft.rename(recovered_path(path))
    sync_directory(path.parent)
    return Recovery(kept, tuple(lost), _finish_replacement(path))


def _finish_replacement(path: Path) -> Path | None:
    """Move a completed recovered store into place. Returns the new path of the old store, or None."""
    if not recovered_path(path).exists():
        return None
    aside = None
    if path.exists():
        taken = (path.with_name(f"{path.name}.damaged{suffix}") for suffix in ("", *(f"-{i}" for i in range(2, 1000))))
        aside = next(candidate for candidate in taken if not candidate.exists())
        path.rename(aside)
        sync_directory(path.parent)  # otherwise a power cut could leave neither store in its place
    recovered_path(path).rename(path)
    sync_directory(path.parent)
    return aside


class _Description(NamedTuple):
    layout: Layout
    recording: dict[str, Any]
    packed: bool


def _read_description(path: Path) -> _Description:
    """The description of the store, from whichever copy is intact."""
    for place in (path, path / "meta"):
        try:
            attributes = read_json(place / "zarr.json").get("attributes")
        except (FileNotFoundError, MetadataError):
            continue
        if not isinstance(attributes, dict) or attributes.get("format") != FORMAT or not is_as_written(attributes):
            continue
        check_schema(attributes, path)  # a store from a newer program is not damaged
        try:
            layout = Layout.described(attributes, path)
            recording = attribute(attributes, "recording", path)
        except StoreError:  # the checksum matches, but the content is invalid
            continue
        return _Description(layout, recording, bool(attributes.get("packed", False)))
    if not path.exists():
        TrajectoryStore.open(path)  # its error explains how to make a store
    raise StoreError(f"{path} cannot be recovered: no copy of its description is intact, or it is something else")


class _Salvage:
    """The readable part of a damaged store. New metadata are created beside hard links to its chunks."""

    def __init__(self, path: Path, linked: Path, layout: Layout, packed: bool) -> None:
        # A store without checksums gets an empty array of records.
        self._layout = layout = dataclasses.replace(layout, version=max(2, layout.version))
        create_store(linked, layout, {}, packed)
        group = zarr.open_group(linked, mode="r+")
        self._rows: dict[str, StrictRows] = {}
        for name, row in layout.array_types.items():
            chunks = _chunk_files(path / name)
            for file in chunks.values():
                _link(file, linked / name)
            array = group[name]
            assert isinstance(array, zarr.Array)
            array.resize((rows_per_file(array) * (max(chunks, default=-1) + 1), *array.shape[1:]))
            self._rows[name] = StrictRows(LocalFiles(linked), open_array(linked, name, row))
        self._commit = _last_commit(path)
        self._ends, self._seeds, self._digests = self._index()
        self.num_episodes = len(self._ends)

    def episodes(self) -> Iterator[Episode | None]:
        """Every episode in order; None for one of which something is lost."""
        start: int | None = 0
        for number, end in enumerate(self._ends):
            yield None if start is None or end is None else self._episode(number, start, end)
            start = end

    def _episode(self, number: int, start: int, end: int) -> Episode | None:
        digests, seed = self._digests[number], self._seeds[number]
        if seed is None or not start < end:
            return None
        recorded = {} if digests is None else dict(zip(self._layout.digested, map(bytes, digests), strict=True))
        columns: dict[str, NDArray[Any]] = {}
        for name in self._layout.columns:
            rows = self._rows[self._layout.array(name)]
            if end > len(rows) and 0 not in rows.array.shape[1:]:
                return None
            try:
                columns[name] = rows.read(start, end)
            except ChunkError:
                return None
            if digests is not None and column_digest(columns[name]) != recorded[name]:
                return None
        instruction = self._instruction(number, recorded.get(INSTRUCTION))
        return None if instruction is None else Episode.of(self._layout, columns, seed, instruction)

    def _instruction(self, number: int, digest: bytes | None) -> str | None:
        """The instruction of an episode; None if it is lost."""
        if not self._layout.has_instructions or digest == NO_INSTRUCTION_DIGEST:
            return ""
        rows = self._rows[INSTRUCTIONS]
        if number >= len(rows):
            return None
        try:
            (row,) = rows.read(number, number + 1)
            return decode_instruction(row) if digest in (None, column_digest(row)) else None
        except (ChunkError, ValueError):
            return None

    def _index(self) -> tuple[list[int | None], list[int | None], list[NDArray[np.uint8] | None]]:
        """Ends, seeds and digests of all episodes. An intact record gives all three, the index only ends and seeds."""
        size = self._layout.array_types[RECORDS].shape[0]
        blank = np.zeros(size, np.uint8)
        rows = [blank if row is None else row for row in self._readable(RECORDS)]
        records = from_bytes(np.array(rows, np.uint8).reshape(-1, size))
        whole = intact(records)
        ends, seeds = ([None if v is None else int(v) for v in self._readable(name)] for name in (ENDS, SEEDS))
        merged: list[tuple[int | None, int | None, NDArray[np.uint8] | None]] = []
        for i in range(self._count(records, whole, ends)):
            if i < len(records) and whole[i]:
                merged.append((int(records["end"][i]), int(records["seed"][i]), records["digests"][i]))
            else:
                merged.append((_at(ends, i), _at(seeds, i), None))
        return [m[0] for m in merged], [m[1] for m in merged], [m[2] for m in merged]

    def _count(self, records: Records, whole: NDArray[np.bool_], ends: list[int | None]) -> int:
        """Number of recorded episodes. It is the last commit's, if the records match that; else all traces count."""
        committed, checksum = self._commit
        if committed <= len(records) and checksum == chain(records[:committed]):
            return committed
        count = int(np.flatnonzero(whole)[-1]) + 1 if whole.any() else 0
        while count < committed and _at(ends, count):  # entries that were never written are zero
            count += 1
        return count

    def _readable(self, name: str) -> list[Any]:
        """The rows of an array; None for each row of a missing or damaged chunk."""
        rows = self._rows[name]
        values: list[Any] = []
        length = rows_per_file(rows.array)
        for start in range(0, len(rows), length):
            try:
                values.extend(rows.read(start, start + length))
            except ChunkError:
                values.extend([None] * length)
        return values


def _at(values: list[int | None], position: int) -> int | None:
    return values[position] if position < len(values) else None


def _chunk_files(folder: Path) -> dict[int, Path]:
    """The files of an array's chunks by number, without those behind a gap that is too large for any recording.

    A stray file with a huge number would otherwise imply an array that does not fit into memory.
    """
    files = (file for file in folder.glob("c.*") if file.is_file())
    numbered = {number: file for file in files if (number := chunk_number(file)) is not None}
    found: dict[int, Path] = {}
    last = -1
    for number in sorted(numbered):
        if number - last > _MOST_LOST_IN_A_ROW:
            break
        found[number], last = numbered[number], number
    return found


def _link(file: Path, folder: Path) -> None:
    """Link `file` into `folder`, or copy it where the file system has no links."""
    try:
        os.link(file, folder / file.name)
    except OSError:
        shutil.copyfile(file, folder / file.name)


def _last_commit(path: Path) -> tuple[int, str]:
    """How many episodes the last commit says there are, and the checksum of their records; (0, "") if unreadable."""
    try:
        content = read_json(path / ENDS / "zarr.json")
        (length,), checksum = content["shape"], content["attributes"].get(CHAIN, "")
    except (MetadataError, OSError, ValueError, KeyError, TypeError, AttributeError):
        return 0, ""
    return (length, checksum) if isinstance(length, int) and 0 <= length < _MOST_EPISODES else (0, "")

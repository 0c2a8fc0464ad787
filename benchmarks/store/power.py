"""Power cuts, with all that may be on disk if the machine stops at any system call of a recording.

After a kill, the kernel still writes all data of the process. After a power cut, only synced data are certain to be on
disk, which are a file's content after `fsync` of the file, and its name after `fsync` of the folder. Other changes may
be on disk or not, in any order. So every call of a recording is logged, and the disk is rebuilt for each call, once
with the certain data only, and then with random parts of the rest.
"""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from benchmarks.store.faults import (
    SPEC,
    Call,
    Interception,
    Tally,
    check_readable,
    check_recovery,
    record,
    toy_episode,
)
from worldmodel.data import Recorder


@dataclasses.dataclass
class File:
    """A file's present content, and its content at the last sync."""

    content: bytes = b""
    synced: bytes = b""


@dataclasses.dataclass
class Folder:
    """A folder's present names, its names at the last sync, and the changes between them. Each change is atomic."""

    names: dict[str, File | Folder] = dataclasses.field(default_factory=dict)
    synced: dict[str, File | Folder] = dataclasses.field(default_factory=dict)
    changes: list[dict[str, File | Folder | None]] = dataclasses.field(default_factory=list)

    def change(self, change: dict[str, File | Folder | None]) -> None:
        self.changes.append(change)
        _apply(self.names, change)

    def sync(self) -> None:
        self.synced = dict(self.names)
        self.changes.clear()


def _apply(names: dict[str, File | Folder], change: dict[str, File | Folder | None]) -> None:
    for name, node in change.items():
        if node is None:
            names.pop(name, None)
        else:
            names[name] = node


class Disk:
    """Model of a disk that follows the calls on the folder `root`, which is empty and synced at first."""

    def __init__(self, root: Path) -> None:
        self._root, self._top = root.resolve(), Folder()

    def follow(self, call: Call) -> None:
        """Apply a call that is about to succeed."""
        if call.kind == "read":
            return
        if call.path == str(self._root):
            if call.kind == "fsync":
                self._top.sync()
            return
        try:
            folder, name = self._place(call.path)
        except KeyError:
            assert call.kind == "mkdir", call  # `mkdir -p` tries the innermost folder first, which fails
            return
        node = folder.names.get(name)
        if call.kind == "open" and node is None:
            folder.change({name: File()})
        elif call.kind == "open" and isinstance(node, File) and not call.path.endswith(".lock"):
            node.content = b""
        elif call.kind == "write" and isinstance(node, File):
            node.content += call.data
        elif call.kind == "truncate" and isinstance(node, File):
            node.content = b""
        elif call.kind == "fsync" and isinstance(node, File):
            node.synced = node.content
        elif call.kind == "fsync" and isinstance(node, Folder):
            node.sync()
        elif call.kind == "mkdir" and node is None:
            folder.change({name: Folder()})
        elif call.kind in ("unlink", "rmdir"):
            folder.change({name: None})
        elif call.kind == "rename":
            target, new_name = self._place(call.target)
            assert target is folder and node is not None, f"a rename to another folder: {call}"
            folder.change({name: None, new_name: node})

    def _place(self, path: str) -> tuple[Folder, str]:
        *parents, name = Path(path).relative_to(self._root).parts
        folder = self._top
        for parent in parents:
            child = folder.names[parent]
            assert isinstance(child, Folder)
            folder = child
        return folder, name

    def after_power_cut(self, out: Path, rng: np.random.Generator | None) -> None:
        """Write the data that are certain to the folder `out`. With `rng`, also write a random part of the rest."""
        _write_out(self._top, out, rng)


def _write_out(node: File | Folder, out: Path, rng: np.random.Generator | None) -> None:
    if isinstance(node, File):
        synced = node.synced == node.content or rng is None
        out.write_bytes(node.synced if synced else node.content[: rng.integers(len(node.content) + 1)])
        return
    names = dict(node.synced)
    for change in node.changes if rng is not None else ():
        if rng.random() < 0.5:
            _apply(names, change)
    out.mkdir()
    for name, child in names.items():
        _write_out(child, out / name, rng)


def power_cuts(episodes: int, variants: int, seed: int, step: int = 1) -> Tally:
    """A power cut before every `step`-th call of a recording of `episodes` episodes, on a new store.

    Each is tried with only the certain data on disk, and in `variants` random variants.
    """
    tally = Tally("power cut at every call")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for number, acknowledged, disk in _moments(folder / "live", episodes, step):
            for variant in range(variants + 1):
                case = f"call {number}, variant {variant}"
                rng = np.random.default_rng([seed, number, variant]) if variant else None
                cut = folder / f"{number}-{variant}"
                disk.after_power_cut(cut, rng)
                tally.add("faults")
                path = cut / "new" / "data.zarr"
                found = check_readable(tally, path, acknowledged, case)
                if variant == 0 or number % 10 == 0:  # recovery takes longer than reading
                    check_recovery(tally, path, found, case)
    return tally


def _moments(live: Path, episodes: int, step: int) -> Iterable[tuple[int, int, Disk]]:
    """Number of each call, episodes acknowledged before it, and the disk. The disk changes with the next iteration."""
    live.mkdir()
    calls: list[tuple[Call, int]] = []
    acknowledged = 0
    with (
        Interception(live, lambda call: calls.append((call, acknowledged))),
        Recorder(live / "new" / "data.zarr", SPEC) as recorder,
    ):
        for index in range(episodes):
            record(recorder, toy_episode(index))
            acknowledged = index + 1
    disk = Disk(live)
    for number, (call, before) in enumerate(calls, start=1):
        if number % step == 0:
            yield number, before, disk
        disk.follow(call)
    yield len(calls) + 1, episodes, disk

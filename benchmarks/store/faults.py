"""Faults for the trajectory store, with a toy robot, system calls that can be made to fail, and checks.

`benchmarks/store/sweeps.py` combines them. The tests run short versions of the sweeps.
"""

from __future__ import annotations

import builtins
import contextlib
import dataclasses
import errno
import io
import multiprocessing
import os
import signal
import threading
from collections import Counter
from collections.abc import Callable
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, Self
from unittest import mock

import numpy as np

from worldmodel.core.spec import ActionSpec, one_camera
from worldmodel.data import EnvironmentSpec, Episode, Recorder, StoreError, TrajectoryStore
from worldmodel.data.store.recovery import recover
from worldmodel.data.store.verification import verify

ROOT = Path(__file__).resolve().parents[2]
COLUMNS = ("images/camera", "action", "proprio", "state")
SPEC = EnvironmentSpec(
    env="toy",
    cameras=one_camera(6),
    control_step_s=0.1,
    action=ActionSpec((-1.0, -1.0), (1.0, 1.0), ("m/s", "m/s")),
    proprio_size=3,
    state_size=2,
    simulator="none 1.0",
)
# An episode has 9 rows, so that the second episode of a store goes beyond the first chunk of 16 frames.
NUM_STEPS = 8


def toy_episode(index: int, num_steps: int = NUM_STEPS) -> Episode:
    """An episode whose content depends only on `index`, which is also its seed."""
    rng = np.random.default_rng(index)
    rows = num_steps + 1
    action = rng.uniform(-1, 1, (rows, 2)).astype(np.float32)
    action[-1] = 0
    return Episode(
        images={c.name: rng.integers(0, 256, (rows, *c.shape), dtype=np.uint8) for c in SPEC.cameras},
        action=action,
        proprio=rng.standard_normal((rows, 3)).astype(np.float32),
        state=rng.standard_normal((rows, 2)),
        seed=index,
    )


def record(recorder: Recorder, episode: Episode) -> int:
    """Pass an episode to the recorder, step by step. Returns its number."""
    for t in range(episode.num_steps):
        recorder.step(episode.images["camera"][t], episode.proprio[t], episode.action[t], episode.state[t])
    return recorder.end_episode(episode.images["camera"][-1], episode.proprio[-1], episode.state[-1], seed=episode.seed)


def make_store(path: Path, num_episodes: int) -> None:
    """A store of episodes 0 up to `num_episodes`."""
    with Recorder(path, SPEC) as recorder:
        for index in range(num_episodes):
            record(recorder, toy_episode(index))


# --- calls to the operating system -----------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Call:
    """A system call that is about to be made.

    Attributes:
        kind: read (open for reading), open (for writing), write, truncate, fsync, rename, link, unlink, mkdir or rmdir.
        path: the file or folder.
        target: its new name, for rename and link.
        data: the data, for write.
        tear: a function that writes the first half of `data`, for write.
    """

    kind: str
    path: str
    target: str = ""
    data: bytes = b""
    tear: Callable[[], object] = lambda: None


CHANGES = ("open", "write", "truncate", "fsync", "rename", "link", "unlink", "mkdir", "rmdir")


class Interception:
    """A context in which `before` is called with every `Call` on `folder`. Its exceptions reach the caller."""

    def __init__(self, folder: Path, before: Callable[[Call], None]) -> None:
        self._folder, self._before = str(folder.resolve()), before
        self._patches = contextlib.ExitStack()

    def __enter__(self) -> Self:
        patches: list[tuple[Any, str, Callable[..., Any]]] = [
            (io, "open", self._file(io.open)),
            (builtins, "open", self._file(builtins.open)),
            (os, "open", self._descriptor(os.open)),
            *((os, name, self._by_descriptor(name, kind)) for name, kind in _BY_DESCRIPTOR.items()),
            *((os, name, self._by_name(name, kind)) for name, kind in _BY_NAME.items()),
            *((os, name, self._to_name(name, kind)) for name, kind in _TO_NAME.items()),
        ]
        for module, name, replacement in patches:
            self._patches.enter_context(mock.patch.object(module, name, replacement))
        return self

    def __exit__(self, *error: object) -> None:
        self._patches.close()

    def _happens(self, kind: str, path: str, **more: Any) -> None:
        if path.startswith(self._folder):
            self._before(Call(kind, path, **more))

    def _file(self, whole: Callable[..., Any]) -> Callable[..., Any]:
        def replacement(file: Any, mode: str = "r", *arguments: Any, **options: Any) -> Any:
            path = "" if isinstance(file, int) else os.path.abspath(os.fspath(file))
            self._happens("open" if set(mode) & set("wax+") else "read", path)
            if mode == "wb" and path.startswith(self._folder):
                return io.BufferedWriter(_RawFile(path, self._before))
            return whole(file, mode, *arguments, **options)

        return replacement

    def _descriptor(self, whole: Callable[..., int]) -> Callable[..., int]:
        def replacement(path: Any, flags: int, mode: int = 0o777, *, dir_fd: int | None = None) -> int:
            if flags & (os.O_CREAT | os.O_WRONLY | os.O_RDWR):
                self._happens("open", _absolute(path, dir_fd))
            return whole(path, flags, mode, dir_fd=dir_fd)

        return replacement

    def _by_descriptor(self, name: str, kind: str) -> Callable[..., Any]:
        whole = getattr(os, name)

        def replacement(descriptor: int, *arguments: Any) -> Any:
            path = os.readlink(f"/proc/self/fd/{descriptor}")
            self._happens(kind, path, data=bytes(arguments[0]) if kind == "write" else b"")
            return whole(descriptor, *arguments)

        return replacement

    def _by_name(self, name: str, kind: str) -> Callable[..., Any]:
        whole = getattr(os, name)

        def replacement(path: Any, *arguments: Any, dir_fd: int | None = None) -> Any:
            self._happens(kind, _absolute(path, dir_fd))
            return whole(path, *arguments, dir_fd=dir_fd)

        return replacement

    def _to_name(self, name: str, kind: str) -> Callable[..., Any]:
        whole = getattr(os, name)

        def replacement(source: Any, target: Any, **options: Any) -> Any:
            self._happens(kind, os.path.abspath(os.fspath(source)), target=os.path.abspath(os.fspath(target)))
            return whole(source, target, **options)

        return replacement


_BY_DESCRIPTOR = {"fsync": "fsync", "pwrite": "write", "ftruncate": "truncate"}
_BY_NAME = {"unlink": "unlink", "remove": "unlink", "mkdir": "mkdir", "rmdir": "rmdir"}
_TO_NAME = {"replace": "rename", "rename": "rename", "link": "link"}


def _absolute(path: Any, dir_fd: int | None) -> str:
    folder = os.getcwd() if dir_fd is None else os.readlink(f"/proc/self/fd/{dir_fd}")
    return os.path.join(folder, os.fspath(path))


class _RawFile(io.FileIO):
    """A file that reports every write. Python's buffered files write in C, where writes cannot be intercepted."""

    def __init__(self, path: str, before: Callable[[Call], None]) -> None:
        super().__init__(path, "w")
        self._path, self._before = path, before

    def write(self, data: Any) -> int:
        content, whole = bytes(data), super().write
        self._before(Call("write", self._path, data=content, tear=lambda: whole(content[: len(content) // 2])))
        return whole(content)


@dataclasses.dataclass(frozen=True)
class Fault:
    """A fault at a system call.

    Attributes:
        what: `kill` (SIGKILL instead of the call), `tear` (SIGKILL after half of a write, counting writes only),
            `interrupt` (SIGINT before the call, as Ctrl-C sends it), or the name of an error, for example `ENOSPC`.
        number: number of the call at which it happens, from 1.
        lasting: whether all later calls fail with the error too.
    """

    what: str
    number: int
    lasting: bool = False


class Injector:
    """Makes `fault` happen. `done` says whether it has happened."""

    def __init__(self, fault: Fault) -> None:
        self._fault, self._count, self._lock = fault, 0, threading.Lock()
        self.done = False

    def __call__(self, call: Call) -> None:
        fault = self._fault
        if call.kind not in self._kinds():
            return
        with self._lock:
            self._count += 1
            now = self._count == fault.number or (fault.lasting and self._count > fault.number)
            self.done |= now
        if not now:
            return
        if fault.what == "tear":
            call.tear()
        if fault.what in ("kill", "tear"):
            os.kill(os.getpid(), signal.SIGKILL)
        elif fault.what == "interrupt":
            os.kill(os.getpid(), signal.SIGINT)
        else:
            number = getattr(errno, fault.what)
            raise OSError(number, os.strerror(number), call.path)

    def _kinds(self) -> tuple[str, ...]:
        if self._fault.what == "tear":
            return ("write",)
        if self._fault.what == "ENOSPC":  # a full disk still allows reading and removing
            return tuple(kind for kind in CHANGES if kind not in ("unlink", "rmdir"))
        return ("read", *CHANGES) if self._fault.what.startswith("E") else CHANGES


# --- processes -------------------------------------------------------------------------------------------------------


def start(function: Callable[..., None], *arguments: Any) -> tuple[BaseProcess, Connection]:
    """Run `function(connection, *arguments)` in a new process. The returned connection receives what it sends."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["benchmarks.store.sweeps"])
    receiver, sender = context.Pipe(duplex=False)
    before = os.environ.get("PYTHONPATH")  # the server imports the modules before it knows our sys.path
    with mock.patch.dict(os.environ, PYTHONPATH=str(ROOT) if before is None else f"{ROOT}{os.pathsep}{before}"):
        process = context.Process(target=function, args=(sender, *arguments), daemon=True)
        process.start()
    sender.close()
    return process, receiver


def received(connection: Connection) -> list[Any]:
    """Everything that the other side sends until it closes the connection or is killed."""
    messages = []
    with contextlib.suppress(EOFError):
        while True:
            messages.append(connection.recv())
    return messages


# --- checks ----------------------------------------------------------------------------------------------------------


class Tally:
    """Counts of one sweep.

    Attributes:
        name: name of the sweep.
        counts: number of every finding. Findings whose names end in `!` must never happen.
        examples: details of the first few findings that must never happen.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.counts: Counter[str] = Counter()
        self.examples: list[str] = []

    def add(self, what: str, times: int = 1) -> None:
        self.counts[what] += times

    def expect(self, holds: bool, what: str, example: str) -> None:
        """Count `what!` unless `holds`."""
        self.counts[f"{what}!"] += not holds
        if not holds and len(self.examples) < 20:
            self.examples.append(f"{what}: {example}")

    @property
    def failures(self) -> int:
        return sum(count for what, count in self.counts.items() if what.endswith("!"))


def snapshot(folder: Path) -> dict[str, bytes]:
    """All files and their content."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def same(found: Episode, wanted: Episode) -> bool:
    """Whether two episodes are equal bit for bit."""
    columns = ((found.columns[name], wanted.columns[name]) for name in COLUMNS)
    return found.seed == wanted.seed and all(a.dtype == b.dtype and a.tobytes() == b.tobytes() for a, b in columns)


def check_readable(tally: Tally, path: Path, acknowledged: int, case: str) -> int:
    """Check that a reader sees all acknowledged episodes and only complete episodes. Returns their number."""
    if not path.exists():
        tally.expect(acknowledged == 0, "acknowledged episodes lost", f"{case}: there is no store")
        return 0
    try:
        store = TrajectoryStore.open(path)
        partial = sum(not same(store.episode(i), toy_episode(i)) for i in range(store.num_episodes))
    except StoreError as error:
        tally.expect(False, "stores that cannot be read", f"{case}: {error}")
        return 0
    lost = max(0, acknowledged - store.num_episodes)
    tally.expect(lost == 0, "acknowledged episodes lost", f"{case}: {acknowledged} -> {store.num_episodes}")
    tally.expect(partial == 0, "partial or wrong episodes visible", f"{case}: {partial}")
    return store.num_episodes


def check_recovery(tally: Tally, path: Path, present: int, case: str) -> None:
    """Check that recovery keeps everything, that a second recovery changes nothing, and that recording can resume."""
    try:
        if path.exists():
            done = recover(path, lambda *_: None)
            tally.expect(done.kept == present and not done.lost, "episodes lost by recovery", f"{case}: {done}")
            once = snapshot(path.parent)
            recover(path, lambda *_: None)
            tally.expect(snapshot(path.parent) == once, "second recoveries that changed something", case)
    except (RuntimeError, ValueError, OSError) as error:
        tally.expect(False, "recoveries that failed", f"{case}: {error}")
    try:
        with Recorder(path, SPEC) as recorder:
            record(recorder, toy_episode(present))
    except (RuntimeError, ValueError, OSError) as error:
        tally.expect(False, "recordings that could not go on", f"{case}: {error}")
        return
    store = TrajectoryStore.open(path)
    whole = store.num_episodes == present + 1 and not verify(store, lambda *_: None)
    whole = whole and all(same(store.episode(i), toy_episode(i)) for i in range(present + 1))
    tally.expect(whole, "recordings that could not go on", f"{case}: {store.num_episodes} episodes")
    beside = sorted(p.name for p in path.parent.iterdir() if p != path)
    tally.expect(not beside and not list(path.rglob("*.partial")), "leftovers", f"{case}: {beside}")

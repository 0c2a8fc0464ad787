"""Starts the processes that decode videos, and asks them.

A process that dies or takes too long is replaced, and its request is asked once more. If it fails again, the file is to
blame.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import queue
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import TracebackType
from typing import Any, Final, Self

import numpy as np
from numpy.typing import NDArray

from worldmodel.core.errors import UserError, how_to_install

_START: Final = "import sys; sys.path[:] = sys.argv[1:]; from worldmodel.data.videos.worker import serve; serve()"
_START_S: Final = 120.0  # time for the process's imports, in addition to the time for an answer
_MOST_HEADER: Final = 2**20  # bytes
_PIPE_BYTES: Final = 2**20  # the largest that Linux grants
_ATTEMPTS: Final = 2


class WorkerFailed(Exception):
    """A process died of a request, or took too long for it, twice. The message says which of them."""


class _Ended(Exception):
    """The process ended, or broke the protocol, before its answer was complete."""


class _Late(Exception):
    """No answer in time."""


def require_av() -> None:
    """Raises UserError if the library that decodes videos is not installed."""
    if importlib.util.find_spec("av") is None:
        raise UserError(f"videos need av, which is not installed: {how_to_install('formats')}")


class Worker:
    """One process, which starts with the first request.

    Args:
        patience_s: time that an answer may take [s].
    """

    def __init__(self, patience_s: float) -> None:
        self._patience_s = patience_s
        self._process: subprocess.Popen[bytes] | None = None
        self._closed = False
        self._lock = threading.Lock()  # held during a request

    def ask(self, request: Mapping[str, Any], into: NDArray[np.uint8] | None = None) -> dict[str, Any]:
        """The header of the answer. The bytes of a clip go to `into`.

        Raises:
            WorkerFailed: when two processes failed at this request.
        """
        failed = ""
        with self._lock:
            for _ in range(_ATTEMPTS):
                is_new = self._process is None
                try:
                    return self._ask(request, into, self._patience_s + (_START_S if is_new else 0))
                except _Late:
                    failed = f"takes longer than {self._patience_s:g} s"
                    self._end()
                except (_Ended, OSError, ValueError):
                    failed = f"ends its reader ({self._end()})"
                if self._closed:
                    failed = "is not read, since its reader was closed"
                    break
        raise WorkerFailed(failed)

    def close(self) -> None:
        """End the process. A request under way in another thread fails."""
        self._closed = True
        process = self._process
        if process is not None:
            process.kill()
        with self._lock:
            self._end()

    def _ask(self, request: Mapping[str, Any], into: NDArray[np.uint8] | None, patience_s: float) -> dict[str, Any]:
        process = self._running()
        assert process.stdin is not None and process.stdout is not None
        process.stdin.write(json.dumps(request).encode() + b"\n")
        process.stdin.flush()
        until, source = time.monotonic() + patience_s, process.stdout.fileno()
        size = int.from_bytes(_read(source, memoryview(bytearray(4)), until), "little")
        if size > _MOST_HEADER:
            raise _Ended
        header = json.loads(bytes(_read(source, memoryview(bytearray(size)), until)))
        if header["bytes"]:
            if into is None or into.nbytes != header["bytes"]:
                raise _Ended
            _read(source, into.reshape(-1).data, until)
        assert isinstance(header, dict)
        return header

    def _running(self) -> subprocess.Popen[bytes]:
        if self._closed:
            raise _Ended
        if self._process is None:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-c", _START, *sys.path],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                bufsize=0,
                pipesize=_PIPE_BYTES,
                # Clips are decoded in parallel already, and threads would only compete.
                env={**os.environ, "OMP_NUM_THREADS": "1"},
                # Ctrl-C is for the training, which ends its processes itself.
                start_new_session=True,
            )
            if self._closed:  # meanwhile, by another thread, which saw no process to end
                raise _Ended
        return self._process

    def _end(self) -> str:
        """End the process, and say how it ended by itself."""
        if self._process is None:
            return "it did not start"
        process, self._process = self._process, None
        code = process.poll()
        if code is None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                code = process.wait(0.2)  # a process whose pipe has broken is about to end
        process.kill()
        for pipe in (process.stdin, process.stdout):
            assert pipe is not None
            with contextlib.suppress(OSError):
                pipe.close()
        process.wait()
        if code is None or code >= 0:
            return f"exit code {code}"
        return signal.Signals(-code).name


def _read(source: int, view: memoryview, until: float) -> memoryview:
    """Fill `view` from the pipe `source`, until the time `until` at the latest."""
    done = 0
    while done < len(view):
        if not select.select([source], [], [], max(0.0, until - time.monotonic()))[0]:
            raise _Late
        count = os.readv(source, [view[done:]])
        if count == 0:
            raise _Ended
        done += count
    return view


class Workers:
    """A number of processes. A thread takes one for the time of a request.

    Args:
        count: number of processes.
        patience_s: time that an answer may take [s].
    """

    def __init__(self, count: int, patience_s: float) -> None:
        self.count = count
        self._all = [Worker(patience_s) for _ in range(count)]
        self._idle: queue.SimpleQueue[Worker] = queue.SimpleQueue()
        for worker in self._all:
            self._idle.put(worker)

    @contextmanager
    def one(self) -> Iterator[Worker]:
        """A process that no other thread has. The caller waits until there is one."""
        worker = self._idle.get()
        try:
            yield worker
        finally:
            self._idle.put(worker)

    def close(self) -> None:
        """End all processes. Requests under way fail."""
        for worker in self._all:
            worker.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

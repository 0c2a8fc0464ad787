"""Reads untrusted Parquet files, column by column, as numpy arrays.

pyarrow reads them in another process (`parquet_worker`), which serves a whole data set. A damaged file may crash or
hang that process or fill its memory. The user then gets one line that names the file.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import signal
import subprocess
import sys
import threading
from collections.abc import Generator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import numpy as np
from numpy.typing import NDArray

from worldmodel.data.formats import limits
from worldmodel.data.formats.limits import require, require_file
from worldmodel.data.formats.source import FormatError

_WORKER = Path(__file__).with_name("parquet_worker.py")
_LIMITS: Final = {
    "memory": 4 * limits.MOST_CHUNK_BYTES,  # address space for decoded data, their copy as a numpy array, and libraries
    "header": 100_000_000,
    "rows": 100_000_000,  # rows of one file
    "columns": 100 * limits.MOST_COLUMNS,
    "numbers": limits.MOST_NUMBERS,
    "chunk": limits.MOST_CHUNK_BYTES,
    "texts": 20_000_000,
}
_MOST_ANSWER = 200_000_000  # bytes of an answer's JSON line, with names of columns and lengths of images
PATIENCE_S: Final = 60.0  # time limit for an answer, to which the time for the size of the file is added
_LEAST_BYTES_PER_S = 2_000_000  # rate of the slowest disks and processors
_PIPE_BYTES = 2**20  # the largest that Linux grants; a larger pipe is faster, since the processes switch less often
_NUMBERS = "biuf"


class ParquetReader:
    """Reads any number of files in one other process, which starts with the first file and ends with `close`.

    Args:
        patience_s: time that an answer may take [s], in addition to a time proportional to the size of the file.
    """

    def __init__(self, patience_s: float = PATIENCE_S) -> None:
        if importlib.util.find_spec("pyarrow") is None:
            raise ModuleNotFoundError("No module named 'pyarrow'", name="pyarrow")
        self._patience_s = patience_s
        self._worker: subprocess.Popen[bytes] | None = None
        self._streams = 0
        self._dropped: list[int] = []

    def open(self, path: Path) -> ParquetFile:
        """Open and check a file. Raises FormatError when it is missing or cannot be read."""
        require_file(path)
        told, _ = self.ask({"do": "open", "path": str(path)}, path)
        return ParquetFile(self, path, tuple(told["names"]), told["num_rows"])

    def ask(self, request: dict[str, Any], path: Path) -> tuple[dict[str, Any], bytes]:
        """The answer to a request about the file `path`, and the plain bytes after it. Raises FormatError."""
        worker = self._running()
        assert worker.stdin is not None and worker.stdout is not None
        late = threading.Event()

        def give_up() -> None:
            late.set()
            worker.kill()

        seconds = self._patience_s + path.stat().st_size / _LEAST_BYTES_PER_S
        timer = threading.Timer(seconds, give_up)
        timer.start()
        try:
            dropped, self._dropped = self._dropped, []
            worker.stdin.write(json.dumps({**request, "drop": dropped}).encode() + b"\n")
            worker.stdin.flush()
            line = worker.stdout.readline(_MOST_ANSWER)
            told = json.loads(line)
            content = worker.stdout.read(told["bytes"])
            if len(content) < told["bytes"]:
                raise EOFError
        except (OSError, EOFError, ValueError) as error:
            timer.cancel()
            raise FormatError(f"{path} cannot be read ({self._what_happened(late, seconds)})") from error
        except BaseException:
            self.close()  # the rest of the answer is still in the pipe
            raise
        finally:
            timer.cancel()
        if "error" in told:
            if told["error"] == "memory":
                raise FormatError(
                    f"{path} cannot be read (it asks for more than {_LIMITS['memory'] / 1e9:g} GB of memory)"
                )
            raise FormatError(told["error"])
        return told, content

    def new_stream(self) -> int:
        """A new number for a stream of images."""
        self._streams += 1
        return self._streams

    def drop_stream(self, number: int) -> None:
        """Give up a stream. The other process learns of it with the next request."""
        self._dropped.append(number)

    def close(self) -> None:
        """End the other process. A later request starts a new one."""
        if self._worker is None:
            return
        worker, self._worker = self._worker, None
        worker.kill()
        for pipe in (worker.stdin, worker.stdout):
            assert pipe is not None
            with contextlib.suppress(OSError):  # the process that should read the rest of a request has ended
                pipe.close()
        worker.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __del__(self) -> None:
        if hasattr(self, "_worker"):
            self.close()

    def _running(self) -> subprocess.Popen[bytes]:
        if self._worker is None:
            self._worker = subprocess.Popen(
                [sys.executable, "-P", str(_WORKER), json.dumps(_LIMITS)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                pipesize=_PIPE_BYTES,
            )
        return self._worker

    def _what_happened(self, late: threading.Event, seconds: float) -> str:
        assert self._worker is not None
        worker = self._worker
        if late.is_set():
            self.close()
            return f"it takes longer than {seconds:.0f} s"
        try:
            code = worker.wait(1.0)
        except subprocess.TimeoutExpired:
            code = 0
        self.close()
        if code < 0:
            return f"pyarrow crashes on it: {signal.Signals(-code).name}"
        return "pyarrow ends on it" if code else "the answer of pyarrow is broken"


class ParquetFile:
    """One file, opened and checked.

    Attributes:
        path: path of the file.
        names: names of its columns.
        num_rows: number of its rows.
    """

    def __init__(self, reader: ParquetReader, path: Path, names: tuple[str, ...], num_rows: int) -> None:
        self._reader, self.path, self.names, self.num_rows = reader, path, names, num_rows

    def read(self, names: Sequence[str]) -> dict[str, NDArray[Any]]:
        """Columns of numbers, `[n]` or `[n, D]`. Raises FormatError if one is missing, too large or not of numbers."""
        told, content = self._reader.ask({"do": "read", "path": str(self.path), "names": list(names)}, self.path)
        found, offset = {}, 0
        for name, kind, shape in told["columns"]:
            dtype = np.dtype(kind)
            require(dtype.kind in _NUMBERS, f"{self.path}: {name} holds {dtype}: expected numbers")
            count = int(np.prod(shape, dtype=object))
            found[name] = np.frombuffer(content, dtype, count, offset).reshape(shape)
            offset += count * dtype.itemsize
        return found

    def texts(self, name: str) -> list[str]:
        """A column of texts. Raises FormatError if it is missing, too large or something else."""
        told, _ = self._reader.ask({"do": "texts", "path": str(self.path), "name": name}, self.path)
        return [str(text) for text in told["texts"]]

    def pictures(self, name: str) -> Generator[tuple[int, bytes], None, None]:
        """The `episode_index` and the encoded image in column `name` of each row. Few are in memory at a time.

        Raises:
            FormatError: when the images are missing, or are stored outside the file.
        """
        stream = self._reader.new_stream()
        self._reader.ask({"do": "stream", "path": str(self.path), "name": name, "stream": stream}, self.path)
        try:
            while True:
                told, content = self._reader.ask({"do": "next", "stream": stream}, self.path)
                if told.get("end"):
                    return
                offset = 0
                for episode, length in zip(told["episodes"], told["lengths"], strict=True):
                    yield episode, content[offset : offset + length]
                    offset += length
        finally:
            self._reader.drop_stream(stream)

"""The program that reads untrusted Parquet files. `parquet` starts it as a process of its own and never imports it.

pyarrow aborts on some damaged files, which no `except` catches. Here it can only end a process that nothing depends on.
This file imports nothing else of this project, so that it starts quickly. It answers requests one after the other:

    request   one line of JSON on standard input: {"do": "open", "path": ...}, "read", "texts", "stream" or "next"
    answer    one line of JSON on standard output, then as many plain bytes as its "bytes" says
              {"error": text} if a file is invalid

The only argument holds the limits as JSON. They are `memory` of this process, `header`, `rows`, `columns`, `numbers` of
a row, `chunk` (bytes that are read at once), and `texts` (bytes of a column of texts).
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

_UNREADABLE = (pa.ArrowException, OSError, ValueError, TypeError, KeyError, NotImplementedError)
_PICTURES_AT_ONCE = 16


class RefusedError(Exception):
    """A file is invalid, or larger than a limit by its own account. The message is for the user."""


@contextmanager
def _reading(path: str, what: str) -> Iterator[None]:
    """A context that turns pyarrow's errors for damaged files into RefusedError."""
    try:
        yield
    except _UNREADABLE as error:
        first = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
        raise RefusedError(f"{path} {what} ({first})") from error


def _require(holds: bool, message: str) -> None:
    if not holds:
        raise RefusedError(message)


class _File:
    """One file, opened and checked."""

    def __init__(self, path: str, limits: dict[str, int]) -> None:
        self._path, self._limits = path, limits
        with _reading(path, "is not a Parquet file that can be read"):
            self._file = pq.ParquetFile(
                path,
                memory_map=False,
                thrift_string_size_limit=limits["header"],
                thrift_container_size_limit=limits["header"],
            )
            self.names = list(self._file.schema_arrow.names)
            self.num_rows = int(self._file.metadata.num_rows)
            num_columns = self._file.metadata.num_columns
        most = limits["rows"]
        _require(0 <= self.num_rows <= most, f"{path} has {self.num_rows:,} rows: at most {most:,} accepted")
        for count in (len(self.names), num_columns):
            _require(count <= limits["columns"], f"{path} has {count:,} columns")

    def read(self, names: Sequence[str]) -> dict[str, NDArray[Any]]:
        self._check(names, self._limits["chunk"])
        with _reading(self._path, "cannot be read"):
            table = self._file.read(columns=list(names), use_threads=False)
            return {name: _numbers(table.column(name), f"{self._path}: {name}") for name in names}

    def texts(self, name: str) -> list[str]:
        self._check([name], self._limits["texts"])
        with _reading(self._path, "cannot be read"):
            column = self._file.read(columns=[name], use_threads=False).column(name)
            where = f"{self._path}: {name}"
            is_text = pa.types.is_string(column.type) or pa.types.is_large_string(column.type)
            _require(is_text and column.null_count == 0, f"{where} holds {column.type}: expected texts")
            return column.to_pylist()

    def pictures(self, name: str) -> Iterator[tuple[list[int], list[bytes]]]:
        """The `episode_index` and the encoded images of a few rows at a time."""
        self._check(["episode_index"], self._limits["chunk"])
        self._check([name], None)
        where, columns = f"{self._path}: {name}", ["episode_index", name]
        with _reading(self._path, "cannot be read"):
            for batch in self._file.iter_batches(batch_size=_PICTURES_AT_ONCE, columns=columns, use_threads=False):
                index = pa.chunked_array([batch.column("episode_index")])
                episodes = _numbers(index, f"{self._path}: episode_index").reshape(-1)
                _require(episodes.dtype.kind in "iu", f"{self._path}: episode_index holds {episodes.dtype}")
                coded = batch.column(name)
                if pa.types.is_struct(coded.type):
                    coded = coded.field("bytes")
                _require(
                    pa.types.is_binary(coded.type) or pa.types.is_large_binary(coded.type),
                    f"{where} holds {coded.type}: expected pictures",
                )
                _require(coded.null_count == 0, f"{where} has pictures outside this file, which are not followed")
                yield episodes.tolist(), [value.as_py() for value in coded]

    def _check(self, names: Sequence[str], most_bytes: int | None) -> None:
        """Check the columns by the file's own index, before any of them is read."""
        for name in names:
            _require(name in self.names, f"{self._path} has no column {name}: it has {', '.join(self.names[:20])}")
        metadata, total = self._file.metadata, 0
        wanted = tuple(f"{name}." for name in names)
        with _reading(self._path, "cannot be read"):
            for group in range(metadata.num_row_groups):
                rows = metadata.row_group(group)
                for index in range(metadata.num_columns):
                    column = rows.column(index)
                    if column.path_in_schema in names or column.path_in_schema.startswith(wanted):
                        total += max(column.total_uncompressed_size, 0)
                        _require(
                            0 <= column.num_values <= self._limits["numbers"] * max(1, rows.num_rows),
                            f"{self._path}: {column.path_in_schema} has {column.num_values:,} numbers",
                        )
        if most_bytes is not None and total > most_bytes:
            names_of = ", ".join(names)
            raise RefusedError(f"{self._path}: {names_of} have {total:,} bytes: at most {most_bytes:,} accepted")


def _numbers(column: pa.ChunkedArray, where: str) -> NDArray[Any]:
    """Scalars as `[n]`, or lists of equal length as `[n, D]`. Nested lists are flattened."""
    array = column.combine_chunks()
    if isinstance(array, pa.ChunkedArray):  # it has no chunks at all
        array = pa.concat_arrays(array.chunks) if array.num_chunks else pa.array([], column.type)
    rows = len(array)
    _require(array.null_count == 0, f"{where} has rows without a value")
    while pa.types.is_list(array.type) or pa.types.is_large_list(array.type) or pa.types.is_fixed_size_list(array.type):
        if not pa.types.is_fixed_size_list(array.type):
            sizes = np.diff(array.offsets.to_numpy())
            _require(len(sizes) == 0 or bool((sizes == sizes[0]).all()), f"{where} has rows of different lengths")
        array = array.flatten()
        _require(array.null_count == 0, f"{where} has rows without a value")
    kind = array.type
    _require(
        pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind),
        f"{where} holds {kind}: expected numbers",
    )
    flat = array.to_numpy(zero_copy_only=False)
    if len(flat) == rows:
        return flat
    _require(rows > 0 and len(flat) % rows == 0, f"{where} has rows of different lengths")
    return flat.reshape(rows, -1)


class _Desk:
    """Answers requests. The file of the last request stays open, and so do all streams of images."""

    def __init__(self, limits: dict[str, int]) -> None:
        self._limits = limits
        self._file: tuple[str, _File] | None = None
        self._streams: dict[int, Iterator[tuple[list[int], list[bytes]]]] = {}

    def answer(self, request: dict[str, Any]) -> tuple[dict[str, Any], list[Any]]:
        """The answer, and the plain bytes after it."""
        do = request["do"]
        for stream in request["drop"]:
            self._streams.pop(stream, None)
        if do == "next":
            batch = next(self._streams[request["stream"]], None)
            if batch is None:
                return {"end": True}, []
            return {"episodes": batch[0], "lengths": [len(coded) for coded in batch[1]]}, batch[1]
        if do == "stream":
            # A stream has its own file, which reads of numbers in between do not move.
            self._streams[request["stream"]] = _File(request["path"], self._limits).pictures(request["name"])
            return {}, []
        file = self._open(request["path"])
        if do == "texts":
            return {"texts": file.texts(request["name"])}, []
        if do == "open":
            return {"names": file.names, "num_rows": file.num_rows}, []
        columns = file.read(request["names"])
        told = [[name, values.dtype.str, list(values.shape)] for name, values in columns.items()]
        return {"columns": told}, [
            np.ascontiguousarray(values).reshape(-1).view(np.uint8) for values in columns.values()
        ]

    def _open(self, path: str) -> _File:
        if self._file is None or self._file[0] != path:
            self._file = None
            self._file = (path, _File(path, self._limits))
        return self._file[1]


def _restrict(memory: int) -> None:
    """Limit memory to `memory` bytes and disable core files, if the platform can do so."""
    try:
        import resource
    except ImportError:  # Windows
        return
    for what, most in ((resource.RLIMIT_AS, memory), (resource.RLIMIT_CORE, 0)):
        hard = resource.getrlimit(what)[1]
        with contextlib.suppress(ValueError, OSError):  # macOS does not limit address space
            resource.setrlimit(what, (most if hard == resource.RLIM_INFINITY else min(most, hard), hard))


def _serve(limits: dict[str, int], requests: BinaryIO, answers: BinaryIO) -> None:
    desk = _Desk(limits)
    for line in requests:
        parts: list[Any] = []
        try:
            told, parts = desk.answer(json.loads(line))
        except RefusedError as error:
            told = {"error": str(error)}
        except MemoryError:
            told = {"error": "memory"}
        answers.write(json.dumps({**told, "bytes": sum(len(part) for part in parts)}).encode() + b"\n")
        for part in parts:
            answers.write(part)
        answers.flush()


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent program, which closes our input
    given = json.loads(sys.argv[1])
    _restrict(given["memory"])
    # Output that a library prints must not mix with the answers.
    channel = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    with contextlib.suppress(BrokenPipeError):
        _serve(given, sys.stdin.buffer, channel)

"""Reading Parquet files of strangers, column by column, as numpy arrays."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from worldmodel.data.formats.limits import MOST_CHUNK_BYTES, MOST_COLUMNS, MOST_NUMBERS, require
from worldmodel.data.formats.source import FormatError

_MOST_HEADER_BYTES = 100_000_000
_MOST_ROWS = 100_000_000  # of one file
_UNREADABLE = (pa.ArrowException, OSError, ValueError, TypeError, KeyError, NotImplementedError)


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """What pyarrow raises for a damaged file, as FormatError."""
    try:
        yield
    except FormatError:
        raise
    except _UNREADABLE as error:
        raise FormatError(f"{path} cannot be read ({_first_line(error)})") from error


class ParquetFile:
    """One file, opened and checked.

    Attributes:
        path: where it is.
        names: of its columns.
        num_rows: how many rows it has.
    """

    def __init__(self, path: Path) -> None:
        require(path.is_file(), f"{path} is not there, or not a file")
        self.path = path
        try:
            self._file = pq.ParquetFile(
                path,
                memory_map=False,
                thrift_string_size_limit=_MOST_HEADER_BYTES,
                thrift_container_size_limit=_MOST_HEADER_BYTES,
            )
            self.names = list(self._file.schema_arrow.names)
            metadata = self._file.metadata
        except _UNREADABLE as error:
            raise FormatError(f"{path} is not a Parquet file that can be read ({_first_line(error)})") from error
        self.num_rows = int(metadata.num_rows)
        require(0 <= self.num_rows <= _MOST_ROWS, f"{path} has {self.num_rows:,} rows: at most {_MOST_ROWS:,} accepted")
        require(len(self.names) <= 100 * MOST_COLUMNS, f"{path} has {len(self.names):,} columns")
        require(metadata.num_columns <= 100 * MOST_COLUMNS, f"{path} has {metadata.num_columns:,} columns")

    def read(self, names: Sequence[str]) -> dict[str, NDArray[Any]]:
        """Columns of numbers, `[n]` or `[n, D]`. Raises FormatError where they are missing, too large or none."""
        self._check(names, MOST_CHUNK_BYTES)
        with _reading(self.path):
            table = self._file.read(columns=list(names), use_threads=False)
        return {name: _numbers(table.column(name), f"{self.path}: {name}") for name in names}

    def pictures(self, name: str) -> Iterator[tuple[int, bytes]]:
        """For each row its `episode_index` and the coded picture in column `name`, few of them in memory at a time.

        Raises:
            FormatError: when they are not there, or are kept outside the file.
        """
        self._check(["episode_index"], MOST_CHUNK_BYTES)
        self._check([name], None)
        where = f"{self.path}: {name}"
        with _reading(self.path):
            for batch in self._file.iter_batches(batch_size=16, columns=["episode_index", name], use_threads=False):
                episodes = _numbers(pa.chunked_array([batch.column("episode_index")]), f"{self.path}: episode_index")
                pictures = batch.column(name)
                if pa.types.is_struct(pictures.type):
                    pictures = pictures.field("bytes")
                require(
                    pa.types.is_binary(pictures.type) or pa.types.is_large_binary(pictures.type),
                    f"{where} holds {pictures.type}: expected pictures",
                )
                require(pictures.null_count == 0, f"{where} has pictures outside this file, which are not followed")
                yield from zip(episodes.tolist(), (value.as_py() for value in pictures), strict=True)

    def _check(self, names: Sequence[str], most_bytes: int | None) -> None:
        """What the file's own index says of the columns, before any of it is read."""
        for name in names:
            require(name in self.names, f"{self.path} has no column {name}: it has {', '.join(self.names[:20])}")
        metadata, total = self._file.metadata, 0
        wanted = tuple(f"{name}." for name in names)
        with _reading(self.path):
            for group in range(metadata.num_row_groups):
                rows = metadata.row_group(group)
                for index in range(metadata.num_columns):
                    column = rows.column(index)
                    if column.path_in_schema in names or column.path_in_schema.startswith(wanted):
                        total += max(column.total_uncompressed_size, 0)
                        require(
                            0 <= column.num_values <= MOST_NUMBERS * max(1, rows.num_rows),
                            f"{self.path}: {column.path_in_schema} has {column.num_values:,} numbers",
                        )
        if most_bytes is not None and total > most_bytes:
            raise FormatError(f"{self.path}: {', '.join(names)} have {total:,} bytes: at most {most_bytes:,} accepted")


def _numbers(column: pa.ChunkedArray, where: str) -> NDArray[Any]:
    """Scalars `[n]`, or lists of one length `[n, D]`; of lists of lists, the numbers in order."""
    array = column.combine_chunks()
    if isinstance(array, pa.ChunkedArray):  # of no chunks at all
        array = pa.concat_arrays(array.chunks) if array.num_chunks else pa.array([], column.type)
    rows = len(array)
    require(array.null_count == 0, f"{where} has rows without a value")
    while pa.types.is_list(array.type) or pa.types.is_large_list(array.type) or pa.types.is_fixed_size_list(array.type):
        if not pa.types.is_fixed_size_list(array.type):
            sizes = np.diff(array.offsets.to_numpy())
            require(len(sizes) == 0 or bool((sizes == sizes[0]).all()), f"{where} has rows of different lengths")
        array = array.flatten()
        require(array.null_count == 0, f"{where} has rows without a value")
    kind = array.type
    require(
        pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind),
        f"{where} holds {kind}: expected numbers",
    )
    flat = array.to_numpy(zero_copy_only=False)
    if len(flat) == rows:
        return flat
    require(rows > 0 and len(flat) % rows == 0, f"{where} has rows of different lengths")
    return flat.reshape(rows, -1)


def _first_line(error: BaseException) -> str:
    return str(error).splitlines()[0][:200] if str(error) else type(error).__name__

"""What is known of the videos of a folder or list: which of them can be read, how long they last, and their identity.

Making it opens every file once, which takes some milliseconds for each, in several processes. The result is a file of
SQLite. Later runs only compare names, sizes and times of change, and look at files that are new or have changed. An
interrupted survey goes on where it was.

The identity is the SHA-256 of every file's name, size, and SHA-256 of its first and last 16 KiB, in the order of names.
It follows the content for all practical purposes, because the index of a video is at one of its ends and changes with
any frame. Reading every byte would take hours for millions of files.

Only two numbers and the number of windows stay in memory for each video. Names stay in the file.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import os
import re
import sqlite3
import stat
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import Any, Final

import numpy as np

from worldmodel.core.errors import RunStopped, UserError
from worldmodel.data.videos.listing import SUFFIXES, find_videos, is_list
from worldmodel.data.videos.workers import WorkerFailed, Workers

Progress = Callable[[int, int], None]

_VERSION: Final = 1  # of the tables; another version is made anew
_TOGETHER: Final = 256  # files between two commits
_TABLES: Final = """
    CREATE TABLE files (name BLOB PRIMARY KEY, size INTEGER, changed INTEGER, digest TEXT, duration_s REAL,
                        rate_hz REAL, refused TEXT) WITHOUT ROWID;
"""
# What this survey has found, in a temporary file of this connection. Surveys of other runs may change the other table.
_FOUND: Final = """
    CREATE TEMP TABLE found (name BLOB PRIMARY KEY) WITHOUT ROWID;
    CREATE TEMP TABLE videos (number INTEGER PRIMARY KEY, name BLOB, duration_s REAL, rate_hz REAL);
"""


@dataclasses.dataclass(frozen=True)
class _File:
    """A file that was found. A size of -1 stands for one that is missing, or is no regular file."""

    path: Path
    name: bytes
    size: int
    changed: int
    refused: str | None


class Catalogue:
    """The videos of a folder or list that can be read, in the order of their names.

    Attributes:
        durations_s: float64 `[V]`, how long every video lasts [s].
        rates_hz: float64 `[V]`, its average number of frames per second.
        refused: number of files that cannot be read, by reason. A reason names no file.
        first_refused: the whole message for one of these; empty if there is none.
        identity: SHA-256 (hexadecimal) of names, sizes and both ends of all files.
    """

    def __init__(self, database: sqlite3.Connection, base: Path) -> None:
        self._database, self._base, self._lock = database, base, threading.Lock()
        rows = database.execute("SELECT duration_s, rate_hz FROM videos ORDER BY number")
        numbers = np.fromiter((value for row in rows for value in row), np.float64)
        self.durations_s, self.rates_hz = numbers[::2].copy(), numbers[1::2].copy()
        self.refused: Counter[str] = Counter()
        self.first_refused = ""
        found = "FROM found JOIN files USING (name)"
        for name, message in database.execute(f"SELECT name, refused {found} WHERE refused NOT NULL ORDER BY name"):
            self.first_refused = self.first_refused or message
            self.refused[_reason(message, self._path(name))] += 1
        digest = hashlib.sha256()
        for row in database.execute(f"SELECT name, size, digest {found} ORDER BY name"):
            digest.update(b"%d:%s:%d:%s;" % (len(row[0]), row[0], row[1], (row[2] or "").encode()))
        self.identity = digest.hexdigest()

    def __len__(self) -> int:
        return len(self.durations_s)

    def path(self, number: int) -> Path:
        """The file of video `number`. Any thread may ask."""
        with self._lock:
            (name,) = self._database.execute("SELECT name FROM videos WHERE number = ?", (number,)).fetchone()
        return self._path(name)

    def describe(self) -> str:
        """One line on how many videos there are, and why files are left out."""
        left_out = self.refused.total()
        line = f"{len(self):,} videos of {self.durations_s.sum() / 3600:,.2f} hours"
        if not left_out:
            return line
        reasons = ", ".join(f"{reason}: {count:,}" for reason, count in self.refused.most_common(6))
        return f"{line}; {left_out:,} of {len(self) + left_out:,} files are left out ({reasons})"

    def close(self) -> None:
        """Close the file."""
        self._database.close()

    def _path(self, name: bytes) -> Path:
        return self._base / os.fsdecode(name)


def survey(
    source: Path, root: Path | None, file: Path, workers: Workers, progress: Progress | None = None
) -> Catalogue:
    """The catalogue of the videos at `source`, which is kept in `file`.

    Args:
        source: a folder, a list, or one video file.
        root: the folder that the paths of a list are relative to, by default that of the list.
        file: the file of the catalogue, whose folder exists. It can be removed at any time.
        workers: the processes that open the files.
        progress: called with (files done, files found so far).

    Raises:
        UserError: when there is no video at `source`, or none can be read.
        RunStopped: when the file cannot be written.
    """
    base = source if source.is_dir() else (source.parent if root is None else root)
    try:
        database = _open(file)
        try:
            _update(database, source, root, base, workers, progress)
            found = Catalogue(database, base)
            if not len(found):
                raise UserError(_nothing(source, found))
        except BaseException:
            database.close()
            raise
    except sqlite3.Error as error:  # no room on the disk, or another process at work
        raise RunStopped(f"{file}, the catalogue of the videos, cannot be written ({error})") from error
    return found


def catalogue_file(folder: Path, source: Path, root: Path | None) -> Path:
    """The file in `folder` for the catalogue of the videos at `source`."""
    key = hashlib.sha256(f"{source.absolute()}\n{root}".encode(errors="surrogateescape")).hexdigest()[:12]
    return folder / f"videos.{key}.sqlite"


def _nothing(source: Path, found: Catalogue) -> str:
    if found.refused:
        count = found.refused.total()
        return f"none of the {count:,} files of {source} is a video that can be read: {found.first_refused}"
    return f"{source} {'names' if is_list(source) else 'has'} no video: expected files of {', '.join(SUFFIXES)}"


def _open(file: Path) -> sqlite3.Connection:
    try:
        return _with_tables(file)
    except sqlite3.OperationalError:  # not a fault of the content
        raise
    except sqlite3.DatabaseError:
        file.unlink()
        return _with_tables(file)


def _with_tables(file: Path) -> sqlite3.Connection:
    # Every access from another thread than the first takes the catalogue's lock.
    database = sqlite3.connect(file, check_same_thread=False)
    try:
        if database.execute("PRAGMA user_version").fetchone() != (_VERSION,):
            for (table,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall():
                database.execute(f'DROP TABLE "{table}"')
            database.executescript(_TABLES)
            database.execute(f"PRAGMA user_version = {_VERSION}")
            database.commit()
        return database
    except BaseException:
        database.close()
        raise


def _update(
    database: sqlite3.Connection,
    source: Path,
    root: Path | None,
    base: Path,
    workers: Workers,
    progress: Progress | None,
) -> None:
    """Look at all files that are not known yet, and number the videos."""
    database.executescript(_FOUND)
    done, files = 0, _found(source, root, base)
    with _threads(workers) as threads:
        while together := list(islice(files, _TOGETHER)):
            new = [of for of in together if not _is_known(database, of)]
            for row in threads.map(lambda of: _look(of, workers), new):
                database.execute("INSERT OR REPLACE INTO files VALUES (?, ?, ?, ?, ?, ?, ?)", row)
            database.executemany("INSERT OR IGNORE INTO found VALUES (?)", [(of.name,) for of in together])
            # A survey that is interrupted does not open these files again.
            database.commit()
            done += len(together)
            if progress is not None:
                progress(done, done + (_TOGETHER if len(together) == _TOGETHER else 0))
    database.execute(
        "INSERT INTO videos SELECT row_number() OVER (ORDER BY name) - 1, name, duration_s, rate_hz "
        "FROM found JOIN files USING (name) WHERE refused IS NULL"
    )
    database.commit()


@contextlib.contextmanager
def _threads(workers: Workers) -> Iterator[ThreadPoolExecutor]:
    """A thread for each process. After an error, the processes end, since threads would wait for them."""
    threads = ThreadPoolExecutor(workers.count)
    try:
        yield threads
    except BaseException:
        workers.close()
        raise
    finally:
        threads.shutdown(cancel_futures=True)


def _found(source: Path, root: Path | None, base: Path) -> Iterator[_File]:
    for path in find_videos(source, root):
        name = os.fsencode(path.relative_to(base) if path.is_relative_to(base) else path.absolute())
        try:
            status = path.stat()
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or str(error)
            yield _File(path, name, -1, 0, f"{path} cannot be found ({reason})")
            continue
        if stat.S_ISREG(status.st_mode):
            yield _File(path, name, status.st_size, status.st_mtime_ns, None)
        else:
            yield _File(path, name, -1, status.st_mtime_ns, f"{path} is no file")


def _is_known(database: sqlite3.Connection, file: _File) -> bool:
    query = "SELECT 1 FROM files WHERE name = ? AND size = ? AND changed = ?"
    return database.execute(query, (file.name, file.size, file.changed)).fetchone() is not None


def _look(file: _File, workers: Workers) -> tuple[Any, ...]:
    """The row of a file."""
    answer: dict[str, Any]
    if file.refused is not None:
        answer = {"refused": file.refused}
    else:
        with workers.one() as worker:
            try:
                answer = worker.ask({"do": "look", "path": str(file.path)})
            except WorkerFailed as error:
                answer = {"refused": f"{file.path} {error}"}
    figures = (answer.get(key) for key in ("digest", "duration_s", "rate_hz", "refused"))
    return (file.name, file.size, file.changed, *figures)


def _reason(message: str, path: Path) -> str:
    """A message without its file, its details and its figures, so that equal reasons are counted together."""
    text = message.replace(str(path), "").strip().partition(" (")[0].partition(":")[0]
    return re.sub(r"\b\d[\d.,e+]*\b", "N", text)

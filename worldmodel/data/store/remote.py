"""Stores at an address (`https://...`, `http://...` or `s3://...`), which fsspec reads into a cache.

    <cache>/stores/<hash of address>/<hash of descriptions>/   files of this version of the store, under their own names
    <cache>/stores/<hash of address>/latest                    name of the folder that was opened last

The cache is `$WORLDMODEL_CACHE`, else `$XDG_CACHE_HOME/worldmodel-toolkit`, else `~/.cache/worldmodel-toolkit`.

Opening a store fetches its descriptions (each `zarr.json`), which identify the content of all chunks. The description
of `meta/episode_ends` holds the checksum of all records, and the records hold the checksums of all columns. Therefore
the hash of the descriptions names the folder of the chunks, and a changed store gets a new folder. A chunk in the cache
is not fetched again. A file gets its name when it is complete.

The size of the cache is limited to `$WORLDMODEL_CACHE_GB` (default 20). The stores used longest ago are removed first,
but never a store that this process has opened. A file may not be larger than its array's description allows, nor take
longer to arrive than a slow connection would need for that size.
"""

from __future__ import annotations

import contextlib
import datetime
import hashlib
import logging
import math
import os
import shutil
import tempfile
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, ClassVar, Final, Self, final

from worldmodel.core.errors import UserError, choices_message, how_to_install
from worldmodel.core.files import output_folder, replacing
from worldmodel.core.text import printable, without_secrets
from worldmodel.data.store.files import StoreError, UnreachableError
from worldmodel.data.store.metadata import MOST_CHUNK_BYTES
from worldmodel.data.store.rows import chunk_number

LIBRARIES: Final = {"http": "aiohttp", "https": "aiohttp", "s3": "s3fs"}
_log = logging.getLogger(__name__)
_LATEST, _OPENING = "latest", "opening-"
_MOST_DESCRIPTION_BYTES = 2**22
_MOST_FILE_BYTES = 2 * MOST_CHUNK_BYTES  # limit for every file, also if an array's description allows for more
_AT_ONCE = 8  # downloads, because most of the time is spent waiting for answers
_CONNECT_S, _SILENCE_S = 15, 60  # times after which a server counts as unreachable
_MOST_REASON = 200  # characters
_PATIENCE_S, _LEAST_BYTES_PER_S = 60, 100_000  # time for an answer and rate of a slow connection, to limit one file
CACHE_GB: Final = 20.0  # holds the images of some days, and is a small part of a disk
_COUNT_AFTER = 2**26  # bytes fetched between two checks of the cache's size


@final
class RemoteFiles:
    """The files of the store at an address (`worldmodel.data.store.files.StoreFiles`).

    Attributes:
        root: the folder of the cache that holds the files.
        name: the address without its secrets.
    """

    is_remote = True
    hint = "tell its owner"
    _in_use: ClassVar[set[Path]] = set()  # folders of stores that this process has opened

    def __init__(self, root: Path, source: _Source) -> None:
        self.name, self.root, self._source = source.name, root, source
        self._fetched = 0
        self._in_use.add(root)
        with contextlib.suppress(OSError):  # records the time of the last use
            os.utime(root)
        _make_room(self._in_use)

    @classmethod
    def open(cls, address: str, first: Sequence[str], then: Callable[[Path], Sequence[str]]) -> Self:
        """Fetch the descriptions, and leave out those that do not exist.

        The descriptions in `first` are fetched first. From their folder, `then` lists the others.

        If the server does not answer, the version that was opened last is used, and the user is told.

        Raises:
            UnreachableError: when the descriptions cannot be fetched.
            StoreError: when there is no store.
            UserError: when the address is invalid, a library is not installed, or the cache cannot be written to.
        """
        source = _Source(address)
        place = output_folder(cache_folder() / "stores" / _hash(address.encode()), "WORLDMODEL_CACHE")
        try:
            root = cls._describe(source, place, first, then)
        except UnreachableError as error:
            latest = place / _LATEST
            if source.has_answered or not latest.exists() or not (place / latest.read_text()).is_dir():
                raise
            fetched = datetime.datetime.fromtimestamp(latest.stat().st_mtime).isoformat(" ", "minutes")
            _log.warning("not reachable: %s; reading what was fetched until %s", error, fetched)
            root = place / latest.read_text()
        return cls(root, source)

    @staticmethod
    def _describe(source: _Source, place: Path, first: Sequence[str], then: Callable[[Path], Sequence[str]]) -> Path:
        digest = hashlib.sha256()
        with tempfile.TemporaryDirectory(dir=place, prefix=_OPENING) as name:
            # A subfolder can be renamed. TemporaryDirectory removes its own folder at the end.
            draft = Path(name) / "store"

            def fetch(key: str) -> None:
                source.fetch(key, draft / key, _MOST_DESCRIPTION_BYTES)

            _at_once(fetch, first)
            others = then(draft)
            _at_once(fetch, others)
            if not (draft / "zarr.json").exists():
                raise StoreError(f"no recording at {source.name}: there is no zarr.json")
            present = [key for key in (*first, *others) if (draft / key).exists()]
            for key in (*first, *others):
                content = (draft / key).read_bytes() if key in present else b""
                digest.update(f"{key} {len(content)} ".encode() + content)
            root = place / digest.hexdigest()[:32]
            try:
                draft.rename(root)
            except OSError:  # the folder may exist already
                if not root.exists():
                    raise
                for key in present:  # the files there are equal to these, unless the cache is damaged
                    (root / key).parent.mkdir(parents=True, exist_ok=True)
                    os.replace(draft / key, root / key)
        with replacing(place / _LATEST) as latest:
            latest.write(root.name.encode())
        return root

    def fetch(self, keys: Sequence[str], most_bytes: int) -> None:
        """See `StoreFiles`."""
        missing = [key for key in keys if not (self.root / key).exists()]
        most_bytes = min(most_bytes, _MOST_FILE_BYTES)
        _at_once(lambda key: self._source.fetch(key, self.root / key, most_bytes), missing)
        for key in missing:
            with contextlib.suppress(FileNotFoundError):  # the store has no such file
                self._fetched += (self.root / key).stat().st_size
        if self._fetched >= _COUNT_AFTER:
            self._fetched = 0
            _make_room(self._in_use)

    def forget(self, keys: Sequence[str]) -> None:
        """See `StoreFiles`."""
        for key in keys:
            (self.root / key).unlink(missing_ok=True)


def cache_folder() -> Path:
    """Where files from addresses are kept."""
    chosen = os.environ.get("WORLDMODEL_CACHE")
    if chosen:
        return Path(chosen)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "worldmodel-toolkit"


def cache_bytes() -> int:
    """Largest size of the cache [bytes]. Raises UserError if `$WORLDMODEL_CACHE_GB` is not a number above 0."""
    chosen = os.environ.get("WORLDMODEL_CACHE_GB") or str(CACHE_GB)
    try:
        size = float(chosen)
    except ValueError:
        size = math.nan
    if not 0 < size < 1e9:
        raise UserError(f"WORLDMODEL_CACHE_GB is '{printable(chosen)}': expected a number of gigabytes, above 0")
    return int(size * 1e9)


def _make_room(keep: Collection[Path]) -> None:
    """Remove the stores that were used longest ago until the cache is within its size."""
    most, used = cache_bytes(), []
    for root in (cache_folder() / "stores").glob("*/*/"):
        with contextlib.suppress(OSError):  # another process may be making room, too
            size = sum(file.stat().st_size for file in root.rglob("*") if file.is_file())
            used.append((root.stat().st_mtime, size, root))
    total = sum(size for _, size, _ in used)
    for _, size, root in sorted(used):
        if total <= most:
            return
        if root not in keep and not root.name.startswith(_OPENING):
            shutil.rmtree(root, ignore_errors=True)
            total -= size


class _Source:
    """The server's side of an address.

    Attributes:
        address: the address without a final slash.
        name: the address without its secrets.
        has_answered: whether the server has ever answered, even with a refusal.
    """

    def __init__(self, address: str) -> None:
        self.address, self.name = address, without_secrets(address)
        self._filesystem = _filesystem(address)
        self.has_answered = False

    def fetch(self, key: str, target: Path, most_bytes: int) -> None:
        """Copy the file `key` to `target`, if there is such a file. Raises UnreachableError."""
        target.parent.mkdir(parents=True, exist_ok=True)
        descriptor, partial = tempfile.mkstemp(dir=target.parent, prefix="fetching-")
        os.close(descriptor)
        try:
            seconds = _PATIENCE_S + most_bytes / _LEAST_BYTES_PER_S
            self._filesystem.get_file(f"{self.address}/{key}", partial, callback=_limit(most_bytes), timeout=seconds)
            os.replace(partial, target)
            self.has_answered = True
        except FileNotFoundError:
            self.has_answered = True
        # Each file system has its own exceptions, in libraries that may not be installed.
        except Exception as error:
            self.has_answered |= isinstance(error, PermissionError) or getattr(error, "status", None) is not None
            reason = printable(without_secrets(error))[:_MOST_REASON] or type(error).__name__
            if isinstance(error, TimeoutError):
                reason = f"it takes longer than {seconds:.0f} s"
            message = f"{self.name}: {_describe(key)} cannot be fetched ({reason})"
            raise UnreachableError(message) from (None if self.name != self.address else error)
        finally:
            Path(partial).unlink(missing_ok=True)


def _filesystem(address: str) -> Any:
    scheme = address.partition("://")[0]
    if scheme not in LIBRARIES:
        raise UserError(choices_message("kind of address", scheme, LIBRARIES))
    if "?" in address or "#" in address:
        raise UserError(
            f"{without_secrets(address)} has a ? or #: expected an address that the names of files can be added to"
        )
    try:
        import fsspec

        if scheme == "s3":
            return fsspec.filesystem(scheme)
        import aiohttp

        # There is no total limit here, since a large file may take long while data keep arriving.
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT_S, sock_read=_SILENCE_S)
        return fsspec.filesystem(scheme, client_kwargs={"timeout": timeout})
    except ImportError as error:
        raise UserError(
            f"{without_secrets(address)} needs fsspec and {LIBRARIES[scheme]}, which are not installed: "
            f"{how_to_install('remote,s3' if scheme == 's3' else 'remote')}"
        ) from error


def _limit(most_bytes: int) -> Any:
    """An fsspec callback that ends a download of more than `most_bytes`."""
    from fsspec.callbacks import Callback

    class Limit(Callback):  # type: ignore[misc]
        def relative_update(self, inc: int = 1) -> None:
            super().relative_update(inc)
            if self.value > most_bytes:
                raise ValueError(f"it has more than {most_bytes} bytes")

    return Limit()


def _at_once(fetch: Any, keys: Sequence[str]) -> None:
    if not keys:
        return
    pool = ThreadPoolExecutor(_AT_ONCE)
    try:
        list(pool.map(fetch, keys))
    finally:
        pool.shutdown(cancel_futures=True)  # after an error, the remaining downloads would fail, too


def _describe(key: str) -> str:
    folder, _, file = key.rpartition("/")
    number = chunk_number(Path(file))
    return key if number is None else f"chunk {number} of {folder} ({file})"


def _hash(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]

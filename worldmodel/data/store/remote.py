"""Stores at an address: `https://...`, `http://...` or `s3://...`, read through fsspec, kept in a cache.

    <cache>/stores/<of the address>/<of the descriptions>/   files of the store as it was then, under their own names
    <cache>/stores/<of the address>/latest                   name of the folder that was opened last

The cache is `$WORLDMODEL_CACHE`, else `$XDG_CACHE_HOME/worldmodel-toolkit`, else `~/.cache/worldmodel-toolkit`.

Opening a store fetches its descriptions (each `zarr.json`). They say what the chunks are: that of `meta/episode_ends`
holds the checksum of all records, and these hold those of all columns. So chunks are kept in a folder that is named by
the hash of the descriptions, and a store that has changed gets another one. A chunk that is there is not asked for
again. A file gets its name when it is whole.
"""

from __future__ import annotations

import datetime
import hashlib
import os
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final, Self, final

from worldmodel.cli.console import console
from worldmodel.core.errors import UserError, choices_message, how_to_install
from worldmodel.core.files import output_folder, replacing
from worldmodel.data.store.files import StoreError, UnreachableError
from worldmodel.data.store.metadata import MOST_CHUNK_BYTES
from worldmodel.data.store.rows import chunk_number

LIBRARIES: Final = {"http": "aiohttp", "https": "aiohttp", "s3": "s3fs"}
_LATEST = "latest"
_MOST_DESCRIPTION_BYTES = 2**22
_MOST_FILE_BYTES = 2 * MOST_CHUNK_BYTES  # a chunk that does not compress, and the index of a packed file
_AT_ONCE = 8  # downloads: what takes time is mostly waiting for an answer
_CONNECT_S, _SILENCE_S = 15, 60  # until a server counts as unreachable
_MOST_REASON = 200  # characters


@final
class RemoteFiles:
    """The files of the store at an address (`worldmodel.data.store.files.StoreFiles`).

    Attributes:
        root: the folder of the cache that they are kept in.
        name: the address.
    """

    is_remote = True
    hint = "tell its owner"

    def __init__(self, address: str, root: Path, source: _Source) -> None:
        self.name, self.root, self._source = address, root, source

    @classmethod
    def open(cls, address: str, first: Sequence[str], then: Callable[[Path], Sequence[str]]) -> Self:
        """Fetch the descriptions, `first` before `then`; those that do not exist are left out.

        `then` says which the others are, from the folder that holds the first ones.

        Where the server does not answer, the store is opened as it was the last time, and the user is told.

        Raises:
            UnreachableError: when they cannot be fetched.
            StoreError: when there is no store.
            UserError: when the address is none, a library is not installed, or the cache cannot be written to.
        """
        source = _Source(address)
        place = output_folder(cache_folder() / "stores" / _hash(address.encode()), "WORLDMODEL_CACHE")
        try:
            root = cls._describe(source, place, first, then)
        except UnreachableError as error:
            latest = place / _LATEST
            if source.has_answered or not latest.exists():
                raise
            fetched = datetime.datetime.fromtimestamp(latest.stat().st_mtime).isoformat(" ", "minutes")
            console.print(f"[yellow]not reachable[/]: {error}; reading what was fetched until {fetched}")
            root = place / latest.read_text()
        return cls(address, root, source)

    @staticmethod
    def _describe(source: _Source, place: Path, first: Sequence[str], then: Callable[[Path], Sequence[str]]) -> Path:
        digest = hashlib.sha256()
        with tempfile.TemporaryDirectory(dir=place, prefix="opening-") as name:
            # Within a folder that can be renamed: TemporaryDirectory removes its own.
            draft = Path(name) / "store"

            def fetch(key: str) -> None:
                source.fetch(key, draft / key, _MOST_DESCRIPTION_BYTES)

            _at_once(fetch, first)
            others = then(draft)
            _at_once(fetch, others)
            if not (draft / "zarr.json").exists():
                raise StoreError(f"no recording at {source.address}: there is no zarr.json")
            for key in (*first, *others):
                content = (draft / key).read_bytes() if (draft / key).exists() else b""
                digest.update(f"{key} {len(content)} ".encode() + content)
            root = place / digest.hexdigest()[:32]
            if not root.exists():
                try:
                    draft.rename(root)
                except OSError:  # another process was faster
                    if not root.exists():
                        raise
        with replacing(place / _LATEST) as latest:
            latest.write(root.name.encode())
        return root

    def fetch(self, keys: Sequence[str]) -> None:
        """See `StoreFiles`."""
        missing = [key for key in keys if not (self.root / key).exists()]
        _at_once(lambda key: self._source.fetch(key, self.root / key, _MOST_FILE_BYTES), missing)

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


class _Source:
    """What is at an address.

    Attributes:
        address: without a slash at its end.
        has_answered: whether anything ever came from there, be it a refusal.
    """

    def __init__(self, address: str) -> None:
        self.address = address
        self._filesystem = _filesystem(address)
        self.has_answered = False

    def fetch(self, key: str, target: Path, most_bytes: int) -> None:
        """Make `target` a copy of the file `key`; do nothing where there is none. Raises UnreachableError."""
        target.parent.mkdir(parents=True, exist_ok=True)
        descriptor, partial = tempfile.mkstemp(dir=target.parent, prefix="fetching-")
        os.close(descriptor)
        try:
            self._filesystem.get_file(f"{self.address}/{key}", partial, callback=_limit(most_bytes))
            os.replace(partial, target)
            self.has_answered = True
        except FileNotFoundError:
            self.has_answered = True
        # Each file system has errors of its own, in libraries that need not be installed.
        except Exception as error:
            self.has_answered |= isinstance(error, PermissionError) or getattr(error, "status", None) is not None
            reason = " ".join(str(error).split())[:_MOST_REASON] or type(error).__name__
            raise UnreachableError(f"{self.address}: {_describe(key)} cannot be fetched ({reason})") from error
        finally:
            Path(partial).unlink(missing_ok=True)


def _filesystem(address: str) -> Any:
    scheme = address.partition("://")[0]
    if scheme not in LIBRARIES:
        raise UserError(choices_message("kind of address", scheme, LIBRARIES))
    if "?" in address or "#" in address:
        raise UserError(f"{address} has a ? or #: expected an address that the names of files can be added to")
    try:
        import fsspec

        if scheme == "s3":
            return fsspec.filesystem(scheme)
        import aiohttp

        # Not in all: a large file over a slow line may take its time, as long as something comes.
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT_S, sock_read=_SILENCE_S)
        return fsspec.filesystem(scheme, client_kwargs={"timeout": timeout})
    except ImportError as error:
        raise UserError(
            f"{address} needs fsspec and {LIBRARIES[scheme]}, which are not installed: "
            f"{how_to_install('remote,s3' if scheme == 's3' else 'remote')}"
        ) from error


def _limit(most_bytes: int) -> Any:
    """A callback of fsspec's that ends a download which is larger than any file of a store."""
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
        pool.shutdown(cancel_futures=True)  # after an error, what has not begun would fail as well


def _describe(key: str) -> str:
    folder, _, file = key.rpartition("/")
    number = chunk_number(Path(file))
    return key if number is None else f"chunk {number} of {folder} ({file})"


def _hash(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]

"""Where the files of a store are: in a folder, or (`worldmodel.data.store.remote`) at an address.

Everything that reads a store reads files in a folder of this machine, `root`. Files at an address are fetched into such
a folder before they are read, so that there is one way of opening a store, and one set of checks.
"""

from __future__ import annotations

import errno
import os
import re
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO, Protocol, final

from worldmodel.core.errors import UserError

# One slash is enough: `Path` makes one of two, and a folder is never called `https:`.
_ADDRESS = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):/{1,2}([^/].*)")


class StoreError(UserError):
    """The store is absent, damaged, or made by a newer program. The message says which, and where."""


class UnreachableError(StoreError):
    """A file of a store at an address cannot be fetched. What is there may well be whole."""


class StoreFiles(Protocol):
    """The files of one store. Keys are paths within it, for example `data/pixels/c.0.0.0.0`."""

    @property
    def root(self) -> Path:
        """The folder of this machine that they are read from."""

    @property
    def name(self) -> str:
        """What the user calls the store: its path or address."""

    @property
    def hint(self) -> str:
        """What can be done about a damaged file, other than restoring it."""

    @property
    def is_remote(self) -> bool:
        """Whether they are at an address."""

    def fetch(self, keys: Sequence[str], most_bytes: int) -> None:
        """Bring files into `root`; one that does not exist is not there afterwards.

        Raises:
            UnreachableError: when that cannot be told, or a file did not arrive whole, or has more than `most_bytes`.
        """

    def forget(self, keys: Sequence[str]) -> None:
        """Files that turned out to be damaged: the next `fetch` brings them anew."""


@final
class LocalFiles:
    """The files of a store in a folder: they are there, or they are not."""

    is_remote = False

    def __init__(self, root: Path) -> None:
        self.root, self.name = root, str(root)

    @property
    def hint(self) -> str:
        """See `StoreFiles`."""
        return f"`python -m worldmodel.data recover {self.root}` saves what can be saved"

    def fetch(self, keys: Sequence[str], most_bytes: int) -> None:
        """Nothing to be done."""

    def forget(self, keys: Sequence[str]) -> None:
        """Nothing to be done: these are the only ones."""


def open_file(path: Path) -> BinaryIO:
    """Open a file for reading, if it is one: a pipe or device in its place would make the reader wait for ever.

    Raises:
        OSError: where it cannot be opened, or is something else.
    """
    # Without O_NONBLOCK, opening a pipe waits for somebody to write to it.
    file = open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK))  # noqa: SIM115
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise OSError(errno.EINVAL, "not a regular file", str(path))
    return file


def address_in(path: str | Path) -> str | None:
    """The address that `path` is, for example `https://host/data.zarr`, without a slash at its end; None for a path.

    Also one that has been through `Path`, which leaves out a slash.
    """
    found = _ADDRESS.fullmatch(str(path))
    return f"{found[1].lower()}://{found[2].rstrip('/')}" if found else None


def require_folder(path: str | Path) -> None:
    """Before anything is written to `path`. Raises UserError for an address, and for a path that ends in no name."""
    address = address_in(path)
    if address is not None:
        raise UserError(f"{address} is an address, which is only read: expected a folder of this machine")
    if Path(path).name in ("", ".."):  # the lock and the draft are beside it, and called after it
        raise UserError(f"'{path}' does not name a folder: expected one, for example {Path(path) / 'data.zarr'}")

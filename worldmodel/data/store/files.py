"""The files of a store, which are in a folder or at an address (`worldmodel.data.store.remote`).

All code that reads a store reads files in a local folder, `root`. Files at an address are first fetched into such a
folder, so that there is one way to open a store and one set of checks.
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

# One slash is enough, because `Path` merges two into one, and no folder is called `https:`.
_ADDRESS = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):/{1,2}([^/].*)")


class StoreError(UserError):
    """The store is absent, damaged, or from a newer program. The message has the reason and the place."""


class UnreachableError(StoreError):
    """A file of a store at an address cannot be fetched. The store itself may be undamaged."""


class StoreFiles(Protocol):
    """The files of one store. Keys are paths within it, for example `data/pixels/c.0.0.0.0`."""

    @property
    def root(self) -> Path:
        """The local folder that the files are read from."""

    @property
    def name(self) -> str:
        """The path or address by which the user knows the store."""

    @property
    def hint(self) -> str:
        """Advice on a damaged file, other than to restore it."""

    @property
    def is_remote(self) -> bool:
        """Whether the store is at an address."""

    def fetch(self, keys: Sequence[str], most_bytes: int) -> None:
        """Bring files into `root`. A file that does not exist in the store is absent from `root` afterwards.

        Raises:
            UnreachableError: when a file's existence cannot be determined, or a file arrives incomplete or has more
                than `most_bytes`.
        """

    def forget(self, keys: Sequence[str]) -> None:
        """Discard files that turned out to be damaged. The next `fetch` brings them again."""


@final
class LocalFiles:
    """The files of a store in a local folder, where nothing has to be fetched."""

    is_remote = False

    def __init__(self, root: Path) -> None:
        self.root, self.name = root, str(root)

    @property
    def hint(self) -> str:
        """See `StoreFiles`."""
        return f"`python -m worldmodel.data recover {self.root}` saves what can be saved"

    def fetch(self, keys: Sequence[str], most_bytes: int) -> None:
        """Do nothing."""

    def forget(self, keys: Sequence[str]) -> None:
        """Do nothing, since there is no other copy of the files."""


def open_file(path: Path) -> BinaryIO:
    """Open a regular file for reading. A pipe or device in its place could make the reader wait for ever.

    Raises:
        OSError: when it cannot be opened, or is not a regular file.
    """
    # Without O_NONBLOCK, opening a pipe would wait for a process that writes to it.
    file = open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK))  # noqa: SIM115
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise OSError(errno.EINVAL, "not a regular file", str(path))
    return file


def address_in(path: str | Path) -> str | None:
    """`path` as an address without a final slash, for example `https://host/data.zarr`; None if it is no address.

    An address that has been through `Path`, which leaves out a slash, is recognised too.
    """
    found = _ADDRESS.fullmatch(str(path))
    return f"{found[1].lower()}://{found[2].rstrip('/')}" if found else None


def require_folder(path: str | Path) -> None:
    """Check a `path` to write to. Raises UserError for an address, and for a path that ends in no name."""
    address = address_in(path)
    if address is not None:
        raise UserError(f"{address} is an address, which is only read: expected a folder of this machine")
    if Path(path).name in ("", ".."):  # the lock and the draft lie beside it, under names made from its name
        raise UserError(f"'{path}' does not name a folder: expected one, for example {Path(path) / 'data.zarr'}")

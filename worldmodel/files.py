"""Files that are replaced whole: whatever happens, the old content is there or the new."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """Write to the file that this gives; it gets the name `path` once it is on disk, and never after an error."""
    temporary = path.with_name(path.name + ".tmp")
    with temporary.open("wb") as file:
        yield file
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)


def write_json(content: Any, path: Path) -> None:
    """Write `content` so that people can read it. Raises TypeError for what JSON does not know."""
    with replacing(path) as file:
        file.write((json.dumps(content, indent=2) + "\n").encode())

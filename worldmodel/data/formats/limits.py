"""Limits for untrusted files. They bound the sizes that a file may claim, and the paths that it may refer to."""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

from worldmodel.data.formats.source import FormatError

MOST_EPISODES: Final = 1_000_000
MOST_ROWS: Final = 1_000_000  # rows of one episode: nine hours at 30 per second
MOST_FILES: Final = 5_000_000
MOST_COLUMNS: Final = 1_000
MOST_NUMBERS: Final = 4_096  # numbers in one row of a column that is not an image
MOST_PIXELS: Final = 16_777_216  # pixels of one image: 4096 x 4096
MOST_IMAGE_BYTES: Final = 64_000_000  # size of one encoded image
MOST_CHUNK_BYTES: Final = 1_000_000_000  # bytes decoded at once
MOST_EPISODE_BYTES: Final = 8_000_000_000  # size of an episode, which stays in memory until it is written
MOST_JSON_BYTES: Final = 100_000_000
_SAME_RATE = 0.01  # rates that differ by no more count as equal, since 29.97 is often called 30
_FIELD = re.compile(r"\{(?P<name>[a-z_]+)(?::0?(?P<digits>\d{1,2})d)?\}")
_HEAD_BYTES = 65_536


def require(holds: bool, message: str) -> None:
    """Raises FormatError with `message` unless the condition `holds`."""
    if not holds:
        raise FormatError(message)


def require_file(path: Path) -> None:
    """Raises FormatError unless `path` is a regular file. Opening a pipe could wait for its writer for ever."""
    require(path.is_file(), f"{path} is not there, or not a file")


def check_row(shape: Iterable[int], is_image: bool, where: str) -> None:
    """Raises FormatError if one row of a column is larger than any robot's."""
    most = 4 * MOST_PIXELS if is_image else MOST_NUMBERS
    sizes = tuple(shape)
    require(
        len(sizes) <= 4 and all(0 < size <= most for size in sizes) and math.prod(sizes) <= most,
        f"{where} has rows {list(sizes)}: at most {most:,} numbers are accepted",
    )


def whole_number(value: object, low: int, high: int, where: str) -> int:
    """`value` if it is a whole number from `low` to `high`. Raises FormatError otherwise."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise FormatError(f"{where} is {_short(value)}: expected a whole number from {low:,} to {high:,}")
    return value


def number(value: object, low: float, high: float, where: str) -> float:
    """`value` if it is a number from `low` to `high`. Raises FormatError otherwise."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
        raise FormatError(f"{where} is {_short(value)}: expected a number from {low:g} to {high:g}")
    return float(value)


def read_json(path: Path) -> Any:
    """Content of a JSON file. Raises FormatError when the file is missing, too large or not JSON."""
    return parse_json(read_text(path), str(path))


def parse_json(text: str, where: str) -> Any:
    """Values of a JSON text. Raises FormatError when the text is not JSON."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise FormatError(f"{where} is not JSON ({error})") from error


def read_text(path: Path, most_bytes: int = MOST_JSON_BYTES) -> str:
    """Content of a text file in UTF-8. Raises FormatError when the file is missing, too large or not text."""
    try:
        size = path.stat().st_size
        require_file(path)
        require(size <= most_bytes, f"{path} has {size:,} bytes: at most {most_bytes:,} accepted")
        return path.read_text("utf-8")
    except FileNotFoundError as error:
        raise FormatError(f"{path} is not there") from error
    except (OSError, UnicodeDecodeError) as error:
        raise FormatError(f"{path} cannot be read ({error})") from error


def inside(root: Path, relative: str, where: str) -> Path:
    """The file `relative` under the folder `root`. Neither `..` nor a link may lead out of the folder.

    Raises:
        FormatError: when the path leads out. The message names `where` the path was found.
    """
    parts = Path(relative).parts
    if not parts or "\0" in relative or Path(relative).is_absolute() or ".." in parts:
        raise FormatError(f"{where} leads out of {root}: {_short(relative)}")
    return not_linked_out(root, root / relative)


def not_linked_out(root: Path, path: Path) -> Path:
    """`path` unchanged. Raises FormatError if it leads out of `root` through a link."""
    try:
        resolved = path.resolve()
    except (OSError, RuntimeError) as error:
        raise FormatError(f"{path} cannot be followed ({error})") from error
    require(
        resolved.is_relative_to(root.resolve()),
        f"{path} is a link that leads out of {root}: copy the data set with its files (`cp -rL`)",
    )
    return path


def fill_template(template: object, where: str, **values: str | int) -> str:
    """Insert `values` into a path template such as `data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet`.

    Unlike `str.format`, this accepts only plain names and formats such as `:03d`.

    Raises:
        FormatError: for anything else in braces.
    """
    if not isinstance(template, str) or len(template) > 1000:
        raise FormatError(f"{where} is {_short(template)}: expected a path")

    def value_of(field: re.Match[str]) -> str:
        name, digits = field["name"], field["digits"]
        value = values.get(name)
        if value is None or (digits is not None and not isinstance(value, int)):
            raise FormatError(f"{where} has {field[0]}: expected {', '.join(values)}")
        return str(value) if digits is None else f"{value:0{int(digits)}d}"

    filled = _FIELD.sub(value_of, template)
    require("{" not in filled and "}" not in filled, f"{where} is {_short(template)}: expected a path template")
    return filled


def fingerprint(root: Path, files: Iterable[Path], heads: Iterable[Path]) -> str:
    """SHA-256 (hexadecimal) of the names and sizes of `files` under `root`, and of the first bytes of `heads`."""
    digest = hashlib.sha256()
    files, heads = sorted(files), sorted(heads)
    for path in files:
        require_file(path)
        digest.update(f"{path.relative_to(root)}\0{path.stat().st_size}\0".encode())
    for path in heads:
        require_file(path)
        with path.open("rb") as file:
            digest.update(hashlib.sha256(file.read(_HEAD_BYTES)).digest())
    return digest.hexdigest()


def is_same_rate(one_hz: float, other_hz: float) -> bool:
    """Whether a rate counts as equal to another one, of which it is a rounded version."""
    return abs(one_hz - other_hz) <= _SAME_RATE * other_hz


def natural(path: Path | str) -> tuple[tuple[int, str], ...]:
    """A sort key that puts `frame2` before `frame10`."""
    name = path if isinstance(path, str) else path.name
    return tuple((int(part[:18]), part) if part.isdecimal() else (-1, part) for part in re.split(r"([0-9]+)", name))


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."

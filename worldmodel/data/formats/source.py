"""The interface of data sets of every format, as an import uses it.

Files are untrusted. A source checks every number in them against `limits` before it allocates anything.

Shapes: `n` rows of an episode, `H, W, C` height, width and channels of an image.
"""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, NamedTuple, Self

from numpy.typing import NDArray

from worldmodel.core.errors import UserError
from worldmodel.core.spec import EnvironmentSpec
from worldmodel.data.formats.mapping import Choice

UNKNOWN_SEED: Final = -1


class FormatError(UserError):
    """A data set is damaged, or violates its format. The message names the file and the key in it."""


@contextmanager
def refusing(errors: tuple[type[Exception], ...], message: str) -> Iterator[None]:
    """A context that turns a library's `errors` for a damaged file into FormatError with `message` and the reason."""
    try:
        yield
    except FormatError:  # has a full message already
        raise
    except errors as error:
        raise FormatError(f"{message} ({error})") from error


@dataclasses.dataclass(frozen=True)
class Feature:
    """One named column of a data set.

    Attributes:
        name: name, as the user types it.
        shape: shape of one row. For an image it is the stored shape, `(H, W, C)` or `(C, H, W)`.
        dtype: type of its numbers, for example `float32` or `uint8`, or the encoding of images, `video` or `png/jpeg`.
        is_image: whether a row is an image.
        names: name of each number in a row; empty if the data set has no names.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    is_image: bool
    names: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Facts:
    """A data set's description of itself, without its columns.

    Attributes:
        format: name and version of the format, for example `LeRobotDataset v3.0`.
        env: name of the robot or environment.
        rate_hz: rows per second; None if unknown.
        action_low: smallest action, one number per dimension; None if unknown.
        action_high: largest action, one number per dimension; None if unknown.
        usual: the format's usual column for a role (action, proprio, state, reward), if it has one.
        spec: the specification of the store that the data set was exported from, if it was.
        rows: the relation between rows of actions and rows of observations, in words.
    """

    format: str
    env: str
    rate_hz: float | None = None
    action_low: tuple[float, ...] | None = None
    action_high: tuple[float, ...] | None = None
    usual: Mapping[str, str] = dataclasses.field(default_factory=dict)
    spec: EnvironmentSpec | None = None
    rows: str = "as many actions as observations: the last action of an episode leads nowhere and is left out"


class Length(NamedTuple):
    """Numbers of rows of one episode."""

    observations: int
    actions: int


class Source(abc.ABC):
    """A data set opened for reading.

    Attributes:
        path: path of the data set.
        facts: its description of itself.
        features: its columns, by name.
    """

    def __init__(self, path: Path, facts: Facts, features: Mapping[str, Feature]) -> None:
        self.path, self.facts, self.features = path, facts, features

    @abc.abstractmethod
    def lengths(self, choice: Choice) -> list[Length]:
        """Numbers of rows that every episode has for the columns of `choice`.

        Raises:
            FormatError: when columns contradict each other or the data set's totals.
        """

    @abc.abstractmethod
    def column(self, episode: int, name: str, rows: int) -> NDArray[Any]:
        """The first `rows` rows `[rows, ...]` of a column of numbers.

        Raises:
            FormatError: when they do not exist or are not numbers.
        """

    @abc.abstractmethod
    def frames(self, episode: int, name: str, rows: int) -> Iterator[NDArray[Any]]:
        """The first `rows` images of a column, decoded, each in its stored shape `[H, W, C]` or `[C, H, W]`.

        Raises:
            FormatError: when they do not exist or cannot be decoded.
        """

    @abc.abstractmethod
    def fingerprint(self) -> str:
        """A hash (hexadecimal) that distinguishes this data set from others, without reading all of it."""

    def seed(self, episode: int) -> int:
        """Seed of the environment's reset, or `UNKNOWN_SEED`."""
        return UNKNOWN_SEED

    def instruction(self, episode: int) -> str:
        """The instruction to the robot; empty if the data set has none."""
        return ""

    def timestamps(self, episode: int, rows: int) -> NDArray[Any] | None:
        """Times [s] of the first `rows` rows, `[rows]`; None if the data set has no times."""
        return None

    def close(self) -> None:  # noqa: B027  (most sources keep nothing open)
        """Close all open files."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

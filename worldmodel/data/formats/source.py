"""What an import sees of a data set, whatever its format.

Files come from strangers: a source checks every number it finds in them against `limits` before it allocates anything.

Shapes: `n` rows of an episode, `H, W, C` height, width and channels of a picture.
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
    """A data set is damaged, or is not what its format says. The message names the file, and the key in it."""


@contextmanager
def refusing(errors: tuple[type[Exception], ...], message: str) -> Iterator[None]:
    """What a library raises for a damaged file, one of `errors`, as FormatError with `message` and the reason."""
    try:
        yield
    except FormatError:  # says already what is wrong
        raise
    except errors as error:
        raise FormatError(f"{message} ({error})") from error


@dataclasses.dataclass(frozen=True)
class Feature:
    """One named column of a data set.

    Attributes:
        name: as the user types it.
        shape: of one row; of a picture as it is stored, `(H, W, C)` or `(C, H, W)`.
        dtype: of its numbers, or how pictures are coded: `float32`, `uint8`, `video`, `png/jpeg`.
        is_image: whether a row is a picture.
        names: of its numbers, one each; empty where the data set does not say.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    is_image: bool
    names: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Facts:
    """What a data set says of itself beside its columns.

    Attributes:
        format: its name and version, for example `LeRobotDataset v3.0`.
        env: name of the robot or environment.
        rate_hz: rows per second; None where it does not say.
        action_low: smallest action, one number per dimension; None where it does not say.
        action_high: largest action, likewise.
        usual: the name that the format itself gives to a role (action, proprio, state, reward), where it has one.
        spec: the environment of the store that this was exported from, if it was.
        rows: how rows of actions stand to rows of observations, in words.
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
    """Rows of one episode."""

    observations: int
    actions: int


class Source(abc.ABC):
    """A data set opened for reading.

    Attributes:
        path: where it is.
        facts: what it says of itself.
        features: its columns, by name.
    """

    def __init__(self, path: Path, facts: Facts, features: Mapping[str, Feature]) -> None:
        self.path, self.facts, self.features = path, facts, features

    @abc.abstractmethod
    def lengths(self, choice: Choice) -> list[Length]:
        """Rows of every episode that are there for `choice`.

        Raises:
            FormatError: when columns contradict each other, or the totals that the data set names.
        """

    @abc.abstractmethod
    def column(self, episode: int, name: str, rows: int) -> NDArray[Any]:
        """The first `rows` rows `[rows, ...]` of a column of numbers.

        Raises:
            FormatError: when they are not there or are not numbers.
        """

    @abc.abstractmethod
    def frames(self, episode: int, name: str, rows: int) -> Iterator[NDArray[Any]]:
        """The first `rows` pictures of a column, decoded, each as it is stored: `[H, W, C]` or `[C, H, W]`.

        Raises:
            FormatError: when they are not there or cannot be decoded.
        """

    @abc.abstractmethod
    def fingerprint(self) -> str:
        """Tells this data set from another, without reading all of it (hexadecimal)."""

    def seed(self, episode: int) -> int:
        """What the environment was reset with, or `UNKNOWN_SEED`."""
        return UNKNOWN_SEED

    def instruction(self, episode: int) -> str:
        """What the robot was told to do; empty where the data set does not say."""
        return ""

    def timestamps(self, episode: int, rows: int) -> NDArray[Any] | None:
        """When each of the first `rows` rows was taken [s], `[rows]`; None where the data set does not say."""
        return None

    def close(self) -> None:  # noqa: B027  (most sources keep nothing open)
        """Close what is open."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

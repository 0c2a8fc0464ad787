"""How an impossible clip is made of two possible ones.

Two possible clips of a scene exchange what they show after a break. Each of them then has an impossible twin.

    possible        impossible twin
    first           first until the break, then `second` in some columns of the state
    second          second until the break, then `first` in these columns

This is the quadruplet of IntPhys (arXiv 1803.07616). Each ending occurs once in a possible clip and once in an
impossible one, so it is what came before, or what stands in its way, that makes it impossible.

Shapes: `T` rows of a clip, `N` state, `A` action.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from envs.world import Floats

# Rows before and after the break that every clip has. A predictor needs some before, and shows its surprise after.
MARGIN: Final = 7


@dataclasses.dataclass(frozen=True)
class Clip:
    """What happens in a clip.

    Attributes:
        states: `[T, N]`, one for each frame.
        actions: float32 `[T, A]` in physical units. The last one is zero and is never taken.
    """

    states: Floats
    actions: NDArray[np.float32]


@dataclasses.dataclass(frozen=True)
class Pair:
    """A possible clip and its impossible twin, which show the same until the break.

    Attributes:
        violation: what is impossible, such as `vanishes`.
        break_row: the first row in which they may differ.
    """

    violation: str
    possible: Clip
    impossible: Clip
    break_row: int


@dataclasses.dataclass(frozen=True)
class Crossing:
    """Two possible clips, and what their impossible twins exchange.

    Attributes:
        first, second: the possible clips, of the same length.
        columns: columns of the state that are exchanged.
        break_row: the row from which on they are.
        violations: what is impossible in the twin of `first`, and in that of `second`.
    """

    first: Clip
    second: Clip
    columns: Sequence[int]
    break_row: int
    violations: tuple[str, str]

    @property
    def has_margins(self) -> bool:
        """Whether there are enough rows before and after the break."""
        return MARGIN <= self.break_row <= len(self.first.states) - MARGIN

    @property
    def pairs(self) -> tuple[Pair, Pair]:
        """Both possible clips, each with its impossible twin."""
        clips = ((self.first, self.second), (self.second, self.first))
        return (
            Pair(self.violations[0], clips[0][0], self._twin(*clips[0]), self.break_row),
            Pair(self.violations[1], clips[1][0], self._twin(*clips[1]), self.break_row),
        )

    def _twin(self, clip: Clip, other: Clip) -> Clip:
        states = clip.states.copy()
        rows, columns = np.ix_(np.arange(self.break_row, len(states)), np.asarray(self.columns))
        states[rows, columns] = other.states[rows, columns]
        return Clip(states, clip.actions)


def first_difference(first: Clip, second: Clip, columns: Sequence[int], least: float) -> int:
    """The first row in which `columns` differ by more than `least`, or the number of rows if none does."""
    differences = np.abs(first.states - second.states)[:, list(columns)].max(1)
    (rows,) = np.nonzero(differences > least)
    return int(rows[0]) if len(rows) else len(differences)

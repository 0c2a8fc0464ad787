"""Statistics of a data set's actions and proprioception, from which an import infers the action's specification.

Shapes: `A` numbers of an action, `P` proprioceptive readings, `T` actions of an episode.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from worldmodel.data.formats.mapping import Choice
from worldmodel.data.formats.rows import numbers, single
from worldmodel.data.formats.source import FormatError, Source

FEW: Final = 20  # actions; fewer allow no conclusion
_MOST_EPISODES, _MOST_ROWS = 64, 256  # episodes, and rows of each, whose actions are compared with readings
_MOST_PAIRS = 4096  # pairs of an action's number and a reading; no arm has more


class Survey:
    """Statistics that are collected episode by episode.

    Attributes:
        low: smallest action `[A]`, rounded to float32.
        high: largest action `[A]`, rounded to float32.
        num_actions: number of actions.
    """

    def __init__(self, size: int) -> None:
        self.low, self.high = np.full(size, np.inf), np.full(size, -np.inf)
        self.num_actions = 0
        self._others = np.zeros(size, bool)  # whether there is a third value
        self._pair = np.full((2, size), np.nan)
        self._sums: NDArray[np.float64] | None = None
        self._moments = np.zeros((3, size))

    def add(self, action: NDArray[np.float64], proprio: NDArray[np.float64] | None = None) -> None:
        """Add one episode of actions `[T, A]`. Readings `[T + 1, P]`, if given, are compared with the actions."""
        if not len(action):
            return
        self.low, self.high = np.minimum(self.low, action.min(0)), np.maximum(self.high, action.max(0))
        self.num_actions += len(action)
        self._pair[0] = np.where(np.isnan(self._pair[0]), action[0], self._pair[0])
        differs = action != self._pair[0]
        first = action[np.argmax(differs, axis=0), np.arange(action.shape[1])]
        self._pair[1] = np.where(np.isnan(self._pair[1]) & differs.any(0), first, self._pair[1])
        self._others |= (differs & (action != self._pair[1])).any(0)
        if proprio is not None and 0 < proprio.shape[1] * action.shape[1] <= _MOST_PAIRS:
            self._compare(action, proprio)

    def _compare(self, action: NDArray[np.float64], proprio: NDArray[np.float64]) -> None:
        rows = np.unique(np.linspace(0, len(action) - 1, min(len(action), _MOST_ROWS)).astype(int))
        taken = action[rows]
        late, now = (np.abs(taken[:, :, None] - proprio[rows + shift][:, None, :]).sum(0) for shift in (1, 0))
        together = np.stack([late, now])
        self._sums = together if self._sums is None else self._sums + together
        self._moments += np.stack([np.full(len(self.low), len(rows)), taken.sum(0), (taken**2).sum(0)])

    @property
    def is_still(self) -> NDArray[np.bool_]:
        """Which numbers of an action `[A]` never change."""
        return self.low == self.high

    @property
    def only_two(self) -> NDArray[np.bool_]:
        """Which numbers of an action `[A]` take exactly two values."""
        return (self.low < self.high) & ~self._others

    @property
    def is_enough(self) -> bool:
        """Whether there are enough actions to draw conclusions."""
        return self.num_actions >= FEW

    def distances(self) -> NDArray[np.float64] | None:
        """Mean distances `[2, A, P]` of actions to the readings one step later, and to those at which they were taken.

        The unit is the standard deviation of the action. None if there is too little to compare.
        """
        count, total, squares = self._moments
        if self._sums is None or count[0] < FEW:
            return None
        std = np.sqrt(np.maximum(squares / count - (total / count) ** 2, 0.0))
        with np.errstate(divide="ignore", invalid="ignore"):
            found = self._sums / count[0] / std[:, None]
        return np.where(std[:, None] > 1e-9 * (1 + np.abs(total / count)[:, None]), found, np.inf)


def survey(
    source: Source, choice: Choice, episodes: Sequence[tuple[int, int]], progress: Callable[[int, int], None]
) -> Survey:
    """Read all actions, and the proprioception of some episodes. Raises FormatError for damaged data."""
    found: Survey | None = None
    compared = {int(i) for i in np.linspace(0, len(episodes) - 1, min(len(episodes), _MOST_EPISODES))}
    for done, (number, rows) in enumerate(episodes):
        action = single(numbers(source, number, "action", choice.action, rows - 1)).astype(np.float64)
        if not np.isfinite(action).all():
            raise FormatError(f"action of episode {number} of {source.path} is too large for float32")
        proprio = numbers(source, number, "proprio", choice.proprio, rows) if done in compared else None
        found = Survey(action.shape[1]) if found is None else found
        found.add(action, proprio)
        progress(done + 1, len(episodes))
    assert found is not None
    return found

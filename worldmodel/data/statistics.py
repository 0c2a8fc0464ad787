"""Mean and standard deviation of a store's actions and proprioception, to normalise a network's inputs."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
from numpy.typing import NDArray

from worldmodel.core.errors import UserError
from worldmodel.data.store.reader import TrajectoryStore

# A dimension that never changes must not be amplified, so its standard deviation counts as at least this, in its unit.
STD_FLOOR = 1e-4


@dataclasses.dataclass(frozen=True)
class DatasetStatistics:
    """Per-dimension statistics; `normalised = (value - mean) / std`.

    Attributes:
        action_mean: `[A]`, in physical units.
        action_std: `[A]`, in physical units.
        proprio_mean: `[P]`.
        proprio_std: `[P]`.
    """

    action_mean: tuple[float, ...]
    action_std: tuple[float, ...]
    proprio_mean: tuple[float, ...]
    proprio_std: tuple[float, ...]


class Moments:
    """Running sums in float64, shifted by the first row. A small spread beside a large mean thus stays precise."""

    def __init__(self, size: int) -> None:
        self._shift = np.zeros(size)
        self._count = 0
        self._sum, self._sum_of_squares = np.zeros(size), np.zeros(size)

    def add(self, rows: NDArray[Any]) -> None:
        """Add `rows [n, size]`."""
        values = rows.astype(np.float64)
        if self._count == 0 and len(values):
            self._shift = values[0].copy()
        values -= self._shift
        self._count += len(values)
        self._sum += values.sum(0)
        self._sum_of_squares += (values**2).sum(0)

    def mean_and_std(self, floor: float = STD_FLOOR) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Mean and population standard deviation (at least `floor`), `[size]` each; NaN if there are no rows."""
        if not self._count:
            nothing = (float("nan"),) * len(self._shift)
            return nothing, nothing
        mean = self._sum / self._count
        variance = np.maximum(self._sum_of_squares / self._count - mean**2, 0.0)
        std = np.maximum(np.sqrt(variance), floor)
        return tuple((mean + self._shift).tolist()), tuple(std.tolist())


def compute_statistics(store: TrajectoryStore, episodes: NDArray[np.int64]) -> DatasetStatistics:
    """Statistics over `episodes`, which should be the training episodes.

    The zero action in each episode's last row was never taken and does not count.

    Args:
        store: the recording.
        episodes: episode numbers, int64 `[n]`.

    Raises:
        UserError: when `episodes` is empty.
        StoreError: when the store is damaged.
    """
    if len(episodes) == 0:
        raise UserError("no episode to compute statistics over: record some with `python -m envs.collect`")
    action, proprio = Moments(store.spec.action.size), Moments(store.spec.proprio_size)
    all_actions = store.column("action")
    all_proprio = store.column("proprio")
    for index in episodes:
        rows = store.episode_rows(int(index))
        action.add(all_actions[rows.start : rows.stop - 1])
        proprio.add(all_proprio[rows])
    action_mean, action_std = action.mean_and_std()
    proprio_mean, proprio_std = proprio.mean_and_std()
    return DatasetStatistics(
        action_mean=action_mean,
        action_std=action_std,
        proprio_mean=proprio_mean,
        proprio_std=proprio_std,
    )

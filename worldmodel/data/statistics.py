"""Mean and standard deviation of what a store holds, for normalising a network's inputs."""

from __future__ import annotations

import dataclasses
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from configs.command import UserError
from worldmodel.data.store import TrajectoryStore

# A dimension that never changes must not be blown up: its standard deviation counts as at least this, in its own unit.
STD_FLOOR = 1e-4
_FRAME_STRIDE = 8  # neighbouring frames are nearly equal, so every eighth says as much


@dataclasses.dataclass(frozen=True)
class DatasetStatistics:
    """Per-dimension statistics; `normalised = (value - mean) / std`.

    Attributes:
        action_mean: `[A]`, in physical units.
        action_std: `[A]`, likewise.
        proprio_mean: `[P]`.
        proprio_std: `[P]`.
        pixel_mean: `[3]`, of red, green, blue in [0, 1].
        pixel_std: `[3]`, likewise.
    """

    action_mean: tuple[float, ...]
    action_std: tuple[float, ...]
    proprio_mean: tuple[float, ...]
    proprio_std: tuple[float, ...]
    pixel_mean: tuple[float, ...]
    pixel_std: tuple[float, ...]

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Self:
        """Inverse of `to_dict`. Raises UserError for unknown or missing keys."""
        names = {field.name for field in dataclasses.fields(cls)}
        if set(values) != names:
            raise UserError(f"dataset statistics have keys {sorted(values)}, expected {sorted(names)}")
        return cls(**{name: tuple(float(v) for v in value) for name, value in values.items()})

    def to_dict(self) -> dict[str, list[float]]:
        """Plain JSON values."""
        return {name: list(value) for name, value in dataclasses.asdict(self).items()}


class _Moments:
    """Running sums in float64, shifted by the first row so that a large mean does not eat a small spread."""

    def __init__(self, size: int) -> None:
        self._shift = np.zeros(size)
        self._count = 0
        self._sum, self._sum_of_squares = np.zeros(size), np.zeros(size)

    def add(self, rows: NDArray[Any]) -> None:
        """Take in `rows [n, size]`."""
        values = rows.astype(np.float64)
        if self._count == 0 and len(values):
            self._shift = values[0].copy()
        values -= self._shift
        self._count += len(values)
        self._sum += values.sum(0)
        self._sum_of_squares += (values**2).sum(0)

    def mean_and_std(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Mean and floored population standard deviation, `[size]` each."""
        mean = self._sum / self._count
        variance = np.maximum(self._sum_of_squares / self._count - mean**2, 0.0)
        std = np.maximum(np.sqrt(variance), STD_FLOOR)
        return tuple((mean + self._shift).tolist()), tuple(std.tolist())


def compute_statistics(
    store: TrajectoryStore, episodes: NDArray[np.int64], frames: NDArray[np.uint8] | None = None
) -> DatasetStatistics:
    """Statistics over `episodes`, which should be those that are trained on.

    The zero in each episode's last action row was never taken and does not count. Pixels are counted in every eighth
    frame of an episode.

    Args:
        store: the recording.
        episodes: episode numbers, int64 `[n]`.
        frames: uint8 `[N, H, W, 3]`, where all frames are already decoded (`load_frames`).

    Raises:
        UserError: when `episodes` is empty.
        StoreError: when a chunk of the store is missing or damaged.
    """
    if len(episodes) == 0:
        raise UserError("no episode to compute statistics over: record some with `python -m envs.collect`")
    action, proprio, pixel = _Moments(len(store.spec.action_low)), _Moments(store.spec.proprio_size), _Moments(3)
    all_actions = store.read("action", 0, store.num_rows)
    all_proprio = store.read("proprio", 0, store.num_rows)
    for index in episodes:
        rows = store.episode_rows(int(index))
        action.add(all_actions[rows.start : rows.stop - 1])
        proprio.add(all_proprio[rows])
        pixels = store.read("pixels", rows.start, rows.stop) if frames is None else frames[rows]
        pixel.add(pixels[::_FRAME_STRIDE].reshape(-1, 3))
    action_mean, action_std = action.mean_and_std()
    proprio_mean, proprio_std = proprio.mean_and_std()
    pixel_mean, pixel_std = pixel.mean_and_std()
    return DatasetStatistics(
        action_mean=action_mean,
        action_std=action_std,
        proprio_mean=proprio_mean,
        proprio_std=proprio_std,
        pixel_mean=tuple(v / 255 for v in pixel_mean),
        pixel_std=tuple(v / 255 for v in pixel_std),
    )

"""Summaries of a store: statistics, oddities, and a contact sheet of images."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from worldmodel.data.statistics import Moments
from worldmodel.data.store.reader import TrajectoryStore

_BLOCK_ROWS = 65_536
_LOOKED_AT = 16  # episodes that are checked for motion
_SAME_RATE = 0.01  # rates that differ by no more count as equal, since 29.97 is often called 30
_SHEET_TILE = 96  # pixels
_SHEET_GAP = 2


@dataclasses.dataclass(frozen=True)
class Dimension:
    """Statistics of one dimension of a column over the whole store, in the dimension's unit.

    Attributes:
        column: action or proprio.
        index: index of the dimension.
        name: its name in the recording, or `action_0`.
        unit: for example `m/s`; empty if the recording gives none.
        low: smallest value.
        high: largest value.
        mean: mean over all rows, without the zero action of an episode's last row, which was never taken.
        std: standard deviation over the same rows.
    """

    column: str
    index: int
    name: str
    unit: str
    low: float
    high: float
    mean: float
    std: float


def dimensions(store: TrajectoryStore) -> list[Dimension]:
    """Statistics of actions and proprioception. Raises StoreError when the store is damaged."""
    found = []
    taken = np.ones(store.num_rows, bool)
    taken[store.episode_ends - 1] = False
    units = {"action": store.spec.action.units, "proprio": ("",) * store.spec.proprio_size}
    names = {"action": store.spec.action.names, "proprio": tuple(map(str, range(store.spec.proprio_size)))}
    for column, kept in (("action", taken), ("proprio", np.ones(store.num_rows, bool))):
        size = len(units[column])
        moments, low, high = Moments(size), np.full(size, np.inf), np.full(size, -np.inf)
        values = store.column(column)
        for start in range(0, store.num_rows, _BLOCK_ROWS):
            stop = min(start + _BLOCK_ROWS, store.num_rows)
            rows = values[start:stop][kept[start:stop]]
            moments.add(rows)
            low, high = np.minimum(low, rows.min(0, initial=np.inf)), np.maximum(high, rows.max(0, initial=-np.inf))
        mean, std = moments.mean_and_std(floor=0.0)
        found += [
            Dimension(column, i, names[column][i], units[column][i], float(low[i]), float(high[i]), mean[i], std[i])
            for i in range(size)
        ]
    return found


def oddities(store: TrajectoryStore, found: Sequence[Dimension]) -> list[str]:
    """Properties that a recording should not have, one sentence each. `found` are its `dimensions`.

    Raises:
        StoreError: when a chunk is missing or damaged.
    """
    told = []
    low, high = store.spec.action.bounds
    ulp = np.float32(np.inf)
    for d in found:
        if d.column != "action":
            continue
        if d.low == d.high:
            told.append(f"action {d.name} never changes: it is {d.low:.6g} in all rows")
        if d.low < np.nextafter(low[d.index], -ulp) or d.high > np.nextafter(high[d.index], ulp):
            told.append(
                f"action {d.name} goes from {d.low:.6g} to {d.high:.6g}, outside its bounds "
                f"{low[d.index]:.6g} to {high[d.index]:.6g}"
            )
    told += [f"pictures of {camera} never change within an episode" for camera in _still_cameras(store)]
    said, rate = store.recording.get("source_rate_hz"), 1 / store.spec.control_step_s
    if isinstance(said, int | float) and abs(rate - said) > _SAME_RATE * said:
        told.append(f"the recording has {rate:.6g} steps per second, its source said {said:.6g}")
    return told


def _still_cameras(store: TrajectoryStore) -> list[str]:
    """Cameras whose images never change within an episode, in the episodes that are checked."""
    still = list(store.spec.camera_names)
    for index in np.unique(np.linspace(0, store.num_episodes - 1, min(_LOOKED_AT, store.num_episodes)).astype(int)):
        if not still:
            break
        images = store.episode(int(index)).images
        still = [camera for camera in still if (images[camera] == images[camera][:1]).all()]
    return still


def bytes_on_disk(path: Path) -> int:
    """Size of all files of a store."""
    return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())


def contact_sheet(store: TrajectoryStore, episodes: int = 8, moments: int = 8) -> NDArray[np.uint8]:
    """Images of up to `episodes` episodes, one episode per row, at up to `moments` times from beginning to end.

    The images are from the first camera. Episodes are spread evenly over the store. uint8 `[height, width, 3]`.

    Raises:
        StoreError: when one of these episodes is damaged.
    """
    chosen = np.unique(np.linspace(0, store.num_episodes - 1, min(episodes, store.num_episodes)).round().astype(int))
    pitch = _SHEET_TILE + _SHEET_GAP
    sheet = np.full((len(chosen) * pitch + _SHEET_GAP, moments * pitch + _SHEET_GAP, 3), 255, np.uint8)
    for row, episode in enumerate(chosen):
        frames = store.episode(int(episode)).images[store.spec.camera_names[0]]
        for column, frame in enumerate(np.linspace(0, len(frames) - 1, moments).round().astype(int)):
            picture = Image.fromarray(frames[frame])
            tile = np.asarray(picture.resize((_SHEET_TILE, _SHEET_TILE), Image.Resampling.LANCZOS))
            top, left = _SHEET_GAP + row * pitch, _SHEET_GAP + column * pitch
            sheet[top : top + _SHEET_TILE, left : left + _SHEET_TILE] = tile
    return sheet

"""Opens recordings for the training commands.

Shapes: `R` rows of the recording, `H, W` height and width of a camera's images.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from worldmodel.core.errors import UserError
from worldmodel.core.progress import Counting
from worldmodel.core.ranks import in_turn
from worldmodel.data.frames import load_camera_frames
from worldmodel.data.store.reader import TrajectoryStore


def open_recording(path: str, env: Mapping[str, Any]) -> TrajectoryStore:
    """The recording at `path`, for the environment that the options `env` describe.

    Raises:
        UserError: when it is of another environment. A model trained on it could not act in the given environment, and
            would be stored under a wrong name.
        StoreError: when it cannot be read.
    """
    store, name = TrajectoryStore.open(path), env.get("name")
    if env.get("simulated", True) and store.spec.env != name:
        raise UserError(
            f"{store.name} is a recording of env {store.spec.env!r}, not of env {name!r}: give the env that it was "
            "made with, or env=robot env.name=NAME for one that nothing here simulates"
        )
    return store


def load_cameras(store: TrajectoryStore, cache: Path, counting: Counting) -> dict[str, NDArray[np.uint8]]:
    """All frames by camera, uint8 `[R, H, W, 3]`. Missing caches are made first, while `counting` shows progress.

    One rank of every machine makes them, or the first rank alone if it shares its files with the others.

    Raises: as `worldmodel.data.frames.load_frames`.
    """

    def load() -> dict[str, NDArray[np.uint8]]:
        with counting("decode frames") as progress:
            return load_camera_frames(store, cache, progress)

    return in_turn(load)

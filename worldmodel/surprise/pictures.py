"""Example pairs for people: an MP4, and a PNG with the frames of both clips one above the other.

Shapes: `T` frames, `H, W` image height and width.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from worldmodel.core.files import replacing
from worldmodel.core.spec import CameraSpec
from worldmodel.data.store.reader import Episode, TrajectoryStore
from worldmodel.data.viewing import enlarged, enlargement, write_video
from worldmodel.surprise.labels import PairLabel

_COLUMNS: Final = 12  # frames in a row of the PNG
_MARK: Final = (220, 40, 40)  # of frames of the impossible clip from the break on
_BORDER: Final = 2  # pixels


def write_example(store: TrajectoryStore, label: PairLabel, folder: Path) -> None:
    """Write `<property>_<variant>_<episode>.mp4` and `.png`, possible beside or above impossible, of the first camera.

    In the PNG, a red frame marks images of the impossible clip from the break on.
    """
    name = f"{label.property}_{label.variant}_{label.possible:04d}"
    camera = store.spec.cameras[0]
    possible, impossible = (store.episode(number) for number in (label.possible, label.impossible))
    both = {"possible": possible.images[camera.name], "impossible": impossible.images[camera.name]}
    spec = dataclasses.replace(
        store.spec, cameras=tuple(CameraSpec(title, camera.height, camera.width) for title in both)
    )
    write_video(dataclasses.replace(possible, images=both), spec, folder / f"{name}.mp4")
    with replacing(folder / f"{name}.png") as file:
        Image.fromarray(contact_sheet(possible, impossible, camera.name, label.break_row)).save(file, format="PNG")


def contact_sheet(possible: Episode, impossible: Episode, camera: str, break_row: int) -> NDArray[np.uint8]:
    """Some frames of both clips, `[2 H', columns W', 3]`, the possible clip above."""
    length = len(possible.action)
    shown = np.unique(np.linspace(0, length - 1, min(_COLUMNS, length)).round().astype(int))
    rows = []
    for clip, is_marked in ((possible, False), (impossible, True)):
        frames = []
        for row in shown:
            frame = clip.images[camera][row]
            large = enlarged(frame, max(1, enlargement(*frame.shape[:2]) // 2)).copy()
            _frame(large, _MARK if is_marked and row >= break_row else (255, 255, 255))
            frames.append(large)
        rows.append(np.concatenate(frames, axis=1))
    return np.concatenate(rows)


def _frame(image: NDArray[np.uint8], colour: tuple[int, int, int]) -> None:
    """Draw a border into `image [H, W, 3]`."""
    for edge in (slice(None, _BORDER), slice(-_BORDER, None)):
        image[edge] = colour
        image[:, edge] = colour

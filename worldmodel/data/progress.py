"""Progress bars around what takes long in this package."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from configs.command import console
from worldmodel.data.frames import load_frames
from worldmodel.data.store import TrajectoryStore


@contextmanager
def counting(title: str) -> Iterator[Callable[[int, int], None]]:
    """A bar; the function it gives is called with (done, in all)."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        bar = progress.add_task(title, total=None)
        yield lambda done, total: progress.update(bar, completed=done, total=total)


def load_frames_with_progress(store: TrajectoryStore, cache_path: Path) -> NDArray[np.uint8]:
    """`load_frames` with a bar."""
    with counting("decode frames") as progress:
        return load_frames(store, cache_path, progress)

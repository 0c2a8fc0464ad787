"""Clips that other processes read ahead of the training."""

from __future__ import annotations

import dataclasses
import logging
import threading
import time
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Final, Protocol

import numpy as np
from numpy.typing import NDArray

from worldmodel.core.errors import RunStopped
from worldmodel.data.store.files import StoreError
from worldmodel.data.videos.draws import Request
from worldmodel.data.videos.workers import WorkerFailed, Workers

_log = logging.getLogger(__name__)
# Draws for one clip. Files that cannot be opened are left out before, so even the second draw is rare.
_MOST_DRAWS: Final = 1000


class Draws(Protocol):
    """The clips of every step, as requests to workers."""

    @property
    def share(self) -> int:
        """Clips per step of this rank, B."""

    def shape_of(self, step: int) -> tuple[int, int, int]:
        """Shape of the clips of a step, `(T, H, W)`."""

    def requests(self, step: int, clip: int) -> Iterator[Request]:
        """Requests for clip `clip` of a step. Each takes the place of the previous one, which could not be read."""


@dataclasses.dataclass(frozen=True)
class VideoConfig:
    """Options for clips that are not read from a cache of decoded frames.

    Attributes:
        size: height and width of the clips [pixels], as one number or two. Those of a single store keep their size.
        short: what becomes of a video that is shorter than a clip: `repeat` its last frame, or `skip` it.
        root: folder that the paths of a list are relative to; None for the folder of the list.
        workers: number of processes that decode.
        ahead: batches that are decoded ahead of the training.
        patience_s: time that the decoding of one clip may take [s].
    """

    size: int | tuple[int, ...] = 64
    short: str = "repeat"
    root: str | None = None
    workers: int = 2
    ahead: int = 2
    patience_s: float = 60.0

    def __post_init__(self) -> None:
        sizes = self.height_and_width
        if len(sizes) != 2 or not all(1 <= size <= 2048 for size in sizes):
            raise ValueError(f"size {self.size}: expected one or two whole numbers from 1 to 2048")
        if self.short not in ("repeat", "skip"):
            raise ValueError(f"short '{self.short}' is unknown: choose from repeat, skip")
        if not 1 <= self.workers <= 256 or not 1 <= self.ahead <= 64:
            raise ValueError(f"workers {self.workers} and ahead {self.ahead}: expected 1 to 256 and 1 to 64")
        if not 0 < self.patience_s <= 86_400:
            raise ValueError(f"patience_s {self.patience_s}: expected seconds, above 0")

    @property
    def height_and_width(self) -> tuple[int, ...]:
        """Height and width of the clips [pixels]."""
        return (self.size, self.size) if isinstance(self.size, int) else self.size


@dataclasses.dataclass(frozen=True)
class _Batch:
    """A batch on its way: the array, and what becomes of each of its clips."""

    clips: NDArray[np.uint8]
    filled: tuple[Future[None], ...]


class WorkerClips:
    """A clip source whose clips are decoded in other processes, ahead of the training.

    At most `ahead + 1` batches are in memory. A clip that cannot be read gives its place to the next draw, and its file
    is counted. The batch of a step does not depend on the steps before it.

    Args:
        draws: the clips of every step.
        workers: the processes.
        ahead: number of steps after the present one whose clips are decoded meanwhile.
        steps: number of steps of the training. Later steps are not decoded ahead.
    """

    def __init__(self, draws: Draws, workers: Workers, ahead: int, steps: int) -> None:
        self._draws, self._workers, self._ahead, self._steps = draws, workers, ahead, steps
        self._threads = ThreadPoolExecutor(workers.count)
        self._batches: dict[int, _Batch] = {}
        self._lock = threading.Lock()
        self._refused: dict[str, str] = {}
        self._waited_s, self._since = 0.0, time.monotonic()

    def __call__(self, step: int) -> NDArray[np.uint8]:
        """The clips of `step`, uint8 `[B, T, H, W, 3]`.

        Raises:
            RunStopped: when a clip cannot be read, and neither can any that would take its place.
            StoreError: when a store is damaged.
        """
        wanted = range(step, max(step + 1, min(step + self._ahead + 1, self._steps)))
        for number in [n for n in self._batches if n not in wanted]:
            for future in self._batches.pop(number).filled:
                future.cancel()
        for number in wanted:
            if number not in self._batches:
                self._batches[number] = self._begin(number)
        batch, began = self._batches.pop(step), time.monotonic()
        try:
            for future in batch.filled:
                future.result()
        except BaseException:
            self.close()
            raise
        self._waited_s += time.monotonic() - began
        return batch.clips

    def figures(self) -> dict[str, float]:
        """Figures for a log: files that could not be read so far, and the share of time spent waiting since then."""
        now = time.monotonic()
        share = self._waited_s / max(now - self._since, 1e-9)
        self._waited_s, self._since = 0.0, now
        return {"clips_waited": share, "files_skipped": float(len(self._refused))}

    def describe_refused(self) -> str:
        """One line on the files that could not be read during the training; empty if there are none."""
        if not self._refused:
            return ""
        return f"{len(self._refused):,} files could not be read at some place: {next(iter(self._refused.values()))}"

    def close(self) -> None:
        """End all threads, and the processes."""
        self._workers.close()
        self.finish()

    def finish(self) -> None:
        """End all threads, and leave the processes to others. Clips that were decoded ahead are lost."""
        self._threads.shutdown(cancel_futures=True)
        self._batches.clear()

    def _begin(self, step: int) -> _Batch:
        clips = np.empty((self._draws.share, *self._draws.shape_of(step), 3), np.uint8)
        filled = tuple(self._threads.submit(self._fill, step, b, clips[b]) for b in range(len(clips)))
        return _Batch(clips, filled)

    def _fill(self, step: int, number: int, clip: NDArray[np.uint8]) -> None:
        """Read clip `number` of a step into `clip [T, H, W, 3]`."""
        last: deque[str] = deque(maxlen=1)
        for request, _ in zip(self._draws.requests(step, number), range(_MOST_DRAWS), strict=False):
            with self._workers.one() as worker:
                try:
                    answer = worker.ask(request, clip)
                except WorkerFailed as error:
                    raise RunStopped(f"{request['path']} {error}: remove it, or raise videos.patience_s") from error
            if "error" in answer:
                raise StoreError(answer["error"])
            if "refused" not in answer:
                return
            last.append(answer["refused"])
            self._note(request["path"], answer["refused"])
        raise RunStopped(f"{_MOST_DRAWS} clips in a row cannot be read, the last because {last[0]}")

    def _note(self, path: str, reason: str) -> None:
        with self._lock:
            if path in self._refused:
                return
            self._refused[path] = reason
        _log.debug("skipped: %s", reason)

"""Reads videos and recordings from their beginning to their end, in pieces of a few frames, in other processes.

An item is a video, or an episode of a trajectory store as one camera saw it. Its frames are those that are sampled from
it, numbered from 0 on. A piece is some frames in a row. Pieces are read ahead, a few batches of them at a time, so that
memory does not grow with the data.

Shapes: `V` items, `n` frames of a piece, `H, W` height and width of a frame.
"""

from __future__ import annotations

import abc
import dataclasses
from collections import deque
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from worldmodel.core.errors import RunStopped, UserError
from worldmodel.core.options import height_and_width
from worldmodel.data.store.files import StoreError
from worldmodel.data.store.layout import image_column
from worldmodel.data.store.reader import TrajectoryStore
from worldmodel.data.videos.catalogue import Catalogue
from worldmodel.data.videos.draws import Request, request_rows
from worldmodel.data.videos.workers import WorkerFailed, Workers


@dataclasses.dataclass(frozen=True)
class ReadingConfig:
    """How videos and recordings are read from their beginning to their end.

    Attributes:
        stride: one of so many frames is taken.
        rate_hz: frames taken per second, for videos of every rate, in place of `stride`. None for `stride`.
        size: height and width to which videos are cropped and resized [pixels], as one number or two. None for that
            which the encoder was made for.
        camera: camera of a recording. None if it has only one.
        root: folder that the paths of a list are relative to. None for the folder of the list.
        workers: number of processes that read.
        patience_s: time that the decoding of one piece may take [s].
    """

    stride: int = 1
    rate_hz: float | None = None
    size: int | tuple[int, ...] | None = None
    camera: str | None = None
    root: str | None = None
    workers: int = 2
    patience_s: float = 60.0

    def __post_init__(self) -> None:
        if self.stride < 1:
            raise ValueError(f"stride {self.stride}: expected a whole number of at least 1")
        if self.rate_hz is not None and (not 0 < self.rate_hz <= 1000 or self.stride > 1):
            raise ValueError(f"rate_hz {self.rate_hz} with stride {self.stride}: expected 0 to 1000, and stride 1")
        height_and_width(self.size)
        if not 1 <= self.workers <= 256 or not 0 < self.patience_s <= 86_400:
            raise ValueError(f"workers {self.workers} and patience_s {self.patience_s}: expected 1 to 256, and seconds")

    @property
    def height_and_width(self) -> tuple[int, int] | None:
        """Height and width of the frames of videos [pixels]."""
        return height_and_width(self.size)


class Items(abc.ABC):
    """What is read.

    Attributes:
        frames: int64 `[V]`, number of frames that are sampled from every item.
        size: height and width of every frame [pixels].
        identity: hash of the content.
    """

    frames: NDArray[np.int64]
    size: tuple[int, int]
    identity: str

    @abc.abstractmethod
    def name(self, item: int) -> str:
        """What an item is called: the path of a video, or the number of an episode."""

    @abc.abstractmethod
    def request(self, item: int, numbers: NDArray[np.int64]) -> Request:
        """The request to a worker for the frames `numbers [n]` of an item."""

    @abc.abstractmethod
    def places(self, item: int, numbers: NDArray[np.int64]) -> dict[str, NDArray[np.generic]]:
        """Where the frames `numbers [n]` lie, as columns `[n]`: at least `time_s` from the beginning of the item."""


class VideoItems(Items):
    """Whole videos, each cropped in the middle and resized.

    Args:
        catalogue: the videos.
        size: height and width of the frames [pixels].
        stride: one of so many frames is taken, at the average rate of the video.
        rate_hz: frames taken per second, in place of `stride`.
    """

    def __init__(self, catalogue: Catalogue, size: tuple[int, int], stride: int, rate_hz: float | None) -> None:
        self._catalogue, self.size, self.identity = catalogue, size, catalogue.identity
        rates = catalogue.rates_hz
        self._periods_s = stride / rates if rate_hz is None else np.full(len(rates), 1 / rate_hz)
        # A last frame that is just reached must not be lost to rounding.
        within = (catalogue.durations_s - 1 / rates) / self._periods_s + 1e-6
        self.frames = 1 + np.maximum(0, np.floor(within)).astype(np.int64)

    def name(self, item: int) -> str:
        return str(self._catalogue.path(item))

    def request(self, item: int, numbers: NDArray[np.int64]) -> Request:
        half = 0.5 / self._catalogue.rates_hz[item]
        # In the middle of a frame, no rounding of time stamps shows its neighbour.
        times = np.minimum(self._times_s(item, numbers) + half, self._catalogue.durations_s[item] - half)
        asked = {"do": "clip", "path": self.name(item), "times": [round(time, 6) for time in times.tolist()]}
        return {**asked, "size": self.size, "augmentation": None, "seed": 0}

    def places(self, item: int, numbers: NDArray[np.int64]) -> dict[str, NDArray[np.generic]]:
        return {"time_s": self._times_s(item, numbers)}

    def _times_s(self, item: int, numbers: NDArray[np.int64]) -> NDArray[np.float64]:
        return np.asarray(numbers * self._periods_s[item], np.float64)


class EpisodeItems(Items):
    """The episodes of a trajectory store, as one camera saw them.

    Args:
        store: the recording.
        camera: name of the camera.
        stride: one of so many frames is taken.
    """

    def __init__(self, store: TrajectoryStore, camera: str, stride: int) -> None:
        if not store.num_episodes:
            raise UserError(f"{store.name} holds no episode yet: record some with `python -m envs.collect`")
        self._store, self._camera, self._stride = store, camera, stride
        self.identity = f"{store.identity} {image_column(camera)}"
        self.size = store.spec.camera(camera).height, store.spec.camera(camera).width
        lengths = np.diff(store.episode_ends, prepend=0)
        self.frames = np.asarray(-(-lengths // stride), np.int64)

    def name(self, item: int) -> str:
        return f"episode {item}"

    def request(self, item: int, numbers: NDArray[np.int64]) -> Request:
        return request_rows(self._store, self._camera, item, self._rows(item, numbers))

    def places(self, item: int, numbers: NDArray[np.int64]) -> dict[str, NDArray[np.generic]]:
        times_s = numbers * self._stride * self._store.spec.control_step_s
        return {"time_s": np.asarray(times_s, np.float64), "row": self._rows(item, numbers)}

    def _rows(self, item: int, numbers: NDArray[np.int64]) -> NDArray[np.int64]:
        return np.asarray(self._store.episode_rows(item).start + numbers * self._stride, np.int64)


@dataclasses.dataclass(frozen=True)
class Piece:
    """Frames in a row of one item.

    Attributes:
        item: number of the item.
        numbers: numbers of the frames, int64 `[n]`.
        frames: the frames, uint8 `[n, H, W, 3]`.
        refused: why they cannot be read; empty if they can. Their content then means nothing.
    """

    item: int
    numbers: NDArray[np.int64]
    frames: NDArray[np.uint8]
    refused: str = ""


class Pieces:
    """All items in their order, cut into pieces, in batches that depend on nothing but the arguments.

    Args:
        items: what is read.
        length: frames of a piece. The last one of an item may be shorter.
        together: pieces of a batch.
        workers: the processes that read.
        ahead: batches that are read ahead.
    """

    def __init__(self, items: Items, length: int, together: int, workers: Workers, ahead: int = 2) -> None:
        self._items, self._length, self._together, self._workers = items, length, together, workers
        self._ahead = ahead
        self._cumulative = np.cumsum(-(-items.frames // length))

    def __len__(self) -> int:
        """Number of batches."""
        return int(-(-self._cumulative[-1] // self._together))

    def batches(self, first: int, left_out: Mapping[int, str]) -> Iterator[list[Piece]]:
        """The batches from number `first` on. Items in `left_out`, which may grow, are not read.

        Raises:
            RunStopped: when a file ends or stalls the processes that read it.
            StoreError: when a recording is damaged.
        """
        threads = ThreadPoolExecutor(self._workers.count)
        waiting: deque[list[Future[Piece]]] = deque()
        numbers = iter(range(first, len(self)))
        try:
            while True:
                for number in islice(numbers, self._ahead + 1 - len(waiting)):
                    waiting.append([threads.submit(self._read, piece, left_out) for piece in self._of_batch(number)])
                if not waiting:
                    return
                yield [future.result() for future in waiting.popleft()]
        except BaseException:
            self._workers.close()  # threads would wait for the processes
            raise
        finally:
            threads.shutdown(cancel_futures=True)

    def _of_batch(self, number: int) -> range:
        return range(number * self._together, min((number + 1) * self._together, int(self._cumulative[-1])))

    def _read(self, number: int, left_out: Mapping[int, str]) -> Piece:
        item = int(np.searchsorted(self._cumulative, number, side="right"))
        begins = int(self._cumulative[item - 1]) if item else 0
        first = (number - begins) * self._length
        numbers = np.arange(first, min(first + self._length, int(self._items.frames[item])), dtype=np.int64)
        frames = np.empty((len(numbers), *self._items.size, 3), np.uint8)
        name = self._items.name(item)
        if item in left_out:
            return Piece(item, numbers, frames, left_out[item])
        with self._workers.one() as worker:
            try:
                answer = worker.ask(self._items.request(item, numbers), frames)
            except WorkerFailed as error:
                raise RunStopped(f"{name} {error}: remove it, or raise videos.patience_s") from error
        if "error" in answer:
            raise StoreError(answer["error"])
        return Piece(item, numbers, frames, str(answer.get("refused", "")))

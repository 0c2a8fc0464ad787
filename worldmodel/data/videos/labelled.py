"""Videos with classes, in splits to train on, to choose by and to report on.

A class is the folder that a video is in (the layout of Kinetics), or the label in a list. A clip of a video always has
the same frames, in the middle of the video or of each of its equal parts, and nothing about it is random.

Shapes: `V` videos, `S` parts of a video, `T` frames of a part, `H, W` height and width of a frame.
"""

from __future__ import annotations

import csv
import dataclasses
import os
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from worldmodel.core.errors import RunStopped, UserError
from worldmodel.data.videos.catalogue import Catalogue
from worldmodel.data.videos.listing import find_listed, is_list
from worldmodel.data.videos.workers import WorkerFailed, Workers

Rows = NDArray[np.int64]

TRAIN, VAL, TEST = "train", "val", "test"
# What the folders of the splits are called.
_NAMES: Final = {TRAIN: ("train",), VAL: ("val", "valid", "validation"), TEST: ("test",)}
POINTS: Final = "points.csv"
_COLUMNS: Final = ["path", "frame", "x", "y", "visible"]


@dataclasses.dataclass(frozen=True)
class LabelledConfig:
    """Which frames of a video are shown, and how.

    Attributes:
        frames: frames of a clip, or of each of its parts, T.
        stride: frames of the video from one to the next.
        stride_s: seconds from one to the next, in place of `stride`; None for that.
        segments: equal parts of a video, each of which shows a clip, S.
        size: height and width of the clips [pixels]. The middle of the video is shown.
        root: folder that the paths of a list are relative to; None for the folder of the list.
        workers: number of processes that decode.
        patience_s: time that the decoding of one clip may take [s].
    """

    frames: int = 16
    stride: int = 4
    stride_s: float | None = None
    segments: int = 1
    size: int = 64
    root: str | None = None
    workers: int = 2
    patience_s: float = 60.0

    def __post_init__(self) -> None:
        for name, most in (("frames", 4096), ("stride", 10**6), ("segments", 256), ("size", 2048), ("workers", 256)):
            if not 1 <= getattr(self, name) <= most:
                raise ValueError(f"{name} {getattr(self, name)}: expected a whole number from 1 to {most}")
        if self.stride_s is not None and not 0 < self.stride_s <= 86_400:
            raise ValueError(f"stride_s {self.stride_s}: expected seconds, above 0")
        if not 0 < self.patience_s <= 86_400:
            raise ValueError(f"patience_s {self.patience_s}: expected seconds, above 0")

    def times(self, duration_s: float, rate_hz: float) -> NDArray[np.float64]:
        """When the frames of a clip are on show in a video [s], `[S, T]`.

        In a part that is shorter than a clip, the clip begins with the part. At the end of the video, the last frame is
        repeated. Times lie in the middle of frames, so that no rounding of time stamps shows a neighbour.
        """
        period = self.stride / rate_hz if self.stride_s is None else self.stride_s
        span, part = (self.frames - 1) * period + 1 / rate_hz, duration_s / self.segments
        begins = np.arange(self.segments) * part + max(0.0, part - span) / 2
        # The small number keeps a beginning that is exactly on a frame there.
        first = (np.floor(begins * rate_hz + 1e-6) + 0.5) / rate_hz
        times = first[:, None] + np.arange(self.frames) * period
        return np.minimum(times, duration_s - 0.5 / rate_hz)


def split_places(data: Path, val: Path | None, test: Path | None) -> dict[str, Path | None]:
    """Where the videos of every split are. None for a split that has to be taken from the videos to train on.

    Args:
        data: a list, a folder of classes, or a folder of splits, each of which is a folder of classes.
        val: the videos to choose by, if they are elsewhere.
        test: the videos to report on, if they are elsewhere.
    """
    inside = {
        split: next((data / name for name in names if (data / name).is_dir()), None) for split, names in _NAMES.items()
    }
    if inside[TRAIN] is None:
        return {TRAIN: data, VAL: val, TEST: test}
    return {TRAIN: inside[TRAIN], VAL: val or inside[VAL], TEST: test or inside[TEST]}


def labels_of(place: Path, root: Path | None, catalogue: Catalogue) -> list[str]:
    """The class of every video of `catalogue`, which is that of `place`, `[V]`.

    Raises:
        UserError: for a video without a class.
    """
    given: dict[str, str | None] = {}
    if is_list(place):
        given = {os.path.abspath(video.path): video.label for video in find_listed(place, root)}
    labels = []
    for number in range(len(catalogue)):
        path = catalogue.path(number)
        if is_list(place):
            label = given.get(os.path.abspath(path))
            expected = "lines such as `path 3` or `path::name`"
        else:
            parts = path.relative_to(place).parts if path.is_relative_to(place) else ()
            label = parts[0] if len(parts) > 1 else None
            expected = "a folder for every class, such as walking/1.mp4"
        if label is None:
            raise UserError(f"{path} has no class in {place}: expected {expected}")
        labels.append(label)
    return labels


def take_part(rows: Rows, labels: NDArray[np.int64], fraction: float, seed: int) -> tuple[Rows, Rows]:
    """Divide `rows [n]` at random into the rest and a part, the same fraction of every class, at least one of each.

    Args:
        rows: numbers of videos.
        labels: the class of each of `rows`.
        fraction: size of the part.
        seed: seed of the choice.

    Raises:
        UserError: for a class of which nothing would be left.
    """
    rng, chosen = np.random.default_rng([seed, 2]), []
    for label in np.unique(labels):
        of_label = rng.permutation(rows[labels == label])
        count = max(1, round(fraction * len(of_label)))
        if count >= len(of_label):
            raise UserError(f"a class has {len(of_label)} videos to train on, too few to hold {fraction:g} of them out")
        chosen.append(of_label[:count])
    part = np.sort(np.concatenate(chosen))
    return np.setdiff1d(rows, part), part


class LabelledClips:
    """The clips of all videos of a catalogue, read when they are asked for: uint8 `[V, S * T, H, W, 3]`.

    Args:
        catalogue: the videos.
        config: which frames are shown.
        workers: the processes that decode.
    """

    def __init__(self, catalogue: Catalogue, config: LabelledConfig, workers: Workers) -> None:
        self._catalogue, self._config, self._workers = catalogue, config, workers

    def __len__(self) -> int:
        return len(self._catalogue)

    def times(self, video: int) -> NDArray[np.float64]:
        """See `LabelledConfig.times`."""
        return self._config.times(self._catalogue.durations_s[video], self._catalogue.rates_hz[video])

    def frame_numbers(self, video: int) -> Rows:
        """Numbers of the frames that a clip shows, counted from 0 at the average rate of the video, `[S * T]`."""
        return np.floor(self.times(video).ravel() * self._catalogue.rates_hz[video]).astype(np.int64)

    def __getitem__(self, rows: Rows) -> NDArray[np.uint8]:
        """The clips of the videos `rows [B]`, uint8 `[B, S * T, H, W, 3]`.

        Raises:
            UserError: for a video that cannot be decoded. One that cannot be opened is not in the catalogue.
            RunStopped: for one that ends or stalls the processes that decode.
        """
        config = self._config
        clips = np.empty((len(rows), config.segments, config.frames, config.size, config.size, 3), np.uint8)
        places = [(b, s) for b in range(len(rows)) for s in range(config.segments)]
        with ThreadPoolExecutor(self._workers.count) as threads:
            try:
                list(threads.map(lambda place: self._read(int(rows[place[0]]), place[1], clips[place]), places))
            except BaseException:
                self._workers.close()  # the other threads would wait for them
                raise
        return clips.reshape(len(rows), -1, *clips.shape[3:])

    def _read(self, video: int, segment: int, into: NDArray[np.uint8]) -> None:
        path, size = self._catalogue.path(video), self._config.size
        times = [round(time, 6) for time in self.times(video)[segment].tolist()]
        request: dict[str, Any] = {"do": "clip", "path": str(path), "times": times}
        request |= {"size": (size, size), "augmentation": None, "seed": 0}
        with self._workers.one() as worker:
            try:
                answer = worker.ask(request, into)
            except WorkerFailed as error:
                raise RunStopped(f"{path} {error}: remove it, or raise labelled.patience_s") from error
        if "refused" in answer:
            raise UserError(f"{answer['refused']}: remove the file")


def read_points(place: Path, catalogue: Catalogue, clips: LabelledClips) -> NDArray[np.float32]:
    """The point of every frame of every clip, `[V, S * T, 3]`, as x, y, and whether it is visible (1 or 0).

    `points.csv` in the folder `place` has the columns path, frame, x, y and visible. Paths are relative to the folder,
    and frames are counted from 0. x and y are fractions of the width and height, from the upper left corner.

    Raises:
        UserError: for a missing or unreadable file, and for a frame without a point.
    """
    file = place / POINTS
    if not file.is_file():
        raise UserError(f"no points at {file}: expected a file with the columns {','.join(_COLUMNS)}")
    known: dict[str, dict[int, tuple[float, float, float]]] = {}
    for path, frame, point in _rows_of(file):
        known.setdefault(path, {})[frame] = point
    found = []
    for video in range(len(clips)):
        name = str(catalogue.path(video).relative_to(place))
        of_video: Mapping[int, tuple[float, float, float]] = known.get(name, {})
        for frame in clips.frame_numbers(video).tolist():
            if frame not in of_video:
                raise UserError(f"{file} has no point for frame {frame} of {name}")
            found.append(of_video[frame])
    return np.array(found, np.float32).reshape(len(clips), -1, 3)


def _rows_of(file: Path) -> Iterator[tuple[str, int, tuple[float, float, float]]]:
    """Path, frame, and x, y and visible of every line."""
    with file.open(encoding="utf-8", newline="") as lines:
        rows = csv.reader(lines)
        if next(rows, None) != _COLUMNS:
            raise UserError(f"{file} does not begin with the line {','.join(_COLUMNS)}")
        for number, row in enumerate(rows, start=2):
            try:
                path, frame, x, y, visible = row
                point = float(x), float(y), float(int(visible) > 0)
                if not np.isfinite(point).all():
                    raise ValueError
                yield path, int(frame), point
            except ValueError as error:
                raise UserError(f"line {number} of {file} is no point: expected {','.join(_COLUMNS)}") from error

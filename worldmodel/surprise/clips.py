"""The clips whose surprise is measured, and the type of what measures it.

Shapes: `B` clips, `T` frames, `H, W` image height and width, `A` action, `P` proprioception, `F` windows of a clip.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from worldmodel.core.errors import UserError
from worldmodel.data.store.reader import TrajectoryStore
from worldmodel.surprise.labels import PairLabel


@dataclasses.dataclass(frozen=True)
class Clips:
    """Clips of the same length.

    Attributes:
        images: by camera, uint8 `[B, T, H, W, 3]`.
        action: float32 `[B, T, A]`; the action in row t leads to row t + 1.
        proprio: float32 `[B, T, P]`.
    """

    images: Mapping[str, NDArray[np.uint8]]
    action: NDArray[np.float32]
    proprio: NDArray[np.float32]

    @property
    def length(self) -> int:
        """Number of frames, T."""
        return self.action.shape[1]


class Measure(Protocol):
    """Measures the surprise of clips."""

    def prepare(self, sample: Iterable[Clips]) -> None:
        """Take what is needed of the clips in general from a sample of them, before the first measurement."""

    def __call__(self, clips: Clips, /) -> dict[str, NDArray[np.float64]]:
        """Errors of every window of every clip `[B, F]`, by what predicted it."""


MODEL, COPY, PIXELS, UNTRAINED = "model", "copy last", "pixels", "untrained"
CONTROLS = (PIXELS, COPY, UNTRAINED)


def batches(store: TrajectoryStore, labels: Iterable[PairLabel], most: int) -> Iterator[list[PairLabel]]:
    """At most `most` pairs at a time, in order, whose clips have the same length.

    Raises:
        UserError: for a pair of clips of different lengths.
    """
    for _, group in itertools.groupby(labels, lambda label: _length(store, label)):
        while batch := list(itertools.islice(group, most)):
            yield batch


def _length(store: TrajectoryStore, label: PairLabel) -> int:
    rows = [store.episode_rows(number) for number in (label.possible, label.impossible)]
    lengths = [of_clip.stop - of_clip.start for of_clip in rows]
    if lengths[0] != lengths[1]:
        raise UserError(
            f"episodes {label.possible} and {label.impossible} of {store.name} have {lengths[0]} and {lengths[1]} "
            "frames: expected as many in both clips of a pair"
        )
    return lengths[0]


def load_pairs(store: TrajectoryStore, labels: Sequence[PairLabel]) -> Clips:
    """The clips of `labels`, which have the same length: possible, impossible, possible, impossible and so on."""
    clips = [store.episode(number) for label in labels for number in (label.possible, label.impossible)]
    return Clips(
        {camera: np.stack([clip.images[camera] for clip in clips]) for camera in store.spec.camera_names},
        np.stack([clip.action for clip in clips]),
        np.stack([clip.proprio for clip in clips]),
    )


def pixel_difference(clips: Clips) -> NDArray[np.float64]:
    """Mean absolute difference of consecutive frames [of 255], `[B, T - 1]`, averaged over cameras."""
    cameras = [np.abs(np.diff(images.astype(np.float32), axis=1)).mean((2, 3, 4)) for images in clips.images.values()]
    return np.mean(cameras, axis=0, dtype=np.float64)

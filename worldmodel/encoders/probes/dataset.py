"""Labelled videos as features of an encoder, in splits.

Shapes: `V` videos of a place, `n` of them in a split.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from contextlib import ExitStack, closing
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from worldmodel.core.errors import UserError
from worldmodel.core.progress import Counting
from worldmodel.data.videos.catalogue import Catalogue, catalogue_file, survey
from worldmodel.data.videos.labelled import (
    TEST,
    TRAIN,
    VAL,
    LabelledClips,
    LabelledConfig,
    Rows,
    labels_of,
    read_points,
    take_part,
)
from worldmodel.data.videos.listing import require_there
from worldmodel.data.videos.workers import Workers, require_av
from worldmodel.encoders.base import Encoder
from worldmodel.encoders.probes.classify import Part, Splits
from worldmodel.encoders.probes.features import ClipShape, encode_labelled


@dataclasses.dataclass(frozen=True)
class _Place:
    """The videos of one folder or list, with the class of each."""

    path: Path
    catalogue: Catalogue
    names: list[str]
    clips: LabelledClips

    @property
    def rows(self) -> Rows:
        return np.arange(len(self.catalogue), dtype=np.int64)


class LabelledData:
    """Videos with classes. It ends its processes at the end of a `with` block.

    Args:
        places: where the videos of each split are. None for a split that is taken from those to train on.
        config: which frames are shown.
        folder: folder of the catalogues and of the features.
        val_fraction: fraction of the videos to train on that becomes each split without a place of its own.
        seed: seed of that choice.
        counting: shows progress.

    Attributes:
        classes: names of the classes, in the order of their numbers.

    Raises:
        UserError: for a missing place, a video without a class, and a class that is not in the videos to train on.
    """

    def __init__(
        self, places: Mapping[str, Path | None], config: LabelledConfig, folder: Path, val_fraction: float, seed: int,
        counting: Counting,
    ) -> None:  # fmt: skip
        require_av()
        for path in places.values():
            if path is not None:
                require_there(path)
        self._config, self._folder, self._counting = config, folder, counting
        self._root = None if config.root is None else Path(config.root)
        with ExitStack() as opened:
            workers = opened.enter_context(Workers(config.workers, config.patience_s))
            self._places = {
                split: self._open(path, workers, opened) for split, path in places.items() if path is not None
            }
            self.classes = _in_order(self._places[TRAIN].names)
            for place in self._places.values():
                strange = sorted(set(place.names) - set(self.classes))
                if strange:
                    raise UserError(f"{place.path} has class {strange[0]!r:.60}, which no video to train on has")
            self._rows = self._divide(val_fraction, seed)
            self._opened = opened.pop_all()

    def __enter__(self) -> LabelledData:
        return self

    def __exit__(self, *_: object) -> None:
        self._opened.close()

    def _open(self, path: Path, workers: Workers, opened: ExitStack) -> _Place:
        self._folder.mkdir(parents=True, exist_ok=True)
        with self._counting("look at videos") as progress:
            file = catalogue_file(self._folder, path, self._root)
            catalogue = opened.enter_context(closing(survey(path, self._root, file, workers, progress)))
        clips = LabelledClips(catalogue, self._config, workers)
        return _Place(path, catalogue, labels_of(path, self._root, catalogue), clips)

    def _divide(self, fraction: float, seed: int) -> dict[str, Rows]:
        """Rows of every split in the place that it is taken from."""
        rows = {split: place.rows for split, place in self._places.items()}
        for number, split in enumerate((VAL, TEST)):
            if split not in rows:
                labels = self._labels(self._places[TRAIN])[rows[TRAIN]]
                rows[TRAIN], rows[split] = take_part(rows[TRAIN], labels, fraction, seed + number)
        return rows

    def _labels(self, place: _Place) -> NDArray[np.int64]:
        numbers = {name: number for number, name in enumerate(self.classes)}
        return np.array([numbers[name] for name in place.names], np.int64)

    def _place_of(self, split: str) -> _Place:
        return self._places.get(split, self._places[TRAIN])

    @property
    def identity(self) -> dict[str, str]:
        """Hash of the videos of every split that has a place of its own."""
        return {split: place.catalogue.identity for split, place in self._places.items()}

    @property
    def left_out(self) -> int:
        """Number of files that cannot be read."""
        return sum(place.catalogue.refused.total() for place in self._places.values())

    def counts(self) -> dict[str, int]:
        """Number of videos of every split."""
        return {split: len(self._rows[split]) for split in (TRAIN, VAL, TEST)}

    def chance(self) -> float:
        """Accuracy on the split to report on of a guesser that names its most frequent class."""
        labels = self._labels(self._place_of(TEST))[self._rows[TEST]]
        return float(np.bincount(labels).max() / len(labels))

    def encode(self, encoder: Encoder, shape: ClipShape, device: torch.device, points: bool) -> Splits:
        """The features of all clips, with their classes, or with their points as targets.

        Raises:
            UserError: for a video that cannot be decoded, for points that are missing, and for a split in which no
                point is visible.
        """
        config, features = self._config, dict[str, NDArray[np.float16]]()
        for split, place in self._places.items():
            about = f"{place.catalogue.identity} {config.stride} {config.stride_s} {config.size}"
            with self._counting(f"encode clips of {place.path.name}") as progress:
                features[split] = encode_labelled(
                    encoder, shape, place.clips, len(place.clips), about, self._folder, device, progress
                )
        return Splits(*(self._part(split, features, points) for split in (TRAIN, VAL, TEST)))

    def _part(self, split: str, features: Mapping[str, NDArray[np.float16]], points: bool) -> Part:
        place, rows = self._place_of(split), self._rows[split]
        of_place = features[split if split in features else TRAIN]
        if not points:
            return Part(of_place, rows, self._labels(place)[rows])
        targets = read_points(place.path, place.catalogue, place.clips)[rows]
        if not (targets[..., 2] > 0).any():
            raise UserError(f"{place.path} has no visible point in its {len(rows)} clips")
        return Part(of_place, rows, targets)


def _in_order(names: list[str]) -> tuple[str, ...]:
    """The different names, numbers by their value and others by their letters."""
    different = set(names)
    if all(name.isdecimal() for name in different):
        return tuple(sorted(different, key=int))
    return tuple(sorted(different))

"""Videos of any origin, each of them an episode in which nobody acts.

What is read is what pretraining reads: a folder, a list, or one file (`worldmodel.data.videos`). A store has at least
one number for the action of a step, and videos have none. So the action of such a store is called `none`, and is always
zero. The store serves to look at frames and to pretrain on them, which takes no actions.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from worldmodel.core.errors import UserError
from worldmodel.core.spec import CAMERA
from worldmodel.data.formats.limits import MOST_EPISODES, MOST_ROWS, fingerprint, is_same_rate, natural, require
from worldmodel.data.formats.mapping import Choice
from worldmodel.data.formats.source import Facts, Feature, FormatError, Length, Source
from worldmodel.data.videos.decoding import Video, VideoFacts
from worldmodel.data.videos.listing import SUFFIXES, find_videos

NO_ACTION: Final = "none"
_HIGHEST_HZ = 1000.0  # frames per second
_ROWS = "videos have no actions, so the action is none and always zero"


class VideoSource(Source):
    """See the module's docstring.

    Args:
        path: a folder of videos, a list of them, or one video.
        rate_hz: frames per second that are taken of every video, as a player shows it. None for the videos' own rate,
            which has to be the same in all of them.

    Raises:
        FormatError: when there is no video that can be read.
        UserError: for a rate that no video has.
    """

    def __init__(self, path: Path, rate_hz: float | None = None) -> None:
        if rate_hz is not None and not 0 < rate_hz <= _HIGHEST_HZ:
            raise UserError(f"--rate {rate_hz:g}: expected frames per second, above 0 and at most {_HIGHEST_HZ:g}")
        self._files = sorted(dict.fromkeys(find_videos(path)), key=lambda file: [natural(part) for part in file.parts])
        require(bool(self._files), f"{path} has no video: expected files of {', '.join(SUFFIXES)}")
        require(len(self._files) <= MOST_EPISODES, f"{path} has {len(self._files):,} videos")
        self._asked_hz = rate_hz
        self._lengths: list[int] | None = None
        self._look = functools.cache(_look)  # the first videos are asked for twice
        first = next((facts for facts in map(self._look, self._files) if isinstance(facts, VideoFacts)), None)
        if first is None:
            raise FormatError(f"{path} has no video that can be read: {self._look(self._files[0])}")
        features = {
            CAMERA: Feature(CAMERA, (first.height, first.width, 3), "video", True),
            NO_ACTION: Feature(NO_ACTION, (1,), "float32", False, (NO_ACTION,)),
        }
        rate = first.rate_hz if rate_hz is None else rate_hz
        facts = Facts("video", path.resolve().stem, rate, (0.0,), (0.0,), {"action": NO_ACTION}, rows=_ROWS)
        super().__init__(path, facts, features)

    def lengths(self, choice: Choice) -> list[Length]:
        rate = self.facts.rate_hz
        assert rate is not None
        if self._lengths is None:
            found = [(file, self._look(file)) for file in self._files]
            whole = [(file, facts) for file, facts in found if isinstance(facts, VideoFacts)]
            if self._asked_hz is None:
                for file, facts in whole:
                    require(
                        is_same_rate(facts.rate_hz, rate),
                        f"{file} has {facts.rate_hz:g} frames per second, the first video has {rate:g}: give --rate",
                    )
            refused = [str(reason) for _, reason in found if isinstance(reason, UserError)]
            if refused:
                left_out = f"; {len(refused)} of {len(found)} files cannot be read and are left out: {refused[0]}"
                self.facts = dataclasses.replace(self.facts, rows=_ROWS + left_out)
            self._files = [file for file, _ in whole]
            self._lengths = [_rows(facts, rate) for _, facts in whole]
            for file, rows in zip(self._files, self._lengths, strict=True):
                require(rows <= MOST_ROWS, f"{file} has {rows:,} frames at {rate:g} per second")
        return [Length(rows, max(0, rows - 1)) for rows in self._lengths]

    def column(self, episode: int, name: str, rows: int) -> NDArray[Any]:
        require(name == NO_ACTION, f"{self._files[episode]} has no {name}")
        return np.zeros((rows, 1), np.float32)

    def frames(self, episode: int, name: str, rows: int) -> Iterator[NDArray[Any]]:
        require(name == CAMERA, f"{self._files[episode]} has no {name}")
        assert self.facts.rate_hz is not None
        with Video(self._files[episode]) as video:
            yield from video.frames_at([row / self.facts.rate_hz for row in range(rows)])

    def fingerprint(self) -> str:
        root = self.path if self.path.is_dir() else self.path.parent
        if all(file.is_relative_to(root) for file in self._files):
            return fingerprint(root, self._files, self._files)
        files = [file.resolve() for file in self._files]
        return fingerprint(Path(root.resolve().anchor), files, files)


def _look(file: Path) -> VideoFacts | UserError:
    """What a video says of itself, or why it cannot be read."""
    try:
        with Video(file) as video:
            return video.facts()
    except UserError as error:
        return error
    except OSError as error:  # a file of a list that is not there
        return FormatError(f"{file}: {error.strerror}")


def _rows(facts: VideoFacts, rate_hz: float) -> int:
    """How many frames at `rate_hz` begin before the end of the video, whose duration may be rounded up."""
    return math.ceil(facts.duration_s * rate_hz - 1e-3)

"""Videos of an exported LeRobotDataset. Each camera has its own files, with many episodes in each."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from worldmodel.core.spec import CameraSpec
from worldmodel.data.formats.lerobot_layout import camera_key
from worldmodel.data.formats.video import VideoWriter

VIDEO: Final = "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4"
PER_CHUNK, VIDEO_MB = 1000, 200  # LeRobot's own limits


class Files:
    """Numbers files consecutively, with `PER_CHUNK` files in a folder."""

    def __init__(self) -> None:
        self.number = -1

    def next(self) -> dict[str, int]:
        """The place of the next file."""
        self.number += 1
        return self.place

    @property
    def place(self) -> dict[str, int]:
        """The place of the present file, in the form of the table of episodes."""
        return {"chunk_index": self.number // PER_CHUNK, "file_index": self.number % PER_CHUNK}


class CameraVideos:
    """The videos of one camera under the folder `root`."""

    def __init__(self, root: Path, camera: CameraSpec, rate_hz: Fraction, crf: int) -> None:
        self._root, self._camera, self._rate_hz, self._crf = root, camera, rate_hz, crf
        self._files = Files()
        self._video: VideoWriter | None = None
        self._num_frames = 0

    def add(self, pictures: NDArray[np.uint8]) -> dict[str, float]:
        """Write an episode `[n, H, W, 3]`. Returns its file, and its start and end in the video [s]."""
        if self._video is None or self._video.num_bytes >= VIDEO_MB * 1_000_000:
            self.close(None, None)
            path = self._root / VIDEO.format(**self._files.next(), video_key=camera_key(self._camera.name))
            path.parent.mkdir(parents=True, exist_ok=True)
            self._video = VideoWriter(path, self._rate_hz, self._camera.height, self._camera.width, self._crf)
            self._num_frames = 0
        for picture in pictures:
            self._video.add(picture)
        first, self._num_frames = self._num_frames, self._num_frames + len(pictures)
        return {
            **self._files.place,
            "from_timestamp": float(first / self._rate_hz),
            "to_timestamp": float(self._num_frames / self._rate_hz),
        }

    def close(self, kind: type[BaseException] | None, error: BaseException | None) -> None:
        """Finish the present file."""
        if self._video is not None:
            self._video.__exit__(kind, error, None)
            self._video = None

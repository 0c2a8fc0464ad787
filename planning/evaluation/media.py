"""Videos of episodes."""

from __future__ import annotations

import errno
from collections.abc import Generator, Iterable, Iterator
from pathlib import Path

import imageio_ffmpeg
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from planning.environment import Environment
from worldmodel.core.files import appearing

FRAME_SIZE = 256  # pixels
_GAP = 16  # keeps the width a multiple of 16 for video codecs


def write_video(path: Path, frames: Iterable[NDArray[np.uint8]], frames_per_s: float) -> None:
    """Write uint8 frames `[H, W, 3]`, with H and W multiples of 16, as an H.264 mp4 that every browser plays.

    The file appears complete or not at all. Raises OSError if it cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with appearing(path) as partial:
        writer, sent = None, 0
        options = {"fps": frames_per_s, "quality": 8, "macro_block_size": 16, "output_params": ["-f", "mp4"]}
        try:
            for frame in frames:
                if writer is None:
                    size = (frame.shape[1], frame.shape[0])
                    writer = imageio_ffmpeg.write_frames(str(partial), size, **options)
                    writer.send(None)  # starts ffmpeg
                sent += _send(writer, frame)
        finally:
            if writer is not None:
                writer.close()
        _require_whole(partial, sent)


def _send(writer: Generator[None, NDArray[np.uint8] | None], frame: NDArray[np.uint8]) -> int:
    try:
        writer.send(np.ascontiguousarray(frame))
    except OSError as error:  # it has no number, and a page about ffmpeg's command
        raise OSError(errno.EIO, "ffmpeg ended before the video did") from error
    return 1


def _require_whole(video: Path, num_frames: int) -> None:
    """Raises OSError for a video that is cut short. If the disk is full, ffmpeg cuts it without an error."""
    try:
        written, _ = imageio_ffmpeg.count_frames_and_secs(str(video))
    except RuntimeError:
        written = 0
    if written != num_frames:
        raise OSError(errno.EIO, f"{written} of {num_frames} frames of the video could be written")


def side_by_side(
    env: Environment, states: NDArray[np.float64], goal: NDArray[np.uint8], hold_frames: int = 10
) -> Iterator[NDArray[np.uint8]]:
    """Frames of the episode `states [T, N]` beside its goal image `[H, W, 3]`. The last frame is held for a while."""
    size = (FRAME_SIZE, FRAME_SIZE)
    picture = np.asarray(Image.fromarray(goal).resize(size, Image.Resampling.LANCZOS))
    gap = np.full((FRAME_SIZE, _GAP, 3), 255, np.uint8)
    frame = np.concatenate([picture, gap, picture], axis=1)
    for state in states:
        frame = np.concatenate([env.render_state(state, size=FRAME_SIZE), gap, picture], axis=1)
        yield frame
    for _ in range(hold_frames):
        yield frame

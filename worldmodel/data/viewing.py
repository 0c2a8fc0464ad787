"""Writes one episode as a video, or as a recording for the Rerun viewer (https://rerun.io)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import Any

import imageio_ffmpeg
import numpy as np
from numpy.typing import NDArray

from worldmodel.core.errors import UserError, how_to_install
from worldmodel.core.files import appearing, output_file
from worldmodel.core.spec import EnvironmentSpec
from worldmodel.data.store.durable import WritingStopped
from worldmodel.data.store.files import require_folder
from worldmodel.data.store.layout import REWARD, image_column
from worldmodel.data.store.reader import Episode

LEAST_SIDE = 256  # pixels; smaller images are enlarged


def write_video(episode: Episode, spec: EnvironmentSpec, path: Path) -> None:
    """Write an H.264 MP4 that every browser plays. Each of the `T + 1` observations is a frame of `control_step_s`.

    Several cameras are side by side. Images are enlarged by the integer factor of `enlargement`. The file appears whole
    or not at all.

    Raises:
        WritingStopped: when the file cannot be written.
    """
    pictures = [episode.images[camera] for camera in spec.camera_names]
    height, width, _ = side_by_side([frames[0] for frames in pictures]).shape
    factor = enlargement(height, width)
    with _appearing(path) as partial:
        # No B-frames: with them, some players begin at the second frame.
        writer = imageio_ffmpeg.write_frames(
            str(partial),
            (width * factor, height * factor),
            fps=frames_per_s(spec),
            quality=9,
            macro_block_size=2,
            ffmpeg_log_level="quiet",  # errors are reported in one line below
            output_params=["-bf", "0", "-movflags", "+faststart", "-f", "mp4"],
        )
        writer.send(None)  # starts ffmpeg
        try:
            for moment in zip(*pictures, strict=True):
                writer.send(np.ascontiguousarray(enlarged(side_by_side(moment), factor)))
        finally:
            writer.close()
        _require_whole(partial, len(episode.action))


def write_rerun(episode: Episode, spec: EnvironmentSpec, path: Path) -> None:
    """Write a Rerun recording of `images/<camera>` and all numbers, over the timelines `clock` [s] and `row`.

    Images and numbers are as recorded. The action of the last row, which was never taken, is left out together with its
    reward. The file appears whole or not at all.

    Raises:
        UserError: when Rerun is not installed.
        WritingStopped: when the file cannot be written.
    """
    try:
        import rerun
    except ImportError as error:
        raise UserError(f"--rerun needs rerun-sdk, which is not installed: {how_to_install('view')}") from error
    rows = np.arange(len(episode.action))

    def clock(count: int) -> list[rerun.TimeColumn]:
        seconds = rows[:count] * spec.control_step_s
        return [rerun.TimeColumn("clock", duration=seconds), rerun.TimeColumn("row", sequence=rows[:count])]

    with _appearing(path) as partial, rerun.RecordingStream(f"worldmodel-toolkit {spec.env}") as recording:
        recording.save(partial)
        for camera, frames in episode.images.items():
            height, width = frames.shape[1:3]
            image_format = rerun.components.ImageFormat(
                width=width, height=height, color_model="RGB", channel_datatype=rerun.ChannelDatatype.U8
            )
            entity = image_column(camera)
            recording.log(entity, rerun.Image.from_fields(format=image_format), static=True)
            flat = frames.reshape(len(rows), -1)
            recording.send_columns(entity, clock(len(rows)), rerun.Image.columns(buffer=flat))
        for name, values, names in _numbers(episode, spec):
            recording.log(name, rerun.SeriesLines(names=names), static=True)
            recording.send_columns(name, clock(len(values)), rerun.Scalars.columns(scalars=values.astype(np.float64)))
        recording.flush()
        recording.disconnect()  # writes the end of the file


def _numbers(episode: Episode, spec: EnvironmentSpec) -> Iterator[tuple[str, NDArray[Any], list[str]]]:
    """Name, values `[rows, size]` and names of the dimensions of each column of numbers that is not empty."""
    action = [f"{name} {unit}".strip() for name, unit in zip(spec.action.names, spec.action.units, strict=True)]
    yield "action", episode.action[:-1], action
    for name, values in (("proprio", episode.proprio), ("state", episode.state)):
        if values.shape[1]:
            yield name, values, [f"{name} {index}" for index in range(values.shape[1])]
    if episode.reward is not None:
        yield REWARD, episode.reward[:-1, None], [REWARD]


def side_by_side(pictures: Sequence[NDArray[np.uint8]]) -> NDArray[np.uint8]:
    """Join images uint8 `[H, W, 3]` of any sizes from left to right, on black. The result is as high as the highest."""
    if len(pictures) == 1:
        return pictures[0]
    height = max(len(picture) for picture in pictures)
    padded = [np.pad(picture, ((0, height - len(picture)), (0, 0), (0, 0))) for picture in pictures]
    return np.concatenate(padded, axis=1)


def enlargement(height: int, width: int) -> int:
    """The smallest integer factor that makes both sides at least `LEAST_SIDE` pixels, and even for H.264."""
    factor = max(1, -(-LEAST_SIDE // min(height, width)))
    return factor + (factor % 2 and (height % 2 or width % 2))


def enlarged(picture: NDArray[np.uint8], factor: int) -> NDArray[np.uint8]:
    """An image uint8 `[H, W, 3]` with each pixel repeated, `[H factor, W factor, 3]`."""
    return picture.repeat(factor, 0).repeat(factor, 1)


def frames_per_s(spec: EnvironmentSpec) -> Fraction:
    """The frame rate of a recording. A control step of 1/3 s is exactly 3 per second, in spite of rounding."""
    return (1 / Fraction(spec.control_step_s)).limit_denominator(1000)


def output_named(path: str | Path, suffix: str, option: str) -> Path:
    """Make the folder of a file whose name must end in `suffix`. Raises UserError if the file cannot be written."""
    if Path(path).suffix != suffix:
        raise UserError(f"{option} '{path}': expected a name that ends in {suffix}")
    require_folder(path)
    return output_file(path, option)


@contextmanager
def _appearing(path: Path) -> Iterator[Path]:
    """Like `appearing`. Raises WritingStopped when the operating system refuses to write."""
    try:
        with appearing(path) as partial:
            yield partial
    except OSError as error:  # ffmpeg's errors come with a page about its command
        reason = error.strerror or str(error).partition("\n")[0]
        raise WritingStopped(f"'{path}' cannot be written to ({reason})") from error


def _require_whole(video: Path, num_frames: int) -> None:
    """Raises OSError for an incomplete video, since ffmpeg ends silently even if the disk is full."""
    try:
        written, _ = imageio_ffmpeg.count_frames_and_secs(str(video))
    except RuntimeError:
        written = 0
    if written != num_frames:
        raise OSError(f"the video has {written} of {num_frames} frames")

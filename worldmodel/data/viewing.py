"""One episode to look at: as a video, or as a recording for the Rerun viewer (https://rerun.io)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path

import imageio_ffmpeg
import numpy as np
from numpy.typing import NDArray

from worldmodel.core.errors import UserError, how_to_install
from worldmodel.core.files import appearing, output_file
from worldmodel.core.spec import EnvironmentSpec
from worldmodel.data.store.durable import WritingStopped
from worldmodel.data.store.files import require_folder
from worldmodel.data.store.reader import Episode

LEAST_SIDE = 256  # pixels: smaller pictures are enlarged


def write_video(episode: Episode, spec: EnvironmentSpec, path: Path) -> None:
    """An H.264 MP4 that every browser plays: one frame for each of the `T + 1` observations, `control_step_s` long.

    Pictures uint8 `[T+1, H, W, 3]` are enlarged by the whole number of `enlargement`. The file appears whole, or not.

    Raises:
        WritingStopped: when it cannot be written.
    """
    factor = enlargement(spec.only_camera.height)
    with _appearing(path) as partial:
        side = spec.only_camera.height * factor
        # No B-frames: with them, some players begin at the second frame.
        writer = imageio_ffmpeg.write_frames(
            str(partial),
            (side, side),
            fps=frames_per_s(spec),
            quality=9,
            macro_block_size=2,
            ffmpeg_log_level="quiet",  # what goes wrong is one line, below
            output_params=["-bf", "0", "-movflags", "+faststart", "-f", "mp4"],
        )
        writer.send(None)  # starts ffmpeg
        try:
            for picture in episode.pixels:
                writer.send(np.ascontiguousarray(enlarged(picture, factor)))
        finally:
            writer.close()
        _require_whole(partial, len(episode.pixels))


def write_rerun(episode: Episode, spec: EnvironmentSpec, path: Path) -> None:
    """A Rerun recording: `camera`, `action`, `proprio` and `state` over the time `clock` [s] and the number `row`.

    Pictures and numbers are as they were recorded. The action of the last row, which was never taken, is left out. The
    file appears whole, or not.

    Raises:
        UserError: when Rerun is not installed.
        WritingStopped: when it cannot be written.
    """
    try:
        import rerun
    except ImportError as error:
        raise UserError(f"--rerun needs rerun-sdk, which is not installed: {how_to_install('view')}") from error
    rows = np.arange(len(episode.pixels))

    def clock(count: int) -> list[rerun.TimeColumn]:
        seconds = rows[:count] * spec.control_step_s
        return [rerun.TimeColumn("clock", duration=seconds), rerun.TimeColumn("row", sequence=rows[:count])]

    with _appearing(path) as partial, rerun.RecordingStream(f"worldmodel-toolkit {spec.env}") as recording:
        recording.save(partial)
        height, width = episode.pixels.shape[1:3]
        image_format = rerun.components.ImageFormat(
            width=width, height=height, color_model="RGB", channel_datatype=rerun.ChannelDatatype.U8
        )
        recording.log("camera", rerun.Image.from_fields(format=image_format), static=True)
        flat = episode.pixels.reshape(len(rows), -1)
        recording.send_columns("camera", clock(len(rows)), rerun.Image.columns(buffer=flat))
        for name, values in (("action", episode.action[:-1]), ("proprio", episode.proprio), ("state", episode.state)):
            if not values.shape[1]:
                continue
            units = spec.action.units if name == "action" else ("",) * values.shape[1]
            names = [f"{name} {index} {unit}".strip() for index, unit in enumerate(units)]
            recording.log(name, rerun.SeriesLines(names=names), static=True)
            recording.send_columns(name, clock(len(values)), rerun.Scalars.columns(scalars=values.astype(np.float64)))
        recording.flush()
        recording.disconnect()  # writes the end of the file


def enlargement(side: int) -> int:
    """The smallest whole number that makes pictures of `side` pixels at least `LEAST_SIDE`, and even for H.264."""
    factor = max(1, -(-LEAST_SIDE // side))
    return factor + (side * factor) % 2


def enlarged(picture: NDArray[np.uint8], factor: int) -> NDArray[np.uint8]:
    """uint8 `[H, W, 3]` with each pixel repeated: `[H factor, W factor, 3]`."""
    return picture.repeat(factor, 0).repeat(factor, 1)


def frames_per_s(spec: EnvironmentSpec) -> Fraction:
    """The rate of the recording: 1/3 s is exactly 3 per second, whatever its last digit."""
    return (1 / Fraction(spec.control_step_s)).limit_denominator(1000)


def output_named(path: str | Path, suffix: str, option: str) -> Path:
    """Make the folder of a file whose name has to end in `suffix`. Raises UserError where it cannot be written."""
    if Path(path).suffix != suffix:
        raise UserError(f"{option} '{path}': expected a name that ends in {suffix}")
    require_folder(path)
    return output_file(path, option)


@contextmanager
def _appearing(path: Path) -> Iterator[Path]:
    """Like `appearing`. Raises WritingStopped for what the operating system refuses."""
    try:
        with appearing(path) as partial:
            yield partial
    except OSError as error:  # also of ffmpeg, with a page about its command
        reason = error.strerror or str(error).partition("\n")[0]
        raise WritingStopped(f"'{path}' cannot be written to ({reason})") from error


def _require_whole(video: Path, num_frames: int) -> None:
    """ffmpeg ends without a word for us, also where the disk is full."""
    try:
        written, _ = imageio_ffmpeg.count_frames_and_secs(str(video))
    except RuntimeError:
        written = 0
    if written != num_frames:
        raise OSError(f"the video has {written} of {num_frames} frames")

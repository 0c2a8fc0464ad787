"""Small videos whose frames tell their number, and files that are no videos."""

from __future__ import annotations

import os
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from numpy.typing import NDArray

STEP = 8  # difference in brightness between neighbouring frames; larger than what a codec changes


def brightness(number: int) -> int:
    """The brightness of frame `number`, which rises and begins anew after 28 frames."""
    return 16 + STEP * (number % 28)


def number_of(picture: NDArray[np.uint8]) -> int:
    """The number of a frame, up to a multiple of 28."""
    return round((float(picture[: len(picture) // 2].mean()) - 16) / STEP)


def draw(number: int, height: int, width: int) -> NDArray[np.uint8]:
    """Frame `number` `[H, W, 3]`, whose lower right quarter is black."""
    picture = np.full((height, width, 3), brightness(number), np.uint8)
    picture[height // 2 :, width // 2 :] = 0
    return picture


def write_video(
    path: Path,
    frames: int = 24,
    rate: int = 12,
    size: tuple[int, int] = (48, 64),
    codec: str = "libx264",
    pixels: str = "yuv420p",
    *,
    gap: int = 250,
    rotation: int = 0,
    times: list[int] | None = None,
    seed: int | None = None,
) -> Path:
    """A video of `frames` frames.

    Args:
        path: the file; its suffix decides on the container.
        frames: number of frames.
        rate: frames per second.
        size: height and width [pixels].
        codec: FFmpeg's name of the encoder.
        pixels: FFmpeg's name of the pixel format.
        gap: frames between key frames.
        rotation: angle of the display matrix [degrees].
        times: time stamps of the frames [frames at `rate`], for a variable rate.
        seed: noise is added to the frames, with this seed.
    """
    height, width = size
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = None if seed is None else np.random.default_rng(seed).integers(0, 20, (height, width, 3), np.uint8)
    with av.open(str(path), "w") as container:
        options = {"g": str(gap)} if codec.startswith("libx26") else {}
        if codec == "libx265":
            options["x265-params"] = "log-level=none"
        stream = container.add_stream(codec, rate=rate, options=options)
        stream.height, stream.width, stream.pix_fmt = height, width, pixels
        stream.codec_context.thread_count = 1
        if rotation:
            stream.set_display_rotation(rotation)
        for number in range(frames):
            picture = draw(number, height, width)
            frame = av.VideoFrame.from_ndarray(picture if noise is None else picture + noise, format="rgb24")
            frame.pts = number if times is None else times[number]
            frame.time_base = Fraction(1, rate)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def write_audio(path: Path) -> Path:
    """A second of silence in an MP4."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=8000, layout="mono")
        for number in range(8):
            frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), "fltp", "mono")
            frame.sample_rate, frame.pts = 8000, 1024 * number
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def write_hostile(folder: Path) -> dict[str, str]:
    """Files and folders with the names of videos that are none. Returns a part of the reason to refuse each."""
    folder.mkdir(parents=True, exist_ok=True)
    whole = write_video(folder / "whole.mp4", frames=60, seed=0, gap=12).read_bytes()
    index = whole.rindex(b"moov") - 4
    (folder / "whole.mp4").unlink()
    (folder / "empty.mp4").touch()
    (folder / "cut.mp4").write_bytes(whole[: index // 2])
    (folder / "text.mp4").write_text("#EXTM3U\nhttp://127.0.0.1:9/stolen.ts\n")
    (folder / "folder.mp4").mkdir()
    os.mkfifo(folder / "pipe.mp4")
    (folder / "nowhere.mp4").symlink_to(folder / "gone.mp4")
    write_audio(folder / "audio.mp4")
    write_video(folder / "single.mp4", frames=1)
    # The index comes first, as in files for the web, and the frames after it are cut off.
    fast = folder / "whole.mp4"
    with av.open(str(fast), "w", options={"movflags": "+faststart"}) as container:
        stream = container.add_stream("libx264", rate=12)
        stream.height, stream.width, stream.pix_fmt = 48, 64, "yuv420p"
        noise = np.random.default_rng(0)
        for number in range(60):
            picture = noise.integers(0, 255, (48, 64, 3), np.uint8)
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts, frame.time_base = number, Fraction(1, 12)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    content = fast.read_bytes()
    fast.unlink()
    (folder / "half.mp4").write_bytes(content[: len(content) // 2])
    # The header of a GIF claims images of 20,000 x 20,000 pixels.
    small = write_video(folder / "small.gif", codec="gif", pixels="rgb8", frames=3, rate=10)
    content = small.read_bytes()
    small.unlink()
    (folder / "huge.mp4").write_bytes(content[:6] + (20_000).to_bytes(2, "little") * 2 + content[10:])
    return {
        "empty.mp4": "is empty",
        "cut.mp4": "cannot be opened",
        "half.mp4": "is cut short",
        "text.mp4": "is no MP4",
        "folder.mp4": "is no file",
        "pipe.mp4": "is no file",
        "nowhere.mp4": "cannot be found",
        "audio.mp4": "has no video in it",
        "single.mp4": "has a single frame",
        "huge.mp4": "pixels: at most 16,777,216 are accepted",
    }

"""Reads frames of video files by their times, and writes videos, with PyAV.

The decoder gets an open file and the name of the container. So the content of a file cannot make FFmpeg open another
file or an address.

Shapes: `H, W` height and width of the frames.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Final, Self

import av
import av.error
import numpy as np
from numpy.typing import NDArray

from worldmodel.data.formats.limits import MOST_PIXELS, MOST_ROWS, require, require_file
from worldmodel.data.formats.source import FormatError, refusing

CODECS: Final = ("av1", "h264", "hevc", "mjpeg", "mpeg4", "vp9")
_OVERLONG = 3.0  # seconds; a frame further ahead is found by seeking instead of decoding all frames before it
_RATES = Fraction(1, 1000), Fraction(100_000)
_UNREADABLE = (av.error.FFmpegError, OSError, ValueError, RuntimeError)


def _reading(path: Path, what: str) -> AbstractContextManager[None]:
    """A context that turns PyAV's errors for damaged files into FormatError."""
    return refusing(_UNREADABLE, f"{path} is not an MP4 that can be read: {what} cannot")


class VideoReader:
    """An MP4 file, read mostly forward. Requests with increasing times decode every frame once.

    Attributes:
        path: the file.
        height: height of the frames [pixels].
        width: width of the frames [pixels].
        rate_hz: average number of frames per second.
    """

    def __init__(self, path: Path) -> None:
        require_file(path)
        self.path = path
        self._file = path.open("rb")
        try:
            with _reading(path, "the beginning"):
                self._container = av.open(self._file, mode="r", format="mp4")
                require(len(self._container.streams.video) >= 1, f"{path} has no video in it")
                self._stream = self._container.streams.video[0]
                context = self._stream.codec_context
                if context is None:  # possible in spite of its type, if FFmpeg does not know the codec
                    raise FormatError(f"{path} is coded in a way that is not known")
                require(context.name.removeprefix("lib") in (*CODECS, "dav1d"), f"{path} is coded as {context.name}")
                self.height, self.width = context.height, context.width
                require(
                    0 < self.height * self.width <= MOST_PIXELS,
                    f"{path} has {self.width} x {self.height} pixels: at most {MOST_PIXELS:,} are accepted",
                )
                rate = self._stream.average_rate or self._stream.guessed_rate
                if rate is None or not _RATES[0] <= rate <= _RATES[1] or self._stream.time_base is None:
                    raise FormatError(f"{path} has {rate} frames per second")
                self.rate_hz = float(rate)
        except BaseException:
            self._file.close()
            raise
        self._decoded = self._decode()
        self._next: tuple[float, av.VideoFrame] | None = None

    def frames_at(self, times: NDArray[np.float64], tolerance_s: float) -> Iterator[NDArray[np.uint8]]:
        """The frames uint8 `[H, W, 3]` nearest to `times` [s], which must increase.

        Raises:
            FormatError: when no frame is within `tolerance_s` of a time, or two times have the same frame.
        """
        used = -np.inf
        for time in times:
            if self._next is None or self._next[0] > time + tolerance_s or self._next[0] < time - _OVERLONG:
                self._seek(float(time))
            found = self._nearest(float(time), tolerance_s)
            require(found is not None, f"{self.path} has no frame at {time:.4f} s")
            assert found is not None
            require(found[0] > used, f"{self.path} has one frame only for {used:.4f} s and {time:.4f} s")
            used = found[0]
            yield self._to_rgb(found[1])

    def frames(self, count: int) -> Iterator[NDArray[np.uint8]]:
        """The first `count` frames, which must be evenly spaced. Raises FormatError when they do not exist."""
        self._seek(0.0)
        assert self._next is not None
        times = self._next[0] + np.arange(count) / self.rate_hz
        yield from self.frames_at(times, 0.5 / self.rate_hz)

    def count(self) -> int:
        """Number of frames, counted without decoding them."""
        count = 0
        with _reading(self.path, "its index"):
            self._container.seek(0, stream=self._stream)
            for packet in self._container.demux(self._stream):
                count += packet.size > 0 and not packet.is_discard
                require(count <= MOST_ROWS, f"{self.path} has more than {MOST_ROWS:,} frames")
        self._next = None
        return count

    def close(self) -> None:
        """Close the file."""
        self._container.close()
        self._file.close()

    def _nearest(self, time: float, tolerance_s: float) -> tuple[float, av.VideoFrame] | None:
        best = None
        while self._next is not None and self._next[0] <= time + tolerance_s:
            if abs(self._next[0] - time) <= tolerance_s and (
                best is None or abs(self._next[0] - time) < abs(best[0] - time)
            ):
                best = self._next
            elif best is not None:
                break
            self._next = next(self._decoded, None)
        return best

    def _seek(self, time: float) -> None:
        """Go to the key frame before `time`."""
        assert self._stream.time_base is not None
        with _reading(self.path, f"what is at {time:.4f} s"):
            self._container.seek(max(0, int(time / self._stream.time_base)), stream=self._stream)
        self._decoded = self._decode()
        self._next = next(self._decoded, None)
        require(self._next is not None, f"{self.path} has no frame at {time:.4f} s")

    def _decode(self) -> Iterator[tuple[float, av.VideoFrame]]:
        assert self._stream.time_base is not None
        with _reading(self.path, "a frame"):
            for frame in self._container.decode(self._stream):
                if frame.pts is not None:
                    yield float(frame.pts * self._stream.time_base), frame

    def _to_rgb(self, frame: av.VideoFrame) -> NDArray[np.uint8]:
        size = (frame.height, frame.width)  # the size may change within a stream
        require(size == (self.height, self.width), f"{self.path} changes from {self.height, self.width} to {size}")
        with _reading(self.path, "a frame"):
            return np.asarray(frame.to_ndarray(format="rgb24"), np.uint8)


class VideoWriter:
    """An H.264 MP4 of frames uint8 `[H, W, 3]` that every program plays, with H and W even.

    Args:
        path: the file.
        rate_hz: frames per second.
        crf: quality, from 0 (nearly lossless) to 51.

    Attributes:
        num_bytes: size of the frames written so far. Some frames are still being encoded.
    """

    def __init__(self, path: Path, rate_hz: Fraction | int, height: int, width: int, crf: int) -> None:
        rate_hz = Fraction(rate_hz)
        self._container = av.open(str(path), mode="w", format="mp4", options={"movflags": "+faststart"})
        # As in LeRobot, every other frame is a key frame, so that any frame can be read quickly. There are no B-frames,
        # so that times begin at zero.
        options = {"crf": str(crf), "g": "2", "bf": "0", "preset": "medium"}
        self._stream = self._container.add_stream("libx264", rate=rate_hz, options=options)
        self._stream.height, self._stream.width, self._stream.pix_fmt = height, width, "yuv420p"
        self._stream.codec_context.time_base = 1 / rate_hz
        self._rate_hz, self._count = rate_hz, 0
        self.num_bytes = 0

    def add(self, picture: NDArray[np.uint8]) -> None:
        """Write the next frame."""
        frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
        frame.pts, frame.time_base = self._count, 1 / self._rate_hz
        self._write(frame)
        self._count += 1

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self._write(None)
        self._container.close()

    def _write(self, frame: av.VideoFrame | None) -> None:
        packets = self._stream.encode(frame)
        self.num_bytes += sum(packet.size for packet in packets)
        self._container.mux(packets)

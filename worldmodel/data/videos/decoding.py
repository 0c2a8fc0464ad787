"""Reads clips from video files of any origin, with PyAV.

A frame is on show from its time stamp until that of the next one, and a clip has the frames that are on show at given
times. So a video of a variable rate is resampled as a player shows it.

Files are untrusted. The container is found from the first bytes of a file and not from its name, and the decoder gets
an open file and the name of that container. So no content can make FFmpeg open another file or an address. Only codecs
of `CODECS` are decoded, and sizes are limited before memory is allocated.

Shapes: `H, W` height and width of a frame, after its rotation.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from itertools import pairwise
from pathlib import Path
from typing import Final, Self

import av
import av.error
import numpy as np
from av.video.stream import VideoStream
from numpy.typing import NDArray

from worldmodel.core.files import regular_file
from worldmodel.data.formats.limits import MOST_PIXELS, MOST_ROWS, require
from worldmodel.data.formats.source import FormatError, refusing

CODECS: Final = (
    "av1", "ffv1", "flv1", "gif", "h263", "h264", "hevc", "huffyuv", "mjpeg", "mpeg1video", "mpeg2video", "mpeg4",
    "msmpeg4v2", "msmpeg4v3", "png", "prores", "rawvideo", "theora", "vp8", "vp9", "wmv1", "wmv2",
)  # fmt: skip
_HEAD_BYTES = 12
_MOST_BYTES = 2**43  # 8 TiB; no video is larger
_LONGEST_S = 1_000_000.0  # eleven days; a longer duration is a damaged number
_RATES = 0.001, 1000.0  # frames per second; other rates are damaged numbers
_UNREADABLE = (av.error.FFmpegError, OSError, ValueError, RuntimeError, MemoryError, OverflowError)
# Seconds before a time from which decoding begins if the key frame found for that time turns out to be after it.
_FURTHER_BACK = (0.0, 5.0, 30.0)
_NO_SEEK_S = 0.5  # a clip that begins so early is reached sooner by decoding than by seeking


@dataclasses.dataclass(frozen=True)
class VideoFacts:
    """What a clip's place in a video is drawn from.

    Attributes:
        duration_s: time from the beginning of the first frame to the end of the last one [s].
        rate_hz: average number of frames per second.
        height: height of the frames as shown [pixels].
        width: width of the frames as shown [pixels].
    """

    duration_s: float
    rate_hz: float
    height: int
    width: int


def container_of(head: bytes) -> str | None:
    """FFmpeg's name of the container of a file that begins with `head`; None if it is none that we read."""
    if head[4:8] in (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip"):
        return "mp4"
    if head[:4] == b"\x1a\x45\xdf\xa3":
        return "matroska"  # and WebM
    if head[:4] == b"RIFF" and head[8:12] == b"AVI ":
        return "avi"
    return "gif" if head[:6] in (b"GIF87a", b"GIF89a") else None


class Video:
    """One video file. It closes at the end of a `with` block.

    Attributes:
        path: the file.

    Raises:
        FormatError: when the file is no video that can be read.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        with ExitStack() as opened, refusing(_UNREADABLE, f"{path} cannot be opened"):
            self._file = opened.enter_context(regular_file(path, _MOST_BYTES))
            head = self._file.read(_HEAD_BYTES)
            require(bool(head), f"{path} is empty")
            name = container_of(head)
            if name is None:
                raise FormatError(f"{path} is no MP4, WebM, Matroska, AVI or GIF")
            self._file.seek(0)
            # FFmpeg looks for the format of the pixels by decoding, here already.
            limit = {"max_pixels": str(MOST_PIXELS)}
            self._container = opened.enter_context(av.open(self._file, mode="r", format=name, options=limit))
            require(len(self._container.streams.video) >= 1, f"{path} has no video in it")
            self._stream: VideoStream = self._container.streams.video[0]
            self._check_stream()
            self._opened = opened.pop_all()
        self._first: av.VideoFrame | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._opened.close()

    def facts(self) -> VideoFacts:
        """Measures the video. Two frames are decoded, and the packets from the last key frame on are read.

        The header is not believed, because a file can be cut short, and a header can claim any duration.

        Raises:
            FormatError: when the video has fewer than two frames that can be decoded, or ends before its last frame.
        """
        with refusing(_UNREADABLE, f"{self.path} cannot be decoded"):
            frames = self._decode()
            first, second = next(frames, None), next(frames, None)
        if first is None:
            raise FormatError(f"{self.path} has no frame that can be decoded")
        require(second is not None, f"{self.path} has a single frame")
        self._first = first
        self._require_whole()
        rate = self._stream.average_rate or self._stream.guessed_rate
        end, count = self._end()
        duration = end - self._time(first)
        rate_hz = count / duration if rate is None and duration > 0 else float(rate or 0)
        require(_RATES[0] <= rate_hz <= _RATES[1], f"{self.path} has {rate_hz:g} frames per second")
        require(1 / rate_hz < duration <= _LONGEST_S, f"{self.path} lasts {duration:g} s")
        height, width = self._upright(first).shape[:2]
        return VideoFacts(duration, rate_hz, height, width)

    def frames_at(self, times: Sequence[float]) -> Iterator[NDArray[np.uint8]]:
        """The frames uint8 `[H, W, 3]` that are on show at `times` [s from the first frame], which must not decrease.

        A time that has the frame of the previous time yields the same array again.

        Raises:
            FormatError: when the video ends before one of the times, its size changes, or it cannot be decoded.
        """
        assert all(a <= b for a, b in pairwise(times))
        with refusing(_UNREADABLE, f"{self.path} cannot be decoded at {times[0]:.3f} s"):
            frames = self._beginning_at(times[0])
            shown: av.VideoFrame | None = None
            following = next(frames, None)
            picture: NDArray[np.uint8] | None = None
            for time in times:
                while following is not None and self._since_start(following) <= time:
                    shown, following, picture = following, next(frames, None), None
                if shown is None or (following is None and time > self._since_start(shown) + self._length(shown)):
                    raise FormatError(f"{self.path} has no frame at {time:.3f} s")
                if picture is None:
                    require(not shown.is_corrupt, f"{self.path} is damaged at {time:.3f} s")
                    picture = self._upright(shown)
                yield picture

    # --- the stream --------------------------------------------------------------------------------------------------

    def _check_stream(self) -> None:
        context = self._stream.codec_context
        if context is None:  # possible in spite of its type, if FFmpeg does not know the codec
            raise FormatError(f"{self.path} is coded in a way that is not known")
        codec = context.codec.canonical_name
        require(codec in CODECS, f"{self.path} is coded as {codec}")
        size = context.height * context.width
        require(
            0 < size <= MOST_PIXELS,
            f"{self.path} has {context.width} x {context.height} pixels: at most {MOST_PIXELS:,} are accepted",
        )
        require(self._stream.time_base is not None, f"{self.path} has no unit of time")
        # The stream may change its size. One thread gives the same bits everywhere, and clips are decoded in parallel.
        context.options = {"max_pixels": str(MOST_PIXELS)}
        context.thread_count = 1

    def _require_whole(self) -> None:
        """Raises FormatError for a file whose index lists a frame beyond the end of the file."""
        index = self._stream.index_entries
        size = self._file.seek(0, 2)
        # Entries are in the order of time. In the files of every encoder the last ones are also the last in the file.
        for number in range(max(0, len(index) - 16), len(index)):
            require(index[number].pos + index[number].size <= size, f"{self.path} is cut short")

    def _end(self) -> tuple[float, int]:
        """The end of the last frame [s], and the number of frames that were read to find it."""
        claimed = self._claimed_end()
        try:
            self._container.seek(claimed, stream=self._stream)
        except (av.error.FFmpegError, OverflowError):  # GIFs have no index
            self._container.seek(0, stream=self._stream)
        base, count = self._stream.time_base, 0
        end: int | None = None
        assert base is not None
        with refusing(_UNREADABLE, f"{self.path} is cut short"):
            for packet in self._container.demux(self._stream):
                if packet.size and packet.pts is not None:
                    end = max(end or 0, packet.pts + (packet.duration or 0))
                count += packet.size > 0
                require(count <= MOST_ROWS, f"{self.path} has more than {MOST_ROWS:,} frames")
        if end is None:
            raise FormatError(f"{self.path} is cut short")
        return float(end * base), count

    def _claimed_end(self) -> int:
        """The end of the video by its header, in units of the stream."""
        base = self._stream.time_base
        assert base is not None
        start = self._stream.start_time or 0
        if self._stream.duration:
            return int(start + self._stream.duration)
        if self._container.duration:
            return int(start + self._container.duration / av.time_base / base)
        return int(start + _LONGEST_S / base)

    # --- frames ------------------------------------------------------------------------------------------------------

    def _beginning_at(self, time: float) -> Iterator[av.VideoFrame]:
        """Frames from the one that is on show at `time` [s from the first frame], or from an earlier one."""
        if self._first is None:
            frames = self._decode()
            self._first = next(frames, None)
            if self._first is None:
                raise FormatError(f"{self.path} has no frame that can be decoded")
            if time <= _NO_SEEK_S:
                yield self._first
                yield from frames
                return
        base, start = self._stream.time_base, self._time(self._first)
        assert base is not None
        for back in _FURTHER_BACK:
            try:
                self._container.seek(max(0, int((start + time - back) / base)), stream=self._stream)
            except av.error.FFmpegError:  # no index
                break
            frames = self._decode()
            found = next(frames, None)
            if found is not None and self._since_start(found) <= time:
                yield found
                yield from frames
                return
        self._container.seek(0, stream=self._stream, any_frame=True)
        yield from self._decode()

    def _decode(self) -> Iterator[av.VideoFrame]:
        """Frames from here on. Frames without a time stamp follow each other at the average rate."""
        base = self._stream.time_base
        assert base is not None
        rate = self._stream.average_rate or self._stream.guessed_rate or 25
        period, following = max(1, round(1 / (rate * base))), 0
        for frame in self._container.decode(self._stream):
            if frame.pts is None:
                frame.pts = following if frame.dts is None else frame.dts
            following = frame.pts + (frame.duration or period)
            yield frame

    def _time(self, frame: av.VideoFrame) -> float:
        assert self._stream.time_base is not None and frame.pts is not None
        return float(frame.pts * self._stream.time_base)

    def _since_start(self, frame: av.VideoFrame) -> float:
        assert self._first is not None
        return self._time(frame) - self._time(self._first)

    def _length(self, frame: av.VideoFrame) -> float:
        """How long a last frame is on show at most [s]. Rounded time stamps make it appear shorter."""
        assert self._stream.time_base is not None
        rate = float(self._stream.average_rate or self._stream.guessed_rate or 25)
        return max(float((frame.duration or 0) * self._stream.time_base), 1 / rate) + 0.5 / rate

    def _upright(self, frame: av.VideoFrame) -> NDArray[np.uint8]:
        """The frame in RGB with 8 bits, turned as its display matrix says."""
        require(frame.height * frame.width <= MOST_PIXELS, f"{self.path} has {frame.width} x {frame.height} pixels")
        picture = frame.to_ndarray(format="rgb24")
        return np.asarray(np.rot90(picture, round(frame.rotation / 90)), np.uint8)

"""Frames by their times, in every container and codec, and files that are no videos."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.worldmodel.data.videos.making import draw, number_of, write_hostile, write_video
from worldmodel.data.formats.source import FormatError
from worldmodel.data.videos.decoding import Video, container_of

KINDS: dict[str, dict[str, Any]] = {
    "h264.mp4": {},
    "sparse.mp4": {"frames": 200, "gap": 100},
    "hevc.mp4": {"codec": "libx265"},
    "ten_bits.mp4": {"codec": "libx265", "pixels": "yuv420p10le"},
    "av1.mp4": {"codec": "libsvtav1", "size": (64, 64)},
    "mpeg4.avi": {"codec": "mpeg4"},
    "vp9.webm": {"codec": "libvpx-vp9"},
    "vp8.webm": {"codec": "libvpx"},
    "full_chroma.mkv": {"codec": "ffv1", "pixels": "yuv444p"},
    "odd.mkv": {"codec": "ffv1", "pixels": "bgr0", "size": (47, 61)},
    "motion.mov": {"codec": "mjpeg", "pixels": "yuvj420p"},
    "gif.gif": {"codec": "gif", "pixels": "rgb8", "rate": 10},
}


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("videos")
    for name, options in KINDS.items():
        write_video(folder / name, **options)
    return folder


@pytest.mark.parametrize("name", KINDS)
def test_every_kind_of_video_has_its_frames_where_they_belong(videos: Path, name: str) -> None:
    frames, rate = KINDS[name].get("frames", 24), KINDS[name].get("rate", 12)
    size = KINDS[name].get("size", (48, 64))
    with Video(videos / name) as video:
        facts = video.facts()
    assert (facts.height, facts.width) == size
    assert facts.rate_hz == pytest.approx(rate, rel=0.01)
    assert facts.duration_s == pytest.approx(frames / rate, rel=0.02)
    wanted = [0, 1, 5, 5, 13, frames - 1]
    for first in (0, 3):  # from the beginning, and after a seek
        with Video(videos / name) as video:
            pictures = list(video.frames_at([(n + 0.5) / rate for n in wanted[first:]]))
        assert [number_of(p) for p in pictures] == [n % 28 for n in wanted[first:]]


@settings(max_examples=20, deadline=None)
@given(st.lists(st.integers(0, 199), min_size=1, max_size=5))
def test_a_seek_finds_the_same_frames_as_reading_all(videos: Path, numbers: list[int]) -> None:
    with Video(videos / "sparse.mp4") as video:
        pictures = list(video.frames_at([(n + 0.5) / 12 for n in sorted(numbers)]))
    assert [number_of(p) for p in pictures] == [n % 28 for n in sorted(numbers)]


def test_a_variable_rate_is_shown_as_a_player_shows_it(tmp_path: Path) -> None:
    path = write_video(tmp_path / "variable.mkv", frames=4, codec="ffv1", pixels="bgr0", times=[0, 1, 10, 11])
    with Video(path) as video:
        pictures = list(video.frames_at([t / 12 for t in (0.5, 1.5, 5.5, 9.5, 10.5, 11.5)]))
    assert [number_of(p) for p in pictures] == [0, 1, 1, 1, 2, 3]


@pytest.mark.parametrize("angle", [90, 180, 270])
def test_a_rotated_video_is_upright(tmp_path: Path, angle: int) -> None:
    with Video(write_video(tmp_path / "turned.mp4", rotation=angle)) as video:
        facts = video.facts()
        picture = next(video.frames_at([0.0]))
    assert picture.shape == (facts.height, facts.width, 3)
    expected = np.rot90(draw(0, 48, 64), angle // 90)
    assert np.abs(picture.astype(int) - expected).mean() < 8


def test_beyond_the_end_is_refused(videos: Path) -> None:
    with Video(videos / "h264.mp4") as video, pytest.raises(FormatError, match=r"has no frame at 3\.000 s"):
        list(video.frames_at([1.9, 3.0]))


def test_what_is_no_video_is_refused_with_its_reason(tmp_path: Path) -> None:
    for name, reason in write_hostile(tmp_path).items():
        path = tmp_path / name
        with pytest.raises((FormatError, ValueError, OSError)) as caught, Video(path) as video:
            video.facts()
        if path.is_file():
            assert reason in str(caught.value) and name in str(caught.value)


def test_the_content_decides_on_the_container_and_not_the_name(videos: Path, tmp_path: Path) -> None:
    renamed = tmp_path / "renamed.mp4"
    renamed.write_bytes((videos / "vp9.webm").read_bytes())
    with Video(renamed) as video:
        assert video.facts().width == 64
    assert container_of(b"#EXTM3U\nhttp://") is None
    assert container_of(b"") is None

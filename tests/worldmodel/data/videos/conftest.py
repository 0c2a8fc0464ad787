"""Workers and a folder of videos for all tests here, since a worker takes a second to start."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.worldmodel.data.videos.making import write_hostile, write_video
from worldmodel.data.videos.workers import Workers


@pytest.fixture(scope="session")
def workers() -> Iterator[Workers]:
    with Workers(1, patience_s=60.0) as started:
        yield started


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five videos of other sizes, rates and codecs, and the files of `write_hostile`."""
    place = tmp_path_factory.mktemp("folder")
    write_video(place / "a.mp4", frames=28, seed=1)
    write_video(place / "b" / "long.mp4", frames=96, rate=24, size=(64, 48), gap=12, seed=2)
    write_video(place / "b" / "c.webm", codec="libvpx-vp9", rate=8, seed=3)
    write_video(place / "d.avi", codec="mpeg4", size=(96, 96), seed=4)
    write_video(place / "short.gif", codec="gif", pixels="rgb8", frames=5, rate=10)
    write_hostile(place / "hostile")
    return place

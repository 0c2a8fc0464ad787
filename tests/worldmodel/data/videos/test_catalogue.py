"""The survey of a folder: what is left out and why, its identity, and what a second survey does again."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.worldmodel.data.videos.making import write_hostile, write_video
from worldmodel.core.errors import RunStopped, UserError
from worldmodel.data.videos import catalogue as module
from worldmodel.data.videos.catalogue import survey
from worldmodel.data.videos.workers import Workers


def test_every_hostile_file_is_counted_and_every_video_is_measured(
    folder: Path, workers: Workers, tmp_path: Path
) -> None:
    shown: list[tuple[int, int]] = []
    found = survey(folder, None, tmp_path / "c.sqlite", workers, lambda done, total: shown.append((done, total)))
    names = [str(found.path(n).relative_to(folder)) for n in range(len(found))]
    assert names == ["a.mp4", "b/c.webm", "b/long.mp4", "d.avi", "short.gif"]
    assert found.durations_s.tolist() == pytest.approx([28 / 12, 3, 4, 2, 0.5], rel=0.02)
    assert found.rates_hz.tolist() == pytest.approx([12, 8, 24, 12, 10], rel=0.01)
    assert found.refused.total() == 10 and found.refused["is no file"] == 2
    line = found.describe()
    assert line.startswith("5 videos of 0.00 hours; 10 of 15 files are left out (is no file: 2, ") and "\n" not in line
    assert shown[-1] == (15, 15)
    found.close()


def test_a_second_survey_looks_only_at_what_is_new(
    workers: Workers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, file = tmp_path / "videos", tmp_path / "c.sqlite"
    write_video(source / "a.mp4")
    write_video(source / "b.mp4", frames=12)
    looked: list[str] = []
    look = module._look

    def spy(of: Any, among: Workers) -> Any:
        looked.append(of.path.name)
        return look(of, among)

    monkeypatch.setattr(module, "_look", spy)

    def identity() -> str:
        found = survey(source, None, file, workers)
        found.close()
        return found.identity

    first = identity()
    assert identity() == first and sorted(looked) == ["a.mp4", "b.mp4"]
    os.utime(source / "a.mp4", ns=(1, 1))
    assert identity() == first and sorted(looked) == ["a.mp4", "a.mp4", "b.mp4"]
    write_video(source / "b.mp4", frames=13)
    second = identity()
    assert second != first
    (source / "a.mp4").unlink()
    assert identity() not in (first, second)
    # The place of the folder is no part of the identity, and neither is the catalogue's file.
    third = identity()
    moved = source.rename(tmp_path / "moved")
    found = survey(moved, None, tmp_path / "other.sqlite", workers)
    found.close()
    assert found.identity == third


def test_the_survey_of_another_run_changes_nothing_for_this_one(workers: Workers, tmp_path: Path) -> None:
    write_video(tmp_path / "videos" / "b.mp4")
    file = tmp_path / "c.sqlite"
    mine = survey(tmp_path / "videos", None, file, workers)
    write_video(tmp_path / "videos" / "a.mp4")
    theirs = survey(tmp_path / "videos", None, file, workers)
    assert [theirs.path(n).name for n in range(2)] == ["a.mp4", "b.mp4"]
    assert mine.path(0).name == "b.mp4"
    mine.close()
    theirs.close()


def test_a_damaged_catalogue_is_made_anew(workers: Workers, tmp_path: Path) -> None:
    write_video(tmp_path / "videos" / "a.mp4")
    (tmp_path / "c.sqlite").write_bytes(b"no database" * 1000)
    found = survey(tmp_path / "videos", None, tmp_path / "c.sqlite", workers)
    assert len(found) == 1
    found.close()


def test_without_a_video_that_can_be_read_there_is_one_clear_error(workers: Workers, tmp_path: Path) -> None:
    write_hostile(tmp_path / "videos")
    with pytest.raises(UserError, match=r"none of the 10 files of .* is a video that can be read: .*"):
        survey(tmp_path / "videos", None, tmp_path / "c.sqlite", workers)
    shutil.rmtree(tmp_path / "videos")
    (tmp_path / "videos").mkdir()
    with pytest.raises(UserError, match=r"has no video: expected files of \.avi, \.gif"):
        survey(tmp_path / "videos", None, tmp_path / "c.sqlite", workers)


def test_a_catalogue_that_cannot_be_written_ends_in_one_line(workers: Workers, tmp_path: Path) -> None:
    write_video(tmp_path / "videos" / "a.mp4")
    with pytest.raises(RunStopped, match="cannot be written"):
        survey(tmp_path / "videos", None, tmp_path / "nowhere" / "c.sqlite", workers)

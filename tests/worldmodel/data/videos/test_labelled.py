"""Classes of videos, their splits, the frames that are shown, and points."""

from __future__ import annotations

import json
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.worldmodel.data.videos.making import number_of, write_video
from worldmodel.core.errors import UserError
from worldmodel.data.videos.catalogue import survey
from worldmodel.data.videos.labelled import (
    LabelledClips,
    LabelledConfig,
    labels_of,
    read_points,
    split_places,
    take_part,
)
from worldmodel.data.videos.listing import find_listed
from worldmodel.data.videos.workers import Workers


@given(
    st.integers(1, 20), st.integers(1, 8), st.integers(1, 4), st.integers(2, 400), st.sampled_from([8.0, 12.5, 29.97])
)
def test_times_lie_within_the_video_in_the_middle_of_its_frames(
    frames: int, stride: int, segments: int, count: int, rate: float
) -> None:
    config = LabelledConfig(frames=frames, stride=stride, segments=segments)
    times = config.times(count / rate, rate)
    assert times.shape == (segments, frames)
    assert (np.diff(times, axis=1) >= 0).all()
    assert times.min() >= 0 and times.max() <= (count - 0.5) / rate + 1e-9
    numbers = times * rate - 0.5
    np.testing.assert_allclose(numbers, np.round(numbers), atol=1e-4)
    if segments == 1 and (frames - 1) * stride + 1 <= count:
        np.testing.assert_allclose(np.diff(numbers), stride, atol=1e-4)
        before, after = numbers[0, 0], count - 1 - numbers[0, -1]
        assert abs(before - after) <= 1 + 1e-4, "a clip is in the middle"


def test_a_clip_as_long_as_the_video_shows_all_of_it() -> None:
    times = LabelledConfig(frames=8, stride=1).times(1.0, 8.0)
    np.testing.assert_allclose(times[0], (np.arange(8) + 0.5) / 8)


@pytest.mark.parametrize(
    "changes", [{"frames": 0}, {"stride": 0}, {"stride_s": 0.0}, {"segments": 0}, {"size": 4096}, {"patience_s": 0.0}]
)
def test_other_clips_are_refused(changes: dict) -> None:
    with pytest.raises(ValueError, match=next(iter(changes))):
        LabelledConfig(**changes)


def test_lists_give_labels(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("v/1.mp4 17\nv/2.mp4::two words\nv/3.mp4\n")
    assert [video.label for video in find_listed(tmp_path / "a.csv")] == ["17", "two words", None]
    (tmp_path / "k.csv").write_text("label,youtube_id,time_start,time_end,split\nriding a bike,abc,2,12,train\n")
    assert [video.label for video in find_listed(tmp_path / "k.csv")] == ["riding a bike"]
    entries = [{"id": "1", "template": "Holding [something] up"}, {"id": "2"}]
    (tmp_path / "s.json").write_text(json.dumps(entries))
    assert [video.label for video in find_listed(tmp_path / "s.json")] == ["Holding something up", None]
    (tmp_path / "s.csv").write_text("78687;Holding something\n42326\n")
    assert [video.label for video in find_listed(tmp_path / "s.csv")] == ["Holding something", None]


def test_splits_are_folders_or_given_or_taken(tmp_path: Path) -> None:
    assert split_places(tmp_path, None, Path("t")) == {"train": tmp_path, "val": None, "test": Path("t")}
    for name in ("train", "validation"):
        (tmp_path / name).mkdir()
    inside = {"train": tmp_path / "train", "val": tmp_path / "validation", "test": None}
    assert split_places(tmp_path, None, None) == inside
    assert split_places(tmp_path, Path("v"), None)["val"] == Path("v")


def test_a_part_has_the_same_share_of_every_class() -> None:
    rows, labels = np.arange(100, 130), np.repeat([0, 1], [10, 20])
    rest, part = take_part(rows, labels, 0.2, seed=0)
    assert len(np.intersect1d(rest, part)) == 0
    np.testing.assert_array_equal(np.union1d(rest, part), rows)
    assert [int((part < 110).sum()), int((part >= 110).sum())] == [2, 4]
    np.testing.assert_array_equal(take_part(rows, labels, 0.2, seed=0)[1], part)
    assert not np.array_equal(take_part(rows, labels, 0.2, seed=1)[1], part)
    with pytest.raises(UserError, match="too few to hold"):
        take_part(rows[:1], labels[:1], 0.2, seed=0)


def test_classes_and_clips_of_a_folder_and_of_a_list(tmp_path: Path, workers: Workers) -> None:
    place = tmp_path / "data"
    write_video(place / "walking" / "x" / "a.mp4", frames=12)
    write_video(place / "running" / "b.mp4", frames=3)
    (tmp_path / "list.txt").write_text("data/running/b.mp4 4\ndata/walking/x/a.mp4 2\n")
    config = LabelledConfig(frames=4, stride=2, size=32)
    for source, wanted in ((place, ["running", "walking"]), (tmp_path / "list.txt", ["4", "2"])):
        with closing(survey(source, None, tmp_path / "videos.sqlite", workers)) as catalogue:
            assert labels_of(source, None, catalogue) == wanted
            clips = LabelledClips(catalogue, config, workers)
            found = clips[np.array([0, 1])]
            assert found.shape == (2, 4, 32, 32, 3)
            shown = [[number_of(frame) for frame in clip] for clip in found]
            assert shown == [[0, 2, 2, 2], [2, 4, 6, 8]]
            assert [clips.frame_numbers(video).tolist() for video in (0, 1)] == shown


def test_a_video_without_a_class_is_refused(tmp_path: Path, workers: Workers) -> None:
    write_video(tmp_path / "a.mp4", frames=3)
    (tmp_path / "list.txt").write_text("a.mp4\n")
    for source, expected in ((tmp_path, "a folder for every class"), (tmp_path / "list.txt", "path 3")):
        catalogue = survey(source, None, tmp_path / "v.sqlite", workers)
        with closing(catalogue), pytest.raises(UserError, match=expected):
            labels_of(source, None, catalogue)


def test_points_are_those_of_the_frames_that_are_shown(tmp_path: Path, workers: Workers) -> None:
    write_video(tmp_path / "c" / "a.mp4", frames=6)
    lines = [f"c/a.mp4,{t},{t / 10},0.5,{t % 2}" for t in range(6)]
    head = "path,frame,x,y,visible"
    with closing(survey(tmp_path, None, tmp_path / "v.sqlite", workers)) as catalogue:
        clips = LabelledClips(catalogue, LabelledConfig(frames=3, stride=2, size=32), workers)
        with pytest.raises(UserError, match="no points at"):
            read_points(tmp_path, catalogue, clips)
        file = tmp_path / "points.csv"
        file.write_text("\n".join([head, *lines]))
        found = read_points(tmp_path, catalogue, clips)
        np.testing.assert_allclose(found, [[[0.0, 0.5, 0], [0.2, 0.5, 0], [0.4, 0.5, 0]]])
        for wrong, message in (
            ([head, *lines[:3]], "no point for frame 4 of c/a.mp4"),
            (lines, "does not begin with the line path,frame"),
            ([head, "c/a.mp4,0,nan,0,1"], "line 2 of"),
            ([head, "c/a.mp4,0,0.5"], "line 2 of"),
        ):
            file.write_text("\n".join(wrong))
            with pytest.raises(UserError, match=message):
                read_points(tmp_path, catalogue, clips)

"""Folders, and lists in the forms in which data sets publish them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from worldmodel.core.errors import UserError
from worldmodel.data.videos.listing import find_videos


def touch(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    return path


def test_a_folder_is_searched_to_its_end_and_no_folder_twice(tmp_path: Path) -> None:
    wanted = {touch(tmp_path / name) for name in ("a.mp4", "b/c.WEBM", "b/d/e.avi", "f.gif")}
    touch(tmp_path / "notes.txt")
    (tmp_path / "b" / "again").symlink_to(tmp_path)
    found = list(find_videos(tmp_path))
    assert sorted(found) == sorted(wanted)


@pytest.mark.parametrize(
    ("line", "path"),
    [
        ("v/1.mp4 17", "v/1.mp4"),
        ("v/riding a bike/1.mp4 17", "v/riding a bike/1.mp4"),
        ("v/1.mp4::a caption with words", "v/1.mp4"),
        ('"v/1.mp4" 17', "v/1.mp4"),
        ("v/1.mp4,17", "v/1.mp4"),
        ("v/1.mp4\t-1", "v/1.mp4"),
        ("v/only a path.mp4", "v/only a path.mp4"),
    ],
)
def test_lists_of_paths_and_labels(tmp_path: Path, line: str, path: str) -> None:
    (tmp_path / "list.csv").write_text(f"{line}\n\n{line}\n")
    assert list(find_videos(tmp_path / "list.csv")) == [tmp_path / path] * 2
    assert next(iter(find_videos(tmp_path / "list.csv", Path("/elsewhere")))) == Path("/elsewhere") / path


def test_an_absolute_path_stays(tmp_path: Path) -> None:
    (tmp_path / "list.csv").write_text("/data/k400/1.mp4 3\n")
    assert list(find_videos(tmp_path / "list.csv")) == [Path("/data/k400/1.mp4")]


def test_kinetics(tmp_path: Path) -> None:
    first = touch(tmp_path / "train" / "riding a bike" / "abc-_1_000002_000012.mp4")
    second = touch(tmp_path / "dEf_000010_000020.mkv")
    (tmp_path / "train.csv").write_text(
        "label,youtube_id,time_start,time_end,split\n"
        "riding a bike,abc-_1,2,12,train\n"
        "yoga,dEf,10,20,train\n"
        "yoga,gone,0,10,train\n"
    )
    missing = tmp_path / "gone_000000_000010.mp4"
    assert list(find_videos(tmp_path / "train.csv")) == [first, second, missing]


def test_something_something(tmp_path: Path) -> None:
    first = touch(tmp_path / "20bn-something-something-v2" / "78687.webm")
    second = touch(tmp_path / "42326.webm")
    (tmp_path / "train.json").write_text(
        json.dumps([{"id": "78687", "label": "holding", "placeholders": ["a cup"]}, {"id": "42326"}])
    )
    (tmp_path / "test.csv").write_text("78687;Holding something\n42326\n")
    for name in ("train.json", "test.csv"):
        assert list(find_videos(tmp_path / name)) == [first, second]


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("a.json", "{", "cannot be read as a list of videos"),
        ("a.json", '[{"id": "../x"}]', "is no list of videos"),
        ("a.csv", "x" * 20_000, "line 1 of"),
        ("a.csv", "label,youtube_id,time_start,time_end\nyoga,abc,x,y\n", "expected those of Kinetics"),
    ],
)
def test_other_lists_are_refused(tmp_path: Path, name: str, content: str, expected: str) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(UserError, match=expected):
        list(find_videos(tmp_path / name))


def test_nothing_there(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="nothing is at"):
        find_videos(tmp_path / "gone.csv")

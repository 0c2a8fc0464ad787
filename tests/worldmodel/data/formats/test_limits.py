"""Paths stay inside, templates are no programs, and numbers are what they should be."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worldmodel.data.formats.limits import (
    check_row,
    fill_template,
    fingerprint,
    inside,
    natural,
    read_json,
    whole_number,
)
from worldmodel.data.formats.source import FormatError

VALUES = {"chunk_index": 3, "video_key": "top"}


def test_templates_as_lerobot_writes_them() -> None:
    template = "videos/{video_key}/chunk-{chunk_index:03d}/{chunk_index}.mp4"
    assert fill_template(template, "here", **VALUES) == "videos/top/chunk-003/3.mp4"


@pytest.mark.parametrize(
    "template",
    [
        "{chunk_index.__class__}",
        "{video_key:03d}",
        "{other}",
        "{chunk_index!r}",
        "{",
        "{chunk_index:0999999d}",
        None,
        7,
    ],
)
def test_other_templates_are_refused(template: object) -> None:
    with pytest.raises(FormatError, match="here"):
        fill_template(template, "here", **VALUES)


@given(st.text(max_size=60))
def test_a_filled_template_never_leaves_the_folder(tmp_path_factory: pytest.TempPathFactory, template: str) -> None:
    root = tmp_path_factory.getbasetemp() / "root"
    root.mkdir(exist_ok=True)
    try:
        found = inside(root, fill_template(template, "here", **VALUES), "here")
    except FormatError:
        return
    assert found.resolve().is_relative_to(root.resolve())


@pytest.mark.parametrize("relative", ["../secret", "/etc/passwd", "a/../../b", "", "a\0b"])
def test_paths_that_lead_out_are_refused(tmp_path: Path, relative: str) -> None:
    with pytest.raises(FormatError, match=r"info\.json leads out of"):
        inside(tmp_path, relative, "info.json")


def test_links_that_lead_out_are_refused(tmp_path: Path) -> None:
    root = tmp_path / "root"
    root.mkdir()
    (tmp_path / "secret").write_text("1")
    (root / "within").write_text("2")
    (root / "good").symlink_to("within")
    (root / "bad").symlink_to("../secret")
    (root / "loop").symlink_to("loop")
    assert inside(root, "good", "here").read_text() == "2"
    with pytest.raises(FormatError, match="link that leads out of"):
        inside(root, "bad", "here")
    with pytest.raises(FormatError, match="loop"):
        read_json(inside(root, "loop", "here"))


@pytest.mark.parametrize("value", [1.5, True, "3", None, -1, 11, float("nan"), 10**30])
def test_numbers_that_are_not_whole_or_too_large(value: object) -> None:
    with pytest.raises(FormatError, match="length is"):
        whole_number(value, 0, 10, "length")


def test_whole_numbers() -> None:
    assert [whole_number(value, 0, 10, "length") for value in (0, 10, 4.0)] == [0, 10, 4]


@pytest.mark.parametrize(
    ("shape", "image"), [((5000,), False), ((2**20, 2**20, 3), True), ((0,), False), ((-3,), False)]
)
def test_rows_that_no_robot_has(shape: tuple[int, ...], image: bool) -> None:
    with pytest.raises(FormatError, match="column has rows"):
        check_row(shape, image, "column")


@pytest.mark.parametrize("text", ["{", "[" * 100_000, "\xff"])
def test_broken_json(tmp_path: Path, text: str) -> None:
    (tmp_path / "info.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(FormatError, match=r"info\.json"):
        read_json(tmp_path / "info.json")


def test_frames_are_in_the_order_of_their_numbers() -> None:
    assert sorted(["f10.png", "f9.png", "f1.png", "e2.png"], key=natural) == ["e2.png", "f1.png", "f9.png", "f10.png"]


def test_a_fingerprint_tells_data_sets_apart(tmp_path: Path) -> None:
    for name, text in (("a", "one"), ("b", "two")):
        (tmp_path / name).write_text(text)
    files = [tmp_path / "a", tmp_path / "b"]
    before = fingerprint(tmp_path, files, files[:1])
    assert fingerprint(tmp_path, files[::-1], files[:1]) == before
    assert fingerprint(tmp_path, files[:1], files[:1]) != before
    (tmp_path / "a").write_text("six")
    assert fingerprint(tmp_path, files, files[:1]) != before

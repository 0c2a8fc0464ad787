"""Files that are replaced whole."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from worldmodel.core.errors import UserError
from worldmodel.core.files import appearing, regular_file, replacing, write_json


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_an_error_leaves_the_old_content(tmp_path: Path) -> None:
    path = tmp_path / "note"
    path.write_bytes(b"old")
    with pytest.raises(ZeroDivisionError), replacing(path) as file:
        file.write(b"half of the n")
        raise ZeroDivisionError
    assert path.read_bytes() == b"old"
    assert names_in(tmp_path) == ["note"]
    with replacing(path) as file:
        file.write(b"new")
        assert path.read_bytes() == b"old"
    assert path.read_bytes() == b"new"
    assert names_in(tmp_path) == ["note"]


def test_a_file_that_others_write_appears_whole_or_not(tmp_path: Path) -> None:
    path = tmp_path / "picture"
    with appearing(path) as partial:
        partial.write_bytes(b"whole")
        assert not path.exists()
    with pytest.raises(KeyboardInterrupt), appearing(path) as partial:
        partial.write_bytes(b"ha")
        raise KeyboardInterrupt
    assert path.read_bytes() == b"whole"
    with pytest.raises(FileNotFoundError, match="picture'"), appearing(path):
        pass  # nothing was written
    assert names_in(tmp_path) == ["picture"]


def test_what_a_kill_left_behind_is_overwritten_where_one_process_writes(tmp_path: Path) -> None:
    (tmp_path / "note.partial").write_bytes(b"half of a note that was longer than this one")
    with replacing(tmp_path / "note", one_writer=True) as file:
        file.write(b"new")
    assert (tmp_path / "note").read_bytes() == b"new"
    assert names_in(tmp_path) == ["note"]


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_what_the_operating_system_refuses_names_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    path = tmp_path / "note"
    path.write_bytes(b"old")
    with monkeypatch.context() as patch:
        patch.setattr(os, call, full)
        with pytest.raises(OSError, match=r"No space left on device") as caught, replacing(path) as file:
            file.write(b"new")
    assert caught.value.filename == str(path)
    assert path.read_bytes() == b"old"
    assert names_in(tmp_path) == ["note"]


def test_an_error_about_another_file_names_that_one(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError) as caught, replacing(tmp_path / "note"):
        (tmp_path / "missing").read_bytes()
    assert caught.value.filename == str(tmp_path / "missing")
    with pytest.raises(OSError, match=r"^no errno$"), replacing(tmp_path / "note"):
        raise OSError("no errno")


def test_json_is_replaced_whole(tmp_path: Path) -> None:
    path = tmp_path / "note.json"
    write_json({"a": 1}, path)
    with pytest.raises(TypeError):
        write_json({"a": object()}, path)
    assert json.loads(path.read_text()) == {"a": 1}


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir, lambda path: Path(path).symlink_to("/dev/zero")])
def test_what_is_no_file_is_refused_at_once(tmp_path: Path, make: Callable[[Path], Any]) -> None:
    make(tmp_path / "odd")
    with (
        pytest.raises(UserError, match="odd is a pipe, a device or a folder: expected a file"),
        regular_file(tmp_path / "odd", 100),
    ):
        pass


def test_a_file_has_a_size_that_is_expected(tmp_path: Path) -> None:
    (tmp_path / "some").write_bytes(b"12345")
    with regular_file(tmp_path / "some", 5) as file:
        assert file.read() == b"12345"
    with pytest.raises(UserError, match="some has 5 bytes: expected at most 4"), regular_file(tmp_path / "some", 4):
        pass
    with pytest.raises(FileNotFoundError), regular_file(tmp_path / "none", 4):
        pass

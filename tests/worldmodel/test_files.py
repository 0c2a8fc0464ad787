"""Files that are replaced whole."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from worldmodel.files import replacing, write_json


def test_an_error_leaves_the_old_content(tmp_path: Path) -> None:
    path = tmp_path / "note"
    path.write_bytes(b"old")
    with pytest.raises(ZeroDivisionError), replacing(path) as file:
        file.write(b"half of the n")
        raise ZeroDivisionError
    assert path.read_bytes() == b"old"
    with replacing(path) as file:
        file.write(b"new")
        assert path.read_bytes() == b"old"
    assert path.read_bytes() == b"new"
    assert [p.name for p in tmp_path.iterdir()] == ["note"]


def test_json_is_replaced_whole(tmp_path: Path) -> None:
    path = tmp_path / "note.json"
    write_json({"a": 1}, path)
    with pytest.raises(TypeError):
        write_json({"a": object()}, path)
    assert json.loads(path.read_text()) == {"a": 1}

"""A run's folder takes up the same command and refuses another."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worldmodel.core.errors import UserError
from worldmodel.training.runs import describe_run, first_difference, is_finished, open_run

DESCRIPTION = {"store": "abc", "trainer": {"steps": 10, "seed": 0}, "clips": {"strides": (1, 2)}}


def test_the_same_command_goes_on(tmp_path: Path) -> None:
    open_run(tmp_path / "run", DESCRIPTION)
    before = (tmp_path / "run" / "run.json").read_bytes()
    open_run(tmp_path / "run", copy.deepcopy(DESCRIPTION))
    assert (tmp_path / "run" / "run.json").read_bytes() == before


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"trainer": {"steps": 20, "seed": 0}}, "trainer.steps=10, this command asks for 20"),
        ({"store": "xyz"}, "holds a run on another recording, or on this one before more was recorded"),
        ({"clips": {"strides": (1, 3)}}, r"clips.strides=\[1, 2\], this command asks for \[1, 3\]"),
        ({"trainer": {"steps": 10}}, "trainer.seed=0, this command asks for None"),
        ({"extra": 1}, "extra=None, this command asks for 1"),
    ],
)
def test_another_command_is_refused_with_the_first_difference(
    tmp_path: Path, change: dict[str, Any], expected: str
) -> None:
    open_run(tmp_path, DESCRIPTION)
    (tmp_path / "training.pt").touch()
    with pytest.raises(UserError, match=expected) as caught:
        open_run(tmp_path, {**DESCRIPTION, **change})
    assert str(tmp_path) in str(caught.value)
    open_run(tmp_path, DESCRIPTION)


def test_a_run_of_which_no_step_is_kept_locks_nothing(tmp_path: Path) -> None:
    open_run(tmp_path, DESCRIPTION)
    other = {**DESCRIPTION, "store": "xyz"}
    open_run(tmp_path, other)
    (tmp_path / "scene").mkdir()
    (tmp_path / "scene" / "training.pt").touch()  # of a stage
    with pytest.raises(UserError, match="holds a run on another recording"):
        open_run(tmp_path, DESCRIPTION)
    open_run(tmp_path, other)


def test_a_damaged_description_is_refused(tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text("{")
    (tmp_path / "training.pt").touch()
    with pytest.raises(UserError, match=r"run\.json cannot be read.*start over"):
        open_run(tmp_path, DESCRIPTION)


def test_a_run_is_finished_by_its_checkpoint(tmp_path: Path) -> None:
    open_run(tmp_path, DESCRIPTION)
    assert not is_finished(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    assert is_finished(tmp_path)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=3),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text("abc", min_size=1, max_size=2), inner, max_size=3)
    ),
    max_leaves=8,
)


@given(value=json_values)
def test_nothing_differs_from_itself(value: Any) -> None:
    assert first_difference(value, copy.deepcopy(value)) is None


@given(
    old=st.dictionaries(st.sampled_from("abc"), st.integers()),
    new=st.dictionaries(st.sampled_from("abc"), st.integers()),
)
def test_the_first_difference_is_one(old: dict[str, int], new: dict[str, int]) -> None:
    found = first_difference(old, new)
    differing = sorted(key for key in set(old) | set(new) if old.get(key) != new.get(key))
    assert found == ((differing[0], old.get(differing[0]), new.get(differing[0])) if differing else None)


def test_a_description_has_no_password() -> None:
    told = describe_run(
        {"data": "https://me:secret@host/data.zarr", "out": "run", "trainer": {"steps": 1}}, store="abc"
    )
    assert told == {"data": "https://***@host/data.zarr", "trainer": {"steps": 1}, "store": "abc"}

"""Comparing two evaluations pair by pair."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from planning.evaluation.statistics import mcnemar_p, paired_bootstrap_interval
from tests.commands import assert_refused, assert_stopped, refuse_to_write, type_in


def write(folder: Path, name: str, outcomes: list[bool], **changes: Any) -> Path:
    """A result of planning.evaluate, as far as a comparison needs it."""
    names = ("success_any", "success_final", "half_any", "half_final")
    content = {
        "task": "push",
        "manifest_hash": "f00",
        "budget": 50,
        "simulator": "mujoco 3.11.0",
        "episodes": [dict.fromkeys(names, outcome) for outcome in outcomes],
        **changes,
    }
    (folder / name).mkdir()
    (folder / name / "results.json").write_text(json.dumps(content))
    return folder / name


# --- statistics ------------------------------------------------------------------------------------------------------


def test_mcnemar_is_a_fair_coin() -> None:
    assert mcnemar_p(0, 0) == 1.0
    assert mcnemar_p(5, 5) == 1.0
    assert mcnemar_p(6, 0) == pytest.approx(2 / 2**6)
    assert mcnemar_p(9, 1) == pytest.approx(2 * (1 + 10) / 2**10)
    with pytest.raises(ValueError, match="-1"):
        mcnemar_p(-1, 2)


@given(st.integers(0, 200), st.integers(0, 200))
def test_mcnemar_is_a_probability_and_does_not_care_who_is_who(a: int, b: int) -> None:
    assert 0 < mcnemar_p(a, b) == mcnemar_p(b, a) <= 1


def test_the_bootstrap_covers_the_true_difference_as_often_as_it_says() -> None:
    rng, covered = np.random.default_rng(0), 0
    for trial in range(200):
        a, b = rng.random((1, 100)) < 0.8, rng.random((1, 100)) < 0.6
        low, high = paired_bootstrap_interval(a, b, 300, trial)
        covered += low <= 0.2 <= high
    assert 0.88 <= covered / 200 <= 0.99


def test_the_same_pairs_make_the_interval_narrow() -> None:
    rng = np.random.default_rng(1)
    a = rng.random((1, 400)) < 0.7
    nearly = a.copy()
    nearly[0, :8] = False
    other = rng.permuted(nearly, axis=1)
    width = {}
    for name, b in (("paired", nearly), ("unpaired", other)):
        low, high = paired_bootstrap_interval(a, b, 500, 0)
        width[name] = high - low
    assert width["paired"] < 0.4 * width["unpaired"]


@pytest.mark.parametrize("shapes", [((1, 3), (1, 4)), ((3,), (3,)), ((1, 0), (1, 0))])
def test_outcomes_that_are_no_pairs_are_refused(shapes: tuple[tuple[int, ...], tuple[int, ...]]) -> None:
    a, b = (np.ones(shape, bool) for shape in shapes)
    with pytest.raises(ValueError, match="of one shape"):
        paired_bootstrap_interval(a, b, 100, 0)


# --- the command -----------------------------------------------------------------------------------------------------


def test_a_comparison_counts_pairs_over_trainings(tmp_path: Path) -> None:
    first = [write(tmp_path, f"a{i}", [True] * 8 + [False] * 2) for i in range(2)]
    second = [write(tmp_path, f"b{i}", [True] * 3 + [False] * 6 + [True]) for i in range(2)]
    lists = (f"{key}=[{','.join(map(str, paths))}]" for key, paths in (("a", first), ("b", second)))
    ended = type_in(tmp_path, "planning.compare", *lists, "out=found.json", "resamples=200")
    assert ended.code == 0, ended.err
    found = json.loads((tmp_path / "found.json").read_text())["outcomes"]["any step"]
    assert (found["a"]["value"], found["b"]["value"], found["difference"]) == pytest.approx((0.8, 0.4, 0.4))
    assert (found["a_only"], found["b_only"]) == (10, 2)
    assert found["p"] == pytest.approx(2 * sum(math.comb(12, k) for k in range(3)) / 2**12)
    assert found["low"] < 0.4 < found["high"]
    assert "2 x 10 attempts" in ended.out and "+40.0" in ended.out


def test_one_evaluation_is_as_good_as_a_list_of_one_and_a_file_as_its_folder(tmp_path: Path) -> None:
    a, b = write(tmp_path, "a", [True, False]), write(tmp_path, "b", [True, True])
    ended = type_in(tmp_path, "planning.compare", f"a={a}", f"b={b / 'results.json'}", "resamples=100")
    assert ended.code == 0 and "-50.0" in ended.out


@pytest.mark.parametrize(
    ("changes", "named"),
    [({"manifest_hash": "bad"}, "manifest_hash"), ({"budget": 49}, "49"), ({"task": "reacher"}, "reacher")],
)
def test_other_pairs_cannot_be_compared(tmp_path: Path, changes: dict[str, Any], named: str) -> None:
    a, b = write(tmp_path, "a", [True]), write(tmp_path, "b", [True], **changes)
    assert_refused(type_in(tmp_path, "planning.compare", f"a={a}", f"b={b}"), named)
    assert_refused(type_in(tmp_path, "planning.compare", f"a=[{a},{b}]", f"b=[{b},{a}]"), named)


def test_what_cannot_be_compared_is_refused(tmp_path: Path) -> None:
    a = write(tmp_path, "a", [True])
    assert_refused(type_in(tmp_path, "planning.compare", f"a={a}"), "b=None")
    assert_refused(type_in(tmp_path, "planning.compare", f"a=[{a},{a}]", f"b={a}"), "as many of each")
    assert_refused(
        type_in(tmp_path, "planning.compare", f"a={a}", "b=nowhere"), "nowhere does not exist: expected the folder"
    )
    assert_refused(type_in(tmp_path, "planning.compare", f"a={a}", f"b={a}", "resamples=9"), "resamples 9")
    (tmp_path / "a" / "results.json").write_text('{"episodes": []}')
    assert_refused(
        type_in(tmp_path, "planning.compare", f"a={a}", f"b={a}"),
        "is not a result of planning.evaluate: it has no task",
    )


def test_a_comparison_that_the_disk_has_no_room_for_leaves_the_old_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    a, b = (write(tmp_path, name, [name == "a"] * 5) for name in "ab")
    (tmp_path / "new.json").write_text("old")
    refuse_to_write(monkeypatch, "new.json")
    ended = type_in(tmp_path, "planning.compare", f"a={a}", f"b={b}", "out=new.json")
    assert_stopped(ended, "new.json: No space left on device")
    assert (tmp_path / "new.json").read_text() == "old"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a", "b", "new.json"]

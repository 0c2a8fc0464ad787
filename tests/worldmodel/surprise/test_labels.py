"""The file that says which episodes form pairs."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from worldmodel.core.errors import UserError
from worldmodel.data import TrajectoryStore
from worldmodel.surprise.labels import PairLabel, read_labels, write_labels

LABEL = PairLabel("vanish", "hidden", "vanishes", 0, 4, 5, 7)


def test_labels_come_back(tmp_path: Path, toy_store: TrajectoryStore) -> None:
    labels = (LABEL, dataclasses.replace(LABEL, scene=1, possible=1, impossible=23))
    write_labels(labels, toy_store, tmp_path / "pairs.json")
    assert read_labels(tmp_path / "pairs.json", toy_store) == labels


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"format_version": 2}, "does not describe pairs of format 1"),
        ({"store": "0" * 64}, "describes the pairs of another recording than"),
        ({"pairs": []}, "has no pairs"),
        ({"pairs": {}}, "has no pairs"),
        ({"pairs": [3]}, "has a pair 3: expected break_row, impossible, possible"),
        ({"pairs": [{**dataclasses.asdict(LABEL), "scene": -1}]}, "scene -1: expected a whole number"),
        ({"pairs": [{**dataclasses.asdict(LABEL), "possible": True}]}, "possible True: expected a whole number"),
        ({"pairs": [{**dataclasses.asdict(LABEL), "variant": 3}]}, "variant 3: expected text"),
        ({"pairs": [{**dataclasses.asdict(LABEL), "impossible": 24}]}, "names episode 24: .* has fewer"),
    ],
)
def test_what_describes_no_pairs_is_refused(
    tmp_path: Path, toy_store: TrajectoryStore, change: dict[str, Any], named: str
) -> None:
    path = tmp_path / "pairs.json"
    write_labels([LABEL], toy_store, path)
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(UserError, match=named):
        read_labels(path, toy_store)


def test_a_missing_file_says_what_makes_it(tmp_path: Path, toy_store: TrajectoryStore) -> None:
    with pytest.raises(UserError, match=r"no pairs at .*: `python -m envs\.physics_clips` makes them"):
        read_labels(tmp_path / "pairs.json", toy_store)

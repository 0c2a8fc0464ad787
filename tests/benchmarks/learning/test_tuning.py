"""The benchmark of tuned encoders: its options, and the figures that it takes from logs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.learning import tuning
from benchmarks.learning.tuning import FIGURES, TUNED, Options, folder, last_figures
from benchmarks.options import read_all
from worldmodel.core.errors import UserError
from worldmodel.models.tuning import TuningConfig


def test_options_have_the_types_of_their_defaults() -> None:
    given = read_all(Options, ["pairs=20", "data=runs/push/data.zarr"])
    assert given == Options(data="runs/push/data.zarr", pairs=20)
    with pytest.raises(UserError, match="did you mean pairs"):
        read_all(Options, ["pears=20"])
    with pytest.raises(UserError, match="pairs is 'many': expected a whole number"):
        read_all(Options, ["pairs=many"])


def test_every_kind_has_a_folder_of_its_own_and_is_an_option() -> None:
    places = {folder(encoder, tuned, seed) for encoder in ("a", "b") for tuned in TUNED for seed in (0, 1)}
    assert len(places) == 4 * len(TUNED)
    assert [TuningConfig(tuned).is_on for tuned in TUNED] == [False, True, True]


def test_the_last_figure_of_every_log_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tuning, "RUNS", tmp_path)
    for name, place in FIGURES.items():
        log = tmp_path / "a_all_0" / "model" / place / "log.jsonl"
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("a") as file:
            for value in (0.1, 0.5, None):
                file.write(json.dumps({"step": 1, name: value}) + "\n")
    assert last_figures(folder("a", "all", 0)) == dict.fromkeys(FIGURES, 0.5)

"""The table of probes is made of the figures that the commands write."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.learning.probes import POINTS, Options, begin, figures_file, table
from benchmarks.options import read_all
from worldmodel.core.errors import UserError


def test_options_are_read_or_refused() -> None:
    options = read_all(Options, ["seeds=2", "arms=vjepa,random", "tasks=order"])
    assert (options.seeds, options.arm_names, options.task_names) == (2, ["vjepa", "random"], ["order"])
    for wrong, message in (
        ("seed=2", "did you mean seeds"), ("seeds=two", "a whole number"), ("arms=rando", "did you mean random"),
        ("tasks=ordr", "did you mean order"), ("test=0", "at least 1"), ("distractors=no", "true or false"),
    ):  # fmt: skip
        with pytest.raises(UserError, match=message):
            read_all(Options, [wrong])


def test_means_and_differences_are_those_of_the_clips(tmp_path: Path) -> None:
    options = read_all(Options, ["seeds=1", "test=4", "arms=vjepa,random", f"tasks=order,{POINTS}", f"runs={tmp_path}"])
    for name, right, errors in (
        ("vjepa", [1, 1, 1, 1], [0.0, None, 0.25, 0.5]),
        ("random", [0] * 4, [0.5, None, 0.75, 1]),
    ):
        for task, numbers in (("order", {"right": right}), (POINTS, {"errors": errors})):
            path = figures_file(options, name, 0, task)
            path.parent.mkdir(exist_ok=True)
            path.write_text(json.dumps({"probes": {"linear": numbers, "attentive": numbers}}))
    lines = table(options).splitlines()
    assert lines[2] == "| order [%] | linear | V-JEPA, spatial masks, joint attention | 100.0 (100.0 to 100.0) |  |"
    assert lines[3].endswith("| random weights | 0.0 (0.0 to 0.0) | 100.0 (100.0 to 100.0) |")
    assert "| 16.0 (" in lines[6] and lines[7].endswith("| -32.0 (-32.0 to -32.0) |")


def test_figures_of_other_sizes_are_not_mixed(tmp_path: Path) -> None:
    begin(read_all(Options, ["test=4", f"runs={tmp_path}"]))
    begin(read_all(Options, ["test=4", "seeds=1", f"runs={tmp_path}"]))
    with pytest.raises(UserError, match="figures with test=4, not 5"):
        begin(read_all(Options, ["test=5", f"runs={tmp_path}"]))

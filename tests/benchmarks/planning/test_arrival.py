"""Reports that the goal is reached are counted by the distance that makes them."""

from __future__ import annotations

import pytest

from benchmarks.planning.arrival import Options, _report, read
from planning.evaluation.watched import WatchedRun
from worldmodel.core.errors import UserError


def test_reports_are_counted_for_several_distances(capsys: pytest.CaptureFixture[str]) -> None:
    right = WatchedRun(0, True, False, {}, [0.3, 0.04], [False, True])
    early = WatchedRun(1, True, False, {}, [0.09, 0.04], [False, True])
    broken = WatchedRun(2, False, True, {}, [0.01], [False])
    _report("here", [right, early, broken], 0.05)
    told = " ".join(capsys.readouterr().out.split())
    assert "here: 2 of 3 runs reached their goal" in told
    assert "distance 0.05, the model's own: right in 2 of 2 runs in which it is said, 100.0%" in told
    assert "distance 0.1: right in 1 of 2 runs" in told, "the other one says it too early"


def test_own_options_are_read_beside_those_of_the_command() -> None:
    own, config = read(["env=reacher", "n=7", "shift=all", "budget=9"])
    assert own == Options(7, "all") and config["budget"] == 9 and config["env"]["name"] == "reacher"
    for argument, message in (
        ("n=x", "option n is 'x': expected a whole number"),
        ("n=0", "n=0: expected a number from 1 up"),
    ):
        with pytest.raises(UserError, match=message):
            read([argument])

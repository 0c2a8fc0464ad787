"""An evaluation in shards, joined by the same command without them, is the evaluation in one piece."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.planning.test_commands import SMALL, Command

# What is measured anew by every command.
TIMES = {"plan_ms_median", "plan_ms_p99", "batched_plans_per_s"}


def results(path: Path) -> dict[str, Any]:
    return {key: value for key, value in json.loads(path.read_text()).items() if key not in TIMES}


def test_joined_shards_are_the_whole_evaluation(call: Command, checkpoint: Path) -> None:
    arguments = ["manifest.seed=0", "manifest.n=5", "budget=3", "videos=0", "reality=2", *SMALL]
    arguments.append(f"checkpoint={checkpoint}")
    assert call("planning.evaluate", "out=whole", "batch=5", *arguments).code == 0
    logs = Path("runs/push/evaluate/episodes")
    shutil.rmtree(logs)
    for shard in ("2/2", "1/2"):  # the second first, as a scheduler may have it
        code, text, _ = call("planning.evaluate", f"shard={shard}", "out=none", "batch=2", *arguments)
        assert code == 0 and f"shard {shard}: {2 if shard == '1/2' else 3} of 5 pairs are logged in" in text
    assert not Path("none").exists()
    names = sorted(path.name.split("-")[0] + path.name.partition(".")[2] for path in logs.iterdir())
    assert {"model001-of-002.jsonl", "model002-of-002.jsonl"} <= set(names) and len(names) == 10
    before = {path: path.read_bytes() for path in logs.iterdir()}
    assert call("planning.evaluate", "out=joined", *arguments).code == 0
    assert {path: path.read_bytes() for path in logs.iterdir()} == before, "no episode ran again"
    assert results(Path("joined/results.json")) == results(Path("whole/results.json"))


def test_more_shards_than_pairs_leave_some_empty(call: Command, checkpoint: Path) -> None:
    given = ["manifest.seed=0", "manifest.n=1", "budget=2", "oracle=false", f"checkpoint={checkpoint}", *SMALL]
    code, text, _ = call("planning.evaluate", "shard=1/3", *given)
    assert code == 0 and "shard 1/3: 0 of 1 pairs" in text


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["shard=5/4"], "shard '5/4': expected a number and a count, from 1/64 to 64/64"),
        (["shard=1/4", "write_planner=true"], "write_planner=true with shard=1/4"),
    ],
)
def test_a_shard_that_makes_no_sense_is_refused(call: Command, arguments: list[str], part: str) -> None:
    code, _, error = call("planning.evaluate", *arguments)
    assert code == 2 and part in error and error.count("\n") == 1
    assert not Path("runs").exists()

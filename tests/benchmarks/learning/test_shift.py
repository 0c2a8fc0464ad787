"""The benchmark on the real pushing environment, with an untrained model of toy size."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from benchmarks.learning.shift import ShiftConfig, read_options
from benchmarks.learning.shift_report import Reference, Row, markdown
from envs.registry import describe, env_options, make_env
from planning.evaluation import episodes
from planning.evaluation.report import Rate, Summary
from planning.evaluation.shifts import SHIFTS
from tests.commands import Ended, assert_refused, type_in
from tests.planning.toy_model import save_model

SMALL = ["planner.options.samples=8", "planner.options.elites=2", "planner.options.iterations=1", "planner.horizon=3"]
RUN = ["manifest.seed=0", "n=3", "budget=2", "batch=2", "strengths=[middle,weak]", "shifts=[moved,light]", *SMALL]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    options = env_options("push")
    env = make_env(options)
    env.close()
    return save_model(tmp_path_factory.mktemp("checkpoint"), describe(env, options))


@pytest.fixture
def call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, checkpoint: Path) -> Callable[..., Ended]:
    """Type the benchmark in an empty folder, which is the working directory of the test too."""
    monkeypatch.chdir(tmp_path)
    return lambda *arguments: type_in(tmp_path, "benchmarks.learning.shift", f"checkpoint={checkpoint}", *arguments)


def summary(n: int, reached: int) -> Summary:
    rate = Rate.of([True] * reached + [False] * (n - reached))
    return Summary(n, rate, Rate.of([False] * n), rate, rate, {}, 0, 0)


def test_a_table_of_all_rows_is_printed_and_written(call: Callable[..., Ended]) -> None:
    code, text, _ = call(*RUN, "out=here")
    assert code == 0 and "on 3 pairs (seed 0" in text and "results: here/results.json" in text
    results = json.loads(Path("here/results.json").read_text())
    names = [(row["where"], row["shift"], row["strength"]) for row in results["rows"]]
    expected = [
        (where, shift, strength)
        for where in ("goal", "both")
        for shift in ("brighter", "darker", "moved")
        for strength in ("weak", "middle")
    ]
    assert names == expected and results["manifest_seed"] == 0 and results["no_shift"]["n"] == 3
    distances = {(row["where"], row["shift"], row["strength"]): row["latent_distance"] for row in results["rows"]}
    assert min(distances.values()) > 0
    # The goal image is the same, whether the live camera's images are shifted too or not.
    assert all(distances["goal", *name] == distances["both", *name] for _, *name in expected)
    lines = Path("here/table.md").read_text().splitlines()
    assert len(lines) == 3 + 2 + len(expected) and lines[0].startswith("| shift | amount | any step | at the end |")
    assert all(line.count("|") == lines[0].count("|") for line in lines)
    assert "| moved, weak | 1.5 % |" in lines[8] and "goal image" in text and "goal and camera" in text
    with Image.open("here/shifts.png") as sheet:
        assert sheet.width > 100 * len(SHIFTS)


@pytest.mark.slow
def test_it_goes_on_where_it_was_interrupted(call: Callable[..., Ended], monkeypatch: pytest.MonkeyPatch) -> None:
    whole, begun = episodes.rollout, 0

    def interrupted(*arguments: Any) -> Any:
        nonlocal begun
        begun += 1
        if begun == 4:  # batches of two and one pair: the second row's second
            raise KeyboardInterrupt
        return whole(*arguments)

    run = [*RUN, "where=goal", "strengths=middle"]
    unbroken = call(*run, "out=unbroken")
    for log in Path("runs/push/evaluate/episodes").iterdir():
        log.unlink()
    monkeypatch.setattr(episodes, "rollout", interrupted)
    code, text, _ = call(*run, "out=here")
    assert code == 130
    assert text.endswith("interrupted: what was finished is kept; the same command goes on from there\n")
    assert not Path("here/results.json").exists()
    begun = 4
    assert call(*run, "out=here").code == unbroken.code == 0
    assert begun == 4 + 5  # of eight batches, three were kept
    assert json.loads(Path("here/results.json").read_text()) == json.loads(Path("unbroken/results.json").read_text())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["shifts=[blurr]"], "unknown shift 'blurr': choose from"),
        (["strengths=[medium]"], "unknown strength 'medium': choose from middle, strong, weak"),
        (["where=live"], "unknown where 'live': choose from both, goal"),
        (["shifts=[]"], "shifts is empty: expected at least one"),
        (["n=0"], "n 0 and steps_ahead 25 must be at least 1"),
        (["n=many"], "n is 'many': expected a whole number"),
        (["where=[goal"], "option 'where=[goal' cannot be read"),
        (["manifest.n=5"], "option 'manifest.n=5' does not fit: n=100 says how many pairs"),
        (["bugdet=3"], "option 'bugdet=3' does not fit"),
        (["env=pussh"], "did you mean push?"),
        (["batch=0"], "batch=0"),
    ],
)
def test_what_cannot_be_used_is_refused_before_anything_is_written(
    call: Callable[..., Ended], arguments: list[str], message: str
) -> None:
    assert_refused(call(*arguments), message)
    assert list(Path().iterdir()) == []


def test_pairs_are_fresh_unless_the_user_says_otherwise() -> None:
    config, others = read_options(["env=push", "n=7"])
    assert (config, others) == (ShiftConfig(n=7), ["manifest.seed=404", "env=push", "manifest.n=7"])
    assert len(list(config.rows())) == len(SHIFTS) * 3 * 2


def test_the_ratio_is_to_what_is_reached_without_a_shift() -> None:
    reference = Reference(summary(10, 8))
    shares = [reference.share(summary(10, 4).success_any, name) for name in ("success_any", "success_final")]
    assert shares == [0.5, None]
    row = Row("moved", "weak", "1.5 %", "goal", summary(10, 4), *shares, 0.5)
    assert markdown(reference, [row]).splitlines()[2:] == [
        "| no shift |  | 80 (49-94) | 0 (0-28) | 1.00 / - | 0.00 |",
        "| goal image |  |  |  |  |  |",
        "| moved, weak | 1.5 % | 40 (17-69) | 0 (0-28) | 0.50 / - | 0.50 |",
    ]

"""Watched episodes end when they should, and keep what a monitor is calibrated from."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from planning.alarms import Check
from planning.evaluation.log import Resumed
from planning.evaluation.policies import WorldModelPolicy
from planning.evaluation.watched import RunLog, Until, WatchedRun, watch_all, watch_episodes
from planning.monitor import Monitor
from tests.planning.knowing_point import FailingPoint, KnowingPoint, draw_pairs
from tests.planning.test_controller import make_strategy

BUDGET = 30


def policy(reached_distance: float | None = None) -> WorldModelPolicy:
    model = KnowingPoint()
    watcher = Monitor(model, {}, 2, "go_on")
    return WorldModelPolicy(model, make_strategy(), torch.device("cpu"), reached_distance, watcher=watcher)


def watch(until: Until, reached_distance: float | None = None) -> WatchedRun:
    pairs = list(enumerate(draw_pairs(1, 5)))
    (run,) = watch_episodes([FailingPoint()], pairs, policy(reached_distance), BUDGET, until)
    assert run.reached and len(run.distance) == len(run.success)
    return run


def test_scores_end_with_success_and_distances_with_the_episode() -> None:
    short, long = watch(Until.SUCCESS), watch(Until.BUDGET)
    assert short.success == [False] * (short.steps - 1) + [True] and len(long.success) == BUDGET + 1
    assert long.scores == short.scores and long.distance[: short.steps] == short.distance
    assert set(short.peaks) == set(Check) and short.peaks[Check.STALL] == max(short.scores["stall"])


@pytest.mark.parametrize(("distance", "is_longer"), [(1.0, False), (1e-3, True)])
def test_an_episode_waits_until_the_model_has_said_it(distance: float, is_longer: bool) -> None:
    success, both = watch(Until.SUCCESS, distance), watch(Until.BOTH, distance)
    assert (len(both.distance) > len(success.distance)) is is_longer and len(both.distance) <= BUDGET
    assert min(both.distance) <= distance


def test_a_log_is_gone_on_from(tmp_path: Path) -> None:
    log, pairs = RunLog(tmp_path / "runs.jsonl"), draw_pairs(5, 5)
    first = watch_all([FailingPoint()], pairs[:2], policy(), BUDGET, log)
    heard = list[int]()
    runs = watch_all([FailingPoint(), FailingPoint()], pairs, policy(), BUDGET, log, lambda r: heard.append(len(r)))
    assert runs[:2] == first and [run.index for run in runs] == [0, 1, 2, 3, 4] and heard == [2, 4, 5]


def test_what_is_missing_comes_in_batches(tmp_path: Path) -> None:
    log = RunLog(tmp_path / "runs.jsonl")
    made = {index: WatchedRun(index, True, False, {"stall": [float(index)]}) for index in (3, 5, 8, 9)}
    log.append([made[5], made[9]])
    resumed = Resumed(log, [8, 5, 3])
    assert resumed.records == [made[5]] and list(resumed.batches(1)) == [[8], [3]]
    for batch in resumed.batches(2):
        assert batch == [8, 3]
        resumed.add([made[index] for index in batch])
    assert resumed.records == [made[8], made[5], made[3]] and list(resumed.batches(2)) == []
    assert RunLog(tmp_path / "runs.jsonl").read() == made

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from planning.controller import ControllerConfig
from planning.evaluation.episodes import Episode, EpisodeLog, run_all, run_batch
from planning.evaluation.latency import measure_plan_ms
from planning.evaluation.report import Rate, Summary
from planning.evaluation.statistics import wilson_interval
from planning.manifest import Pair, draw
from planning.objectives import ObjectiveConfig
from planning.optimisers.cem import CEM, CEMConfig
from planning.policies import NoOp, SimulatorPolicy, UniformRandom, WorldModelPolicy
from planning.registry import Planner
from planning.types import Bounds
from tests.planning.point_mass import PointEnv, PointModel

BOUNDS = Bounds(torch.tensor([-1.0, -1.0]), torch.tensor([1.0, 1.0]))
PLANNER = Planner(
    CEM(CEMConfig(samples=64, iterations=5, elites=8)), ObjectiveConfig(), ControllerConfig(horizon=3, history=3)
)
PAIRS = draw(PointEnv(), "sim 1.0", {}, 0, 5, steps_ahead=10).pairs


def world_model() -> WorldModelPolicy:
    return WorldModelPolicy(PointModel(), PLANNER, BOUNDS, torch.device("cpu"))


def test_planners_reach_what_floors_do_not(tmp_path: Path) -> None:
    envs = [PointEnv() for _ in range(3)]
    policies = [world_model(), SimulatorPolicy(envs, PLANNER, BOUNDS), NoOp(BOUNDS), UniformRandom(BOUNDS, 0)]
    summaries = [
        Summary.of(run_all(envs, PAIRS, policy, 20, EpisodeLog(tmp_path / f"{i}")), PointEnv.metrics)
        for i, policy in enumerate(policies)
    ]
    assert [s.success_final.value for s in summaries] == [1, 1, 0, 0]
    assert summaries[0].final_errors["position"] < 0.1 < summaries[2].final_errors["position"]


def test_outcomes_do_not_depend_on_the_batch(tmp_path: Path) -> None:
    outcomes = []
    for size in (1, 2, 5):
        log = EpisodeLog(tmp_path / str(size))
        outcomes.append(run_all([PointEnv() for _ in range(size)], PAIRS, world_model(), 12, log))
    assert outcomes[0] == outcomes[1] == outcomes[2]
    assert [e.index for e in outcomes[0]] == list(range(5))


class Interrupting(UniformRandom):
    """Acts at random until `batches` batches have begun."""

    def __init__(self, batches: int) -> None:
        super().__init__(BOUNDS, 0)
        self.batches = batches

    def reset(self, pairs: Sequence[Pair], goals: np.ndarray) -> None:
        if self.batches == 0:
            raise KeyboardInterrupt
        self.batches -= 1
        super().reset(pairs, goals)


def test_an_interrupted_run_goes_on_and_ends_like_an_unbroken_one(tmp_path: Path) -> None:
    envs = [PointEnv() for _ in range(2)]
    unbroken = run_all(envs, PAIRS, UniformRandom(BOUNDS, 0), 6, EpisodeLog(tmp_path / "unbroken"))
    log = EpisodeLog(tmp_path / "broken")
    with pytest.raises(KeyboardInterrupt):
        run_all(envs, PAIRS, Interrupting(2), 6, log)
    assert sorted(log.read()) == [0, 1, 2, 3]
    text = log.path.read_text()
    log.path.write_text(text[: len(text) - 20])  # killed in the middle of a line
    assert sorted(log.read()) == [0, 1, 2]
    heard: list[int] = []
    resumed = run_all(envs, PAIRS, Interrupting(1), 6, log, lambda steps, _: heard.append(steps))
    assert resumed == unbroken
    assert sum(heard) == 6 * len(PAIRS)


def test_a_diverged_episode_fails_at_the_end_and_spares_the_others() -> None:
    pairs = [Pair(0, (0.0, 0.0), (0.3, 0.0)), Pair(1, (0.0, 0.0), (-0.3, 0.0))]
    envs = [PointEnv(diverge_at=0.28), PointEnv()]
    broken, fine = run_batch(envs, list(enumerate(pairs)), world_model(), 12)
    assert broken.diverged and not broken.success_final and broken.final_errors is None
    assert fine.success_final and len(fine.states) == 13 and len(broken.states) < 13
    summary = Summary.of([broken, fine], PointEnv.metrics)
    assert summary.diverged == 1 and summary.success_final.value == 0.5


def test_steps_without_a_plan_are_counted_for_each_episode(tmp_path: Path) -> None:
    pairs = [(i, Pair(i, (0.0, 0.0), (0.3, 0.0))) for i in range(2)]
    policy = WorldModelPolicy(PointModel(broken_rows=(1,)), PLANNER, BOUNDS, torch.device("cpu"))
    fine, broken = run_batch([PointEnv(), PointEnv()], pairs, policy, 7)
    assert (fine.steps_without_plan, broken.steps_without_plan) == (0, 7)
    log = EpisodeLog(tmp_path / "log")
    log.append([fine, broken])
    assert log.read() == {0: fine, 1: broken}
    assert Summary.of([fine, broken, broken], PointEnv.metrics).to_dict()["steps_without_plan"] == 14


def test_logs_of_before_steps_without_a_plan_were_counted_are_read(tmp_path: Path) -> None:
    (episode,) = run_batch([PointEnv()], [(0, PAIRS[0])], NoOp(BOUNDS), 2)
    record = dataclasses.asdict(episode)
    del record["steps_without_plan"]
    (tmp_path / "log").write_text(json.dumps(record) + "\n")
    assert EpisodeLog(tmp_path / "log").read() == {0: episode}


def test_reaching_and_leaving_counts_at_any_step_only() -> None:
    class Rightward(NoOp):
        def act(self, observations: object) -> np.ndarray:
            return np.array([[1, 0]], np.float32)

    (episode,) = run_batch([PointEnv()], [(7, Pair(0, (0.0, 0.0), (0.32, 0.0)))], Rightward(BOUNDS), 8)
    assert (episode.success_any, episode.success_final, episode.reached_at, episode.index) == (True, False, 3, 7)
    assert (episode.half_any, episode.half_final) == (True, False)


@pytest.mark.parametrize("execute", [1, 3])
def test_latency_is_that_of_plans_after_the_warm_up(execute: int) -> None:
    """Steps in which a plan only goes on would make planning look fast."""
    controller = dataclasses.replace(PLANNER.controller, execute=execute)
    policy = WorldModelPolicy(
        PointModel(), dataclasses.replace(PLANNER, controller=controller), BOUNDS, torch.device("cpu")
    )
    times = measure_plan_ms(PointEnv(), PAIRS[0], policy, warm_up=4, plans=6)
    assert len(times) == 6
    assert len(policy.plan_ms) == 10


def test_summary_is_plain_json() -> None:
    episode = Episode(0, True, False, False, False, 3, {"position": 0.2}, False, [[0.0]])
    values = json.loads(json.dumps(Summary.of([episode, episode], PointEnv.metrics).to_dict()))
    assert values["success_any"] == 1 and values["success_final"] == 0 and values["n"] == 2
    assert values["success_any_interval"] == list(wilson_interval(2, 2))
    assert values["success_half_tolerance_any"] == 0 and values["final_errors_median"] == {"position": 0.2}


# From R: prop.test(x, n, correct = FALSE)$conf.int
@pytest.mark.parametrize(
    ("successes", "n", "low", "high"), [(48, 50, 0.8654, 0.9890), (60, 100, 0.5020, 0.6906), (0, 100, 0.0, 0.0370)]
)
def test_wilson_intervals_are_those_of_the_literature(successes: int, n: int, low: float, high: float) -> None:
    assert wilson_interval(successes, n) == pytest.approx((low, high), abs=1e-4)


@given(st.integers(0, 300), st.integers(0, 300))
def test_wilson_interval_contains_the_rate_and_mirrors(a: int, b: int) -> None:
    successes, n = min(a, b), max(a, b)
    low, high = wilson_interval(successes, n)
    assert 0 <= low <= (successes / n if n else 0.5) <= high <= 1
    mirrored = wilson_interval(n - successes, n)
    assert (1 - high, 1 - low) == pytest.approx(mirrored, abs=1e-12)


def test_rates_without_an_episode_claim_nothing() -> None:
    assert Rate.of([]) == Rate(0, 0, 1)

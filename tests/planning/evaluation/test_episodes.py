from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from planning.decision import Decision
from planning.evaluation.episodes import Episode, EpisodeLog, judge, run_all
from planning.evaluation.latency import measure_plan_ms
from planning.evaluation.manifest import Pair, draw
from planning.evaluation.oracle import Oracle
from planning.evaluation.policies import Exploration, NoAction, UniformRandom, WorldModelPolicy
from planning.evaluation.report import Rate, Summary, short
from planning.evaluation.rollout import Policy, rollout
from planning.evaluation.task import Task, from_pair
from planning.objectives import ObjectiveConfig
from planning.optimisers.cem import CEM, CEMConfig
from planning.strategy import ControllerConfig, Strategy
from tests.planning.point_mass import POINT, PointEnv, PointModel
from worldmodel.core.errors import UserError
from worldmodel.core.observation import Observation
from worldmodel.core.spec import ActionSpec
from worldmodel.core.statistics import wilson_interval

STRATEGY = Strategy(CEM(CEMConfig(samples=64, iterations=5, elites=8)), ObjectiveConfig(), ControllerConfig(horizon=3))
PAIRS = draw(PointEnv(), "sim 1.0", {}, 0, 5, steps_ahead=10).pairs


def world_model() -> WorldModelPolicy:
    return WorldModelPolicy(PointModel(), STRATEGY, torch.device("cpu"))


def run_batch(
    envs: Sequence[PointEnv], pairs: Sequence[tuple[int, Pair]], policy: Policy, budget: int
) -> list[Episode]:
    tasks = [from_pair(env, pair) for env, (_, pair) in zip(envs, pairs, strict=True)]
    found = zip(envs, pairs, rollout(envs, tasks, policy, budget), strict=True)
    return [judge(env, index, np.array(pair.goal), happened) for env, (index, pair), happened in found]


def test_planners_reach_what_baselines_do_not(tmp_path: Path) -> None:
    envs = [PointEnv() for _ in range(3)]
    policies = [world_model(), Oracle(envs, POINT, STRATEGY), NoAction(POINT), UniformRandom(POINT, 0)]
    summaries = [
        Summary.of(run_all(envs, PAIRS, policy, 20, EpisodeLog(tmp_path / f"{i}")), PointEnv.metrics)
        for i, policy in enumerate(policies)
    ]
    assert [s.success_final.value for s in summaries] == [1, 1, 0, 0]
    assert summaries[0].final_errors["position"] < 0.1 < summaries[2].final_errors["position"]


@pytest.mark.parametrize("policy_of", [lambda envs: world_model(), lambda envs: Exploration(POINT, envs, 0)])
def test_outcomes_do_not_depend_on_the_batch(tmp_path: Path, policy_of: Callable[[list[PointEnv]], Policy]) -> None:
    outcomes = []
    for size in (1, 2, 5):
        log, envs = EpisodeLog(tmp_path / str(size)), [PointEnv() for _ in range(size)]
        outcomes.append(run_all(envs, PAIRS, policy_of(envs), 12, log))
    assert outcomes[0] == outcomes[1] == outcomes[2]
    assert [e.index for e in outcomes[0]] == list(range(5))


class Interrupting(UniformRandom):
    """Acts at random until `batches` batches have begun."""

    def __init__(self, batches: int) -> None:
        super().__init__(POINT, 0)
        self.batches = batches

    def reset(self, tasks: Sequence[Task]) -> None:
        if self.batches == 0:
            raise KeyboardInterrupt
        self.batches -= 1
        super().reset(tasks)


def test_an_interrupted_run_goes_on_and_ends_like_an_unbroken_one(tmp_path: Path) -> None:
    envs = [PointEnv() for _ in range(2)]
    unbroken = run_all(envs, PAIRS, UniformRandom(POINT, 0), 6, EpisodeLog(tmp_path / "unbroken"))
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
    pairs = [(i, Pair(i, (start, 0.0), (0.3, 0.0))) for i, start in enumerate((0.0, -0.9))]
    policy = WorldModelPolicy(PointModel(broken_beyond=0.6), STRATEGY, torch.device("cpu"))
    fine, broken = run_batch([PointEnv(), PointEnv()], pairs, policy, 7)
    assert (fine.steps_without_plan, broken.steps_without_plan) == (0, 7)
    log = EpisodeLog(tmp_path / "log")
    log.append([fine, broken])
    assert log.read() == {0: fine, 1: broken}
    assert Summary.of([fine, broken, broken], PointEnv.metrics).to_dict()["steps_without_plan"] == 14


def test_logs_of_before_steps_without_a_plan_were_counted_are_read(tmp_path: Path) -> None:
    (episode,) = run_batch([PointEnv()], [(0, PAIRS[0])], NoAction(POINT), 2)
    record = dataclasses.asdict(episode)
    del record["steps_without_plan"]
    (tmp_path / "log").write_text(json.dumps(record) + "\n")
    assert EpisodeLog(tmp_path / "log").read() == {0: episode}


def test_reaching_and_leaving_counts_at_any_step_only() -> None:
    class Rightward(NoAction):
        def act(self, observation: Observation) -> Decision:
            return Decision.blind(np.array([[1, 0]], np.float32))

    (episode,) = run_batch([PointEnv()], [(7, Pair(0, (0.0, 0.0), (0.32, 0.0)))], Rightward(POINT), 8)
    assert (episode.success_any, episode.success_final, episode.reached_at, episode.index) == (True, False, 3, 7)
    assert (episode.half_any, episode.half_final) == (True, False)


@pytest.mark.parametrize("execute", [1, 3])
def test_latency_is_that_of_plans_after_the_warm_up(execute: int) -> None:
    """Steps in which a plan only goes on would make planning look fast."""
    controller = dataclasses.replace(STRATEGY.controller, execute=execute)
    strategy = dataclasses.replace(STRATEGY, controller=controller)
    policy = WorldModelPolicy(PointModel(), strategy, torch.device("cpu"))
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


def test_quantities_are_never_written_in_powers_of_ten() -> None:
    assert [short(value) for value in (112.3, 99.6, 99.4, 3.14159, 0.012)] == ["112", "100", "99", "3.1", "0.012"]


def test_baselines_rest_and_move_within_the_limits_of_a_robot_that_holds() -> None:
    action = ActionSpec((-1.0, -1.0), (1.0, 1.0), ("m", "m/s"), rest=("hold", "zero"), max_rate=(2.0, None))
    seen = Observation({}, np.array([[0.3, 0.9], [7.0, 0.0]], np.float32))
    task = from_pair(PointEnv(), PAIRS[0])
    resting = NoAction(dataclasses.replace(POINT, action=dataclasses.replace(action, hold_from=(0, None))))
    moving = UniformRandom(resting._spec, 0)
    for policy in (resting, moving):
        policy.reset([task, task])
    for _ in range(3):
        np.testing.assert_array_equal(resting.act(seen).actions, np.float32([[0.3, 0.0], [1.0, 0.0]]))
    moved = np.stack([moving.act(seen).actions for _ in range(20)])
    assert (np.abs(np.diff(moved[..., 0], axis=0)) <= 0.2).all() and len(np.unique(moved[..., 1])) == 20
    unknown = NoAction(dataclasses.replace(POINT, action=action))
    unknown.reset([task, task])
    with pytest.raises(UserError, match="action action_0 holds its last command"):
        unknown.act(seen)


def test_the_one_loop_tells_of_every_decision_and_stops_when_told() -> None:
    task, heard = from_pair(PointEnv(), PAIRS[0]), []

    def on_step(step: int, decision: Decision, states: Sequence[np.ndarray]) -> bool:
        heard.append((step, decision.actions.shape, states[0].tolist()))
        return step == 3

    (happened,) = rollout([PointEnv()], [task], UniformRandom(POINT, 0), 10, on_step)
    assert [step for step, _, _ in heard] == [0, 1, 2, 3] and len(happened.states) == 4
    assert [state for _, _, state in heard] == happened.states.tolist()
    heard.clear()
    (happened,) = rollout([PointEnv()], [task], UniformRandom(POINT, 0), 2, on_step, look_at_end=True)
    assert len(heard) == 3 and len(happened.states) == 3

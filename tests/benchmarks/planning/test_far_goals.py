"""The benchmark of far goals: its options, its arms, and that it resumes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from benchmarks.planning.far_goals import Attempt, AttemptLog, Options, attempt_all, read, with_long_horizon
from envs.registry import make_named
from planning.decision import Decision
from planning.evaluation.manifest import draw
from planning.evaluation.rollout import Policy
from planning.registry import make_strategy
from worldmodel.core.errors import UserError


def test_options_of_its_own_are_told_from_those_of_the_evaluation():
    own, config = read(["n=7", "arms=flat,random", "env=push_two", "planner.execute=2", "hierarchy=there"])
    assert own == Options(n=7, arms=("flat", "random"))
    assert (config["env"]["blocks"], config["planner"]["execute"], config["hierarchy"]) == (2, 2, "there")


@pytest.mark.parametrize(
    ("option", "message"), [("n=some", "a whole number"), ("n=0", "at least 1"), ("arms=flat,flt", "did you mean flat")]
)
def test_other_options_are_refused(option, message):
    with pytest.raises(UserError, match=message):
        read([option])


def test_a_long_horizon_imagines_as_much():
    _, config = read(["env=push_wall"])
    flat, long = config["planner"], with_long_horizon(config["planner"], 36)
    strategies = [make_strategy(one, 0) for one in (flat, long)]
    imagined = [one.optimiser.evaluations * one.controller.horizon for one in strategies]
    assert imagined[1] == pytest.approx(imagined[0], rel=0.01) and strategies[1].controller.horizon == 36
    assert flat["horizon"] == 12


class Teleport(Policy):
    """Puts the block where it belongs after three control steps."""

    def __init__(self, env, pairs):
        self.env, self.goals, self.episodes = env, iter(pairs), 0

    def reset(self, tasks):
        self.goal, self.step, self.episodes = np.array(next(self.goals).goal), 0, self.episodes + 1

    def act(self, observation):
        self.step += 1
        if self.step == 3:
            self.env.set_state(self.goal)
        return Decision.blind(np.zeros((1, 2), np.float32))


def test_an_episode_ends_at_success_and_a_second_run_takes_it_from_the_log(tmp_path: Path):
    env = make_named("push_wall", image_size=16)
    try:
        pairs, log = draw(env, "here", {}, 901, 2).pairs, AttemptLog(tmp_path / "log.jsonl")
        policy = Teleport(env, pairs)
        found = attempt_all(env, pairs, policy, 10, log)
        assert [one.reached_at for one in found] == [3, 3] and policy.episodes == 2
        assert found[0].errors["position"] < 0.1 and found[0].reasons == {}
        assert attempt_all(env, pairs, policy, 10, log) == found and policy.episodes == 2
        assert all(isinstance(one, Attempt) for one in found)
    finally:
        env.close()

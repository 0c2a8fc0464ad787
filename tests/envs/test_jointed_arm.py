"""The tests' own arm: two cameras of different shapes, absolute targets, a gripper. Other tests build on it."""

from __future__ import annotations

import importlib.metadata
import os
import subprocess
import sys

import numpy as np
import pytest

from envs.exploration import CommandExplorer
from envs.protocol import Floats, GoalEnv
from envs.registry import describe, env_names, env_options, make_env
from tests.envs import jointed_arm
from tests.envs.conformance import GoalEnvConformance
from tests.source_tree import ROOT
from worldmodel.core.spec import EnvironmentSpec


class TestArm(GoalEnvConformance):
    def make(self) -> GoalEnv:
        return jointed_arm.ArmEnv()

    def diverging_state(self, env: GoalEnv) -> Floats:
        state = env.get_state()
        state[7:] = 1e12
        return state


@pytest.fixture
def env():
    made = jointed_arm.ArmEnv()
    yield made
    made.close()


def test_a_plug_in_makes_it_by_name():
    with jointed_arm.known():
        jointed_arm.add()  # a second time changes nothing
        assert "jointed" in env_names()
        assert env_options("jointed", wrist=None) == {
            "family": "jointed",
            "name": "jointed",
            "front": 48,
            "wrist": None,
        }
        options = env_options("jointed", front=24)
        env = make_env(options)
    try:
        spec = describe(env, options)
        assert [camera.shape for camera in spec.cameras] == [(24, 32, 3), (40, 32, 3)]
        assert spec.action == jointed_arm.ARM and spec.options == {"front": 24, "wrist": 40}
        assert EnvironmentSpec.from_dict(spec.to_dict()) == spec
    finally:
        env.close()
    assert "jointed" not in env_names()


def test_another_process_knows_it_too(tmp_path):
    path = os.pathsep.join([str(jointed_arm.install(tmp_path)), str(ROOT)])
    code = "from envs.registry import env_names; assert 'jointed' in env_names()"
    subprocess.run([sys.executable, "-c", code], check=True, env={**os.environ, "PYTHONPATH": path}, cwd=tmp_path)
    names = [p.name for p in importlib.metadata.entry_points(group="worldmodel.plugins")]
    assert "jointed" not in names  # of this process's installation


def test_the_joints_go_where_they_are_told_and_stay(env):
    env.reset(seed=0)
    target = np.array([0.5, -0.4, 0.3, 0.2, -0.1, 0.6, 0.0], np.float32)
    for _ in range(25):
        observation = env.step(target)[0]
    np.testing.assert_allclose(observation["proprio"][:6], target[:6], atol=0.01)
    assert observation["proprio"][6] < 0.002  # closed
    before = env.get_state()
    env.step(target)
    np.testing.assert_allclose(env.get_state()[:7], before[:7], atol=2e-3)


def test_holding_begins_where_the_readings_say(env):
    observation, _ = env.reset(seed=3)
    hold = observation["proprio"][:7]
    for _ in range(10):
        observation = env.step(hold)[0]
    np.testing.assert_allclose(observation["proprio"][:7], hold, atol=1e-3)


@pytest.mark.parametrize("seed", range(3))
def test_exploration_keeps_every_limit(env, seed):
    observation, _ = env.reset(seed=seed)
    explorer = CommandExplorer(jointed_arm.ARM, env.control_step_s, np.random.default_rng(seed))
    first = observation["proprio"][:7].astype(np.float64)
    commands = np.array([explorer.act(env) for _ in range(3000)])
    assert jointed_arm.broken_limits(jointed_arm.ARM, env.control_step_s, first, commands) == []
    assert set(commands[:, 6]) == set(np.float32([0.0, jointed_arm.OPEN]))
    assert (np.ptp(commands[:, :6], axis=0) > 2.0).all()  # it goes everywhere, 2.4 rad wide


def test_a_broken_limit_is_found():
    still = np.zeros((4, 7), np.float32)
    assert jointed_arm.broken_limits(jointed_arm.ARM, 0.1, np.zeros(7), still) == []
    for value, dimension, message in (
        (np.nan, 0, "not finite"),
        (1.3, 1, "outside"),
        (0.02, 6, "neither"),
        (0.3, 2, "faster"),
    ):
        commands = still.copy()
        commands[2, dimension] = value
        assert any(
            message in line and "step 2" in line
            for line in jointed_arm.broken_limits(jointed_arm.ARM, 0.1, still[0], commands)
        )


def test_cameras_see_the_hand_from_two_sides(env):
    states = [env.reset(seed=seed)[1]["state"] for seed in range(2)]
    assert env.render_state(states[0], "front", 96).shape == (96, 128, 3)
    assert env.render_state(states[0], "wrist", 80).shape == (80, 64, 3)
    seen = 0
    for seed in range(10):
        state = env.reset(seed=seed)[1]["state"]
        column, row = np.floor(env.path_points(state)["grip"] * [512, 384]).astype(int)
        picture = env.render_state(state, "front", 384)
        close = picture[max(0, row - 16) : row + 16, max(0, column - 16) : column + 16].astype(int)
        seen += bool((close[..., 0] > close[..., 2] + 60).any())  # red and yellow of hand and fingers
    assert seen >= 7  # sometimes a link is in front of them

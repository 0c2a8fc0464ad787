"""The control suite: the conformance tests on tasks of different kinds, and what is particular to the reacher."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from envs.dm_control import DmControlConfig, DmControlEnv
from envs.joints import Joint
from envs.protocol import Floats, GoalEnv
from envs.registry import make_named
from tests.envs.conformance import GoalEnvConformance
from worldmodel.core.errors import UserError

SHOULDER, WRIST = 0, 1


class SuiteConformance(GoalEnvConformance):
    def diverging_state(self, env: GoalEnv) -> Floats:
        assert isinstance(env, DmControlEnv)
        state = env.get_state()
        state[env.model.nq : env.model.nq + env.model.nv] = 1e12
        return state


class TestReacher(SuiteConformance):
    def make(self) -> GoalEnv:
        return make_named("reacher", image_size=32)


@pytest.mark.slow
class TestPointMassWithRandomGains(SuiteConformance):
    """Tendons, slides, and something besides positions that every episode draws anew."""

    def make(self) -> GoalEnv:
        return make_named("dm_control", domain="point_mass", task="hard", image_size=32)


@pytest.fixture
def reacher():
    env = make_named("reacher")
    yield env
    env.close()


def pose(shoulder: float, wrist: float) -> Floats:
    return np.array([shoulder, wrist, 0, 0], np.float64)


@pytest.mark.parametrize(
    ("domain", "task"),
    [
        ("ball_in_cup", "catch"),  # slides, tendons, and a ball that no motor moves
        ("finger", "turn_easy"),  # a goal to hide
        ("manipulator", "insert_peg"),  # a model that is drawn anew, contacts
        ("quadruped", "fetch"),  # a free joint
    ],
)
def test_any_suite_task_replays_exactly(domain, task):
    env = make_named("dm_control", domain=domain, task=task, image_size=32)
    try:
        assert env.name == f"{domain}_{task}"
        observation, info = env.reset(seed=0)
        assert env.observation_space.contains(observation) and np.isfinite(observation["proprio"]).all()
        explorer = env.explorer(np.random.default_rng(0))
        actions = np.array([explorer.act(env) for _ in range(6)])
        states = np.array([env.step(action)[4]["state"] for action in actions])
        assert np.abs(states[-1] - info["state"]).max() > 0
        np.testing.assert_array_equal(env.simulate(info["state"], actions[None])[0], states)
        env.reset(seed=1)
        env.set_state(states[2])
        again = np.array([env.step(action)[4]["state"] for action in actions[3:]])
        np.testing.assert_array_equal(again, states[3:])
        assert np.isfinite(next(iter(env.path_points(states).values()))).all()
    finally:
        env.close()


def test_reacher_moves_25_times_a_second(reacher):
    assert reacher.control_step_s == pytest.approx(0.04)
    assert [(m.name, m.unit, m.tolerance) for m in reacher.metrics] == [("shoulder", "rad", 0.1), ("wrist", "rad", 0.1)]


@pytest.mark.parametrize("joint", [SHOULDER, WRIST])
def test_reacher_success_needs_both_joints_within_a_tenth(reacher, joint):
    goal, offset = pose(1.0, -0.5), np.eye(4)[joint]
    assert reacher.is_success(goal + 0.099 * offset, goal)
    assert not reacher.is_success(goal + 0.101 * offset, goal)


@given(angle=st.floats(-20, 20), offset=st.floats(-3.1, 3.1), turns=st.integers(-3, 3))
def test_a_periodic_joint_takes_the_shorter_way_round(angle, offset, turns):
    free = Joint("free", body=1, position=0, velocity=0, is_hinge=True, is_periodic=True)
    limited = Joint("limited", body=1, position=0, velocity=0, is_hinge=True, is_periodic=False)
    there = angle + offset + 2 * np.pi * turns
    assert free.error(there, angle) == pytest.approx(abs(offset), abs=1e-9)
    assert limited.error(there, angle) == pytest.approx(abs(there - angle), abs=1e-9)


def test_reacher_goal_is_interesting_when_a_joint_has_to_move(reacher):
    assert reacher.is_interesting(pose(0, 0), pose(0.51, 0))
    assert reacher.is_interesting(pose(0, 0), pose(0, -0.51))
    assert not reacher.is_interesting(pose(0, 0), pose(0.49, 0.49))
    assert not reacher.is_interesting(pose(0, 0), pose(2 * np.pi, 0))


def test_reacher_encoders_read_wrist_shoulder_and_speeds(reacher):
    reacher.set_state(np.array([2.0, -0.7, 1.5, -3.0]))
    np.testing.assert_allclose(reacher.observe()["proprio"], [-0.7, np.sin(2.0), np.cos(2.0), 1.5, -3.0], rtol=1e-6)


def test_reacher_shows_no_target(reacher):
    state = reacher.reset(seed=0)[1]["state"]
    first = reacher.observe()["images"]["camera"]
    for seed in range(1, 5):  # every reset draws another target
        reacher.reset(seed=seed)
        np.testing.assert_array_equal(reacher.render_state(state), first)


def test_reacher_path_is_where_the_finger_is_seen(reacher):
    rng = np.random.default_rng(0)
    for _ in range(15):
        state = pose(rng.uniform(-3, 3), rng.uniform(-2, 2))
        with_finger = reacher.render_state(state, size=256)
        column, row = np.floor(reacher.path_points(state)["finger"] * 256).astype(int)
        red, green, blue = with_finger[row, column].astype(int)
        assert red > green > blue and red > 2 * blue, (red, green, blue)


def test_a_hundredth_of_a_radian_shows(reacher):
    rng, changed = np.random.default_rng(0), 0
    for _ in range(40):
        shoulder, wrist = rng.uniform(-3, 3), rng.uniform(-2, 2)
        changed += not np.array_equal(
            reacher.render_state(pose(shoulder, wrist)), reacher.render_state(pose(shoulder + 0.01, wrist))
        )
    assert changed >= 38


def test_exploration_reaches_interesting_poses_within_a_second(reacher):
    interesting = 0
    for seed in range(30):
        start = reacher.reset(seed=seed)[1]["state"]
        explorer = reacher.explorer(np.random.default_rng(seed))
        actions = np.array([explorer.act(reacher) for _ in range(25)])
        interesting += reacher.is_interesting(start, reacher.simulate(start, actions[None])[0, -1])
    assert interesting >= 24


def test_torque_turns_the_joint_it_is_named_after(reacher):
    for joint in (SHOULDER, WRIST):
        action = np.zeros((1, 5, 2))
        action[..., joint] = 1.0
        end = reacher.simulate(pose(0.0, 0.0), action)[0, -1]
        assert end[joint] > 0.1


def test_random_gains_are_part_of_the_state():
    env = make_named("dm_control", domain="point_mass", task="hard", image_size=32)
    try:
        starts = [env.reset(seed=seed)[1]["state"] for seed in (0, 1)]
        for start in starts:
            start[:4] = 0
        push = np.ones((1, 10, 2))
        one, two = (env.simulate(start, push)[0, -1, :2] for start in starts)
        assert np.abs(one - two).max() > 1e-3
        np.testing.assert_array_equal(env.simulate(starts[0], push)[0, -1, :2], one)
    finally:
        env.close()


def test_action_repeat_lengthens_the_control_step():
    short = DmControlEnv(DmControlConfig("reacher", "easy"))
    long = DmControlEnv(DmControlConfig("reacher", "easy", action_repeat=3))
    assert long.control_step_s == pytest.approx(3 * short.control_step_s)
    rng = np.random.default_rng(0)
    action = rng.uniform(-1, 1, 2)
    once, thrice = action[None, None], np.tile(action, (1, 3, 1))
    np.testing.assert_array_equal(long.simulate(pose(1, 1), once)[0, 0], short.simulate(pose(1, 1), thrice)[0, 2])


def test_fovy_widens_the_view():
    wide, narrow = (DmControlEnv(DmControlConfig("reacher", "easy", fovy=fovy, marker="finger")) for fovy in (60, 30))
    far = {env: np.abs(env.path_points(pose(0, 0))["finger"] - 0.5).max() for env in (wide, narrow)}
    assert far[narrow] > 2 * far[wide]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"domain": "reachr"}, r"unknown dm_control domain 'reachr': choose from .*did you mean reacher"),
        ({"task": "eazy"}, r"task of dm_control domain reacher 'eazy': choose from easy, hard"),
        ({"camera": "fixd"}, r"unknown camera 'fixd': choose from .*did you mean fixed"),
        ({"camera": 7}, r"unknown camera '7'"),
        ({"marker": "fingr"}, r"unknown marker 'fingr': choose from .*did you mean finger"),
        ({"success_joints": ("elbow",)}, r"unknown success joint 'elbow': choose from shoulder, wrist"),
        ({"action_units": ("N m",)}, r"expected 2 units"),
        ({"action_repeat": 0}, r"action_repeat 0 .*at least 1"),
        ({"action_repeat": 1.5}, r"action_repeat 1.5"),
        ({"fovy": 180.0}, r"fovy 180.0 .*between 0 and 180"),
        ({"tolerance_rad": -0.1}, r"tolerance_rad -0.1 .*above 0"),
        ({"image_size": 4}, r"image_size 4"),
    ],
)
def test_what_cannot_be_used_is_named(options, message):
    with pytest.raises(UserError, match=message):
        DmControlEnv(DmControlConfig(**{"domain": "reacher", "task": "easy", **options}))

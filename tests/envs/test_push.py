"""Planar pushing: the conformance tests, and what is particular to it."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from envs.protocol import Floats, GoalEnv
from envs.push import ARENA_WIDTH, PushConfig, PushEnv, PushTask
from tests.envs.conformance import GoalEnvConformance


class TestPush(GoalEnvConformance):
    simulation_tolerance = 1e-12  # the clock of the scenery adds up in another order

    def make(self) -> GoalEnv:
        return PushEnv(PushConfig(image_size=32))

    def diverging_state(self, env: GoalEnv) -> Floats:
        state = env.get_state()
        state[5:7] = 1e12  # the block's velocity
        return state


@pytest.mark.slow
class TestPushWithDistractors(TestPush):
    def make(self) -> GoalEnv:
        return PushEnv(PushConfig(image_size=32, distractors=True))


def state_of(block: tuple[float, float, float], pusher: tuple[float, float] = (-0.2, -0.2)) -> Floats:
    return np.array([*block, *pusher, 0, 0, 0, 0, 0, 0, 0], np.float64)


@pytest.fixture
def env():
    env = PushEnv(PushConfig())
    yield env
    env.close()


def test_success_needs_position_and_yaw(env):
    goal = state_of((0.1, 0.1, 0.3))
    near, turned = 0.04 * ARENA_WIDTH, np.radians(20)
    assert env.is_success(state_of((0.1 + 0.99 * near, 0.1, 0.3)), goal)
    assert not env.is_success(state_of((0.1 + 1.01 * near, 0.1, 0.3)), goal)
    assert env.is_success(state_of((0.1, 0.1, 0.3 + 0.99 * turned)), goal)
    assert not env.is_success(state_of((0.1, 0.1, 0.3 + 1.01 * turned)), goal)


@given(yaw=st.floats(-7, 7), offset=st.floats(-0.7, 0.7), quarters=st.integers(-5, 5))
def test_yaw_error_is_modulo_the_symmetry_of_a_square(yaw, offset, quarters):
    errors = PushTask().errors(state_of((0, 0, yaw + offset + quarters * np.pi / 2)), state_of((0, 0, yaw)))
    assert errors["yaw"] == pytest.approx(abs(np.degrees(offset)), abs=1e-6)


def test_a_square_looks_the_same_after_a_quarter_turn(env):
    plain = env.render_state(state_of((0.05, 0.02, 0.2))).astype(int)
    quarter = env.render_state(state_of((0.05, 0.02, 0.2 + np.pi / 2))).astype(int)
    assert np.abs(plain - quarter).max() <= 2


def test_a_millimetre_shows(env):
    rng, changed = np.random.default_rng(0), 0
    for _ in range(40):
        x, y, yaw = *rng.uniform(-0.15, 0.15, 2), rng.uniform(-3, 3)
        changed += not np.array_equal(
            env.render_state(state_of((x, y, yaw))), env.render_state(state_of((x + 0.001, y, yaw)))
        )
    assert changed >= 39


def test_the_pusher_moves_at_the_commanded_velocity(env):
    env.reset(options={"state": state_of((0.15, 0.15, 0), (-0.2, -0.1))})
    for _ in range(5):
        observation = env.step(np.array([0.2, 0.1], np.float32))[0]
    np.testing.assert_allclose(observation["proprio"], [-0.2 + 0.1, -0.1 + 0.05], atol=0.01)


def test_pushing_moves_the_block_and_leaving_does_not(env):
    env.reset(options={"state": state_of((0.0, 0.0, 0.0), (-0.1, 0.0))})
    for _ in range(5):
        env.step(np.array([0.3, 0.0], np.float32))
    pushed = env.get_state()[:3]
    assert pushed[0] > 0.04 and abs(pushed[1]) < 0.01
    for _ in range(3):
        env.step(np.array([-0.4, 0.0], np.float32))
    rest = env.get_state()[:3]
    for _ in range(3):
        env.step(np.array([0.0, 0.0], np.float32))
    np.testing.assert_allclose(env.get_state()[:3], rest, atol=1e-4)


def test_paths_point_at_block_and_pusher(env):
    rng = np.random.default_rng(1)
    for _ in range(10):
        state = state_of((*rng.uniform(-0.15, 0, 2), rng.uniform(-3, 3)), tuple(rng.uniform(0.1, 0.2, 2)))
        picture = env.render_state(state, size=128).astype(int)
        for name, (red, _, blue) in {"block": (1, 0, 0), "pusher": (0, 0, 1)}.items():
            column, row = np.floor(env.path_points(state)[name] * 128).astype(int)
            pixel = picture[row, column]
            assert (pixel[0] > pixel[2] + 50) == bool(red) and (pixel[2] > pixel[0] + 50) == bool(blue), (name, pixel)


def test_exploration_moves_the_block_in_most_episodes(env, monkeypatch):
    blank = env.observe()
    monkeypatch.setattr(env, "observe", lambda: blank)  # nothing to see: what counts are the states
    moved = 0
    for seed in range(20):
        start = env.reset(seed=seed)[1]["state"]
        explorer = env.explorer(np.random.default_rng(seed))
        episode = [env.step(explorer.act(env))[4]["state"] for _ in range(40)]
        moved += bool((np.linalg.norm(np.array(episode)[:, :2] - start[:2], axis=-1) > 0.02).any())
    assert moved >= 14


def test_distractors_change_what_is_seen_and_nothing_else():
    plain, dressed = PushEnv(PushConfig()), PushEnv(PushConfig(distractors=True))
    try:
        start = dressed.reset(seed=11)[1]["state"]
        undressed = start.copy()
        undressed[10:] = 0
        plain.reset(options={"state": undressed})
        assert (
            np.abs(plain.observe()["images"]["camera"].astype(int) - dressed.observe()["images"]["camera"]).mean() > 1
        )
        rng = np.random.default_rng(0)
        for _ in range(10):
            action = rng.uniform(-0.4, 0.4, 2).astype(np.float32)
            one, two = plain.step(action)[4]["state"], dressed.step(action)[4]["state"]
            np.testing.assert_array_equal(one[:10], two[:10])
    finally:
        plain.close()
        dressed.close()

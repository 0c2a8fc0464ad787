"""Pushing with a wall or two blocks: the conformance tests, and what is particular to these scenes."""

from __future__ import annotations

import numpy as np
import pytest

from envs.protocol import Floats, GoalEnv
from envs.push import ARENA_WIDTH, BLOCK_WIDTH
from envs.push_scene import Layout, PushSceneConfig, PushSceneEnv
from envs.registry import make_named
from planning.evaluation.manifest import draw
from tests.envs.conformance import GoalEnvConformance

WALL, TWO = Layout(1, 0.27), Layout(2, 0.27)


class TestPushWall(GoalEnvConformance):
    def make(self) -> GoalEnv:
        return PushSceneEnv(PushSceneConfig("push_wall", 1, 0.27, image_size=32))

    def diverging_state(self, env: GoalEnv) -> Floats:
        state = env.get_state()
        state[len(state) // 2] = 1e12  # the red block's velocity
        return state


@pytest.mark.slow
class TestPushTwo(TestPushWall):
    def make(self) -> GoalEnv:
        return PushSceneEnv(PushSceneConfig("push_two", 2, 0.27, image_size=32))


@pytest.fixture(params=["push_wall", "push_two"])
def env(request):
    env = make_named(request.param, image_size=32)
    yield env
    env.close()


@pytest.mark.parametrize(
    ("options", "message"),
    [({"blocks": 3}, "blocks 3 must be 1 or 2"), ({"wall_length": 0.4}, "wall_length 0.4 .* at most 0.32")],
)
def test_other_scenes_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        PushSceneConfig(**{"name": "scene", "blocks": 1, "wall_length": 0.0, **options})


def test_the_wall_stops_the_block_and_the_gap_does_not():
    env = make_named("push_wall", image_size=16)
    try:
        for x, passes in ((-0.12, False), (0.14, True)):
            env.reset(options={"state": WALL.state([np.array([x, -0.1, 0.0])], np.array([x, -0.18]))})
            for _ in range(9):
                env.step(np.array([0.0, 0.3], np.float32))
            assert (env.get_state()[1] > 0) == passes
    finally:
        env.close()


def test_a_block_pushes_the_other():
    env = make_named("push_two", image_size=16)
    try:
        blocks = [np.array([-0.06, 0.1, 0.0]), np.array([0.05, 0.1, 0.0])]
        env.reset(options={"state": TWO.state(blocks, np.array([-0.14, 0.1]))})
        for _ in range(5):
            env.step(np.array([0.3, 0.0], np.float32))
        moved = env.get_state()
        assert moved[0] > -0.03 and moved[5] > 0.08
    finally:
        env.close()


def test_every_block_has_to_be_at_its_goal():
    env = make_named("push_two", image_size=16)
    try:
        goal = TWO.state([np.array([-0.1, -0.1, 0.0]), np.array([0.15, 0.15, 0.0])], np.array([-0.2, -0.2]))
        for block in (0, 5):
            there = goal.copy()
            there[block] -= 0.061 * ARENA_WIDTH
            assert not env.is_success(there, goal)
            there[block] += 0.002 * ARENA_WIDTH
            there[block + 2] += 1.0
            assert env.is_success(there, goal)
        assert env.is_success(goal, goal)
    finally:
        env.close()


def test_pairs_are_far_and_stand_still(env):
    rng = np.random.default_rng(3)
    for _ in range(20):
        start, goal = env.draw_pair(rng)
        assert not env.is_success(start, goal)
        for state in (start, goal):
            env.reset(options={"state": state})
            for _ in range(2):
                env.step(np.zeros(2, np.float32))
            np.testing.assert_allclose(env.get_state(), state, atol=1e-6)  # nothing overlaps, nothing moves
        # The wall is between, and the other block keeps the first one from passing.
        assert start[1] * goal[1] < 0 < start[1] * start[4] and max(start[0], goal[0]) < WALL.wall_end
        if env.name == "push_two":
            assert start[5] > WALL.wall_end and abs(start[6]) < BLOCK_WIDTH / 2 < abs(goal[6])


def test_a_manifest_takes_the_pairs_of_the_task(env):
    one, two = (draw(env, "here", {}, 901, 3) for _ in range(2))
    assert one == two and len(one.pairs) == 3
    assert draw(env, "here", {}, 902, 3).pairs[0] != one.pairs[0]
    assert all(not env.is_success(np.array(pair.start), np.array(pair.goal)) for pair in one.pairs)


def test_exploration_moves_every_block_and_walks_around_the_wall(env, monkeypatch):
    blank = env.observe()
    monkeypatch.setattr(env, "observe", lambda: blank)  # nothing to see: what counts are the states
    blocks = (0, 5)[: 1 + (env.name == "push_two")]
    moved, crossed = np.zeros(len(blocks)), 0
    for seed in range(15):
        start = env.reset(seed=seed)[1]["state"]
        explorer = env.explorer(np.random.default_rng(seed))
        episode = np.array([env.step(explorer.act(env))[4]["state"] for _ in range(60)])
        moved += [
            bool((np.linalg.norm(episode[:, b : b + 2] - start[b : b + 2], axis=-1) > 0.02).any()) for b in blocks
        ]
        crossed += bool(episode[:, 4].min() < -0.04 and episode[:, 4].max() > 0.04)
    assert (moved >= 8).all() and crossed >= 4

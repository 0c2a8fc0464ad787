"""What counts as success with the arm, and which goals are worth an evaluation."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from envs.protocol import Floats, GoalEnv
from tests.envs.arm.worlds import act, arrange, make_arm, world_of

ON_TABLE = 0.025


@pytest.fixture(scope="module")
def env() -> Iterator[GoalEnv]:
    env = make_arm("arm_pick_place")
    yield env
    env.close()


@pytest.fixture(scope="module")
def drawer() -> Iterator[GoalEnv]:
    env = make_arm("arm_drawer")
    yield env
    env.close()


def state_with(env: GoalEnv, cube: tuple[float, float, float], hand: tuple[float, float, float]) -> Floats:
    arrange(env, hand, cube, fingers=0.026)
    return env.get_state()


def test_a_cube_within_three_centimetres_in_space_is_there(env: GoalEnv) -> None:
    goal = state_with(env, (0.0, 0.0, 0.1), (0, 0, 0.1))
    for offset, reached in (((0.01, 0.02, 0.015), True), ((0.0, 0.0, -0.04), False), ((0.02, 0.02, 0.02), False)):
        state = state_with(env, (0.0 + offset[0], offset[1], 0.1 + offset[2]), (0.1, 0.1, 0.2))
        assert env.goal_errors(state, goal)["cube"] == pytest.approx(100 * np.linalg.norm(offset), abs=1e-6)
        assert bool(env.is_success(state, goal)) == reached


def test_only_the_oracle_is_drawn_to_what_it_has_to_move(env: GoalEnv, drawer: GoalEnv) -> None:
    cube, goal = (0.0, 0.0, ON_TABLE), state_with(env, (0.1, 0.0, ON_TABLE), (0, 0, 0.2))
    far, near = (state_with(env, cube, (x, 0.0, ON_TABLE)) for x in (0.15, 0.1))
    there = state_with(env, (0.1, 0.0, ON_TABLE), (-0.1, 0.0, 0.2))
    assert env.goal_errors(far, goal) == env.goal_errors(near, goal)
    costs = env.goal_cost(np.stack([far, near, there, np.full_like(far, np.nan)]), goal)
    np.testing.assert_allclose(costs[0] - costs[1], 1.5**2 - 1.0**2)
    assert costs[2] == 0 and np.isnan(costs[3])

    drawer.reset(seed=0)
    world, state = world_of(drawer), drawer.get_state()
    further = state.copy()
    further[world.layout.drawer] += 0.05 if world.opening() < 0.05 else -0.05
    reach = np.sum((world.hand() - world.handle()) ** 2) / 0.1**2
    np.testing.assert_allclose(drawer.goal_cost(state, further), 5.0**2 + reach)


def test_orientation_and_hand_do_not_count(env: GoalEnv) -> None:
    arrange(env, (0.1, 0.1, 0.2), (0, 0, ON_TABLE), yaw=1.0, fingers=0.0)
    turned = env.get_state()
    assert env.goal_errors(turned, state_with(env, (0, 0, ON_TABLE), (0, 0, 0.1)))["cube"] == pytest.approx(0)


@pytest.mark.parametrize(
    ("cube", "hand", "kind"),
    [
        ((0.0, 0.0, 0.10), (0.0, 0.0, 0.10), "air"),
        ((0.0, 0.0, 0.10), (0.0, 0.1, 0.10), ""),  # it falls
        ((0.1, 0.0, ON_TABLE), (0.0, 0.1, 0.10), "place"),
        ((0.02, 0.0, ON_TABLE), (0.0, 0.1, 0.10), ""),  # solved at the start
        ((0.04, 0.0, ON_TABLE), (0.0, 0.1, 0.10), ""),  # hardly moved
        ((0.1, 0.0, 0.045), (0.1, 0.0, 0.045), ""),  # neither on the table nor lifted
    ],
)
def test_kinds_of_goals_of_a_cube(env: GoalEnv, cube: tuple, hand: tuple, kind: str) -> None:
    start = state_with(env, (0.0, 0.0, ON_TABLE), (0.0, 0.1, 0.15))
    goal = state_with(env, cube, hand)
    assert env.goal_kind(start, goal) == kind
    assert env.is_interesting(start, goal) == bool(kind)


def test_a_sliding_cube_has_no_place_yet(env: GoalEnv) -> None:
    start = state_with(env, (0.0, 0.0, ON_TABLE), (0.0, 0.1, 0.15))
    goal = state_with(env, (0.1, 0.0, ON_TABLE), (0.0, 0.1, 0.15))
    goal[world_of(env).layout.velocities[0]] = 0.2
    assert env.goal_kind(start, goal) == ""


def test_pushing_has_no_goals_in_the_air() -> None:
    push = make_arm("arm_push")
    start = state_with(push, (0.0, 0.0, ON_TABLE), (0.0, 0.1, 0.15))
    assert push.goal_kind(start, state_with(push, (0.0, 0.0, 0.1), (0.0, 0.0, 0.1))) == ""
    assert push.goal_kind(start, state_with(push, (0.1, 0.0, ON_TABLE), (0.0, 0.1, 0.1))) == "place"
    push.close()


def test_kinds_of_goals_of_the_drawer(drawer: GoalEnv) -> None:
    states = {}
    for opening in (0.02, 0.07, 0.09, 0.095):
        arrange(drawer, (0, 0.1, 0.2), drawer=opening)
        states[opening] = drawer.get_state()
    assert drawer.goal_kind(states[0.02], states[0.09]) == "open"
    assert drawer.goal_kind(states[0.09], states[0.02]) == "close"
    assert drawer.goal_kind(states[0.02], states[0.07]) == ""  # less than 6 cm
    assert drawer.is_success(states[0.09], states[0.095]) and not drawer.is_success(states[0.07], states[0.09])


def test_asking_about_a_goal_leaves_the_present_alone(env: GoalEnv) -> None:
    goal = state_with(env, (0.0, 0.0, 0.1), (0.0, 0.0, 0.1))
    start = state_with(env, (0.1, 0.0, ON_TABLE), (0.0, 0.1, 0.15))
    act(env, (0.1, 0.1, 0, 0), 2)
    before = env.get_state()
    assert env.goal_kind(start, goal) == "air"
    np.testing.assert_array_equal(env.get_state(), before)


def test_the_whole_workspace_is_in_the_picture(env: GoalEnv) -> None:
    for x in (-0.2, 0.2):
        for y in (-0.17, 0.17):
            for z in (0.026, 0.246):
                arrange(env, (x, y, z), (x * 1.1, y * 1.05, ON_TABLE))
                for name, point in env.path_points(env.get_state()).items():
                    assert ((point > 0) & (point < 1)).all(), (name, x, y, z, point)

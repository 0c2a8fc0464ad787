"""The physics of an arm: grasping holds, pushing pushes, the drawer slides, and nothing is pressed through anything."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from envs.arm.world import ACTION, MAX_SPEED, REACH, WIDEST
from envs.protocol import GoalEnv
from tests.envs.arm.worlds import act, arrange, make_arm, world_of

BODIES = ("hand", "jaco")
ON_TABLE = 0.025


@pytest.fixture(scope="module", params=BODIES)
def env(request: pytest.FixtureRequest) -> Iterator[GoalEnv]:
    env = make_arm("arm_pick_place", body=request.param)
    yield env
    env.close()


@pytest.fixture(scope="module", params=BODIES)
def drawer(request: pytest.FixtureRequest) -> Iterator[GoalEnv]:
    env = make_arm("arm_drawer", body=request.param)
    yield env
    env.close()


def test_both_bodies_have_the_same_actions_and_readings(env: GoalEnv) -> None:
    assert env.action_spec == ACTION and env.control_step_s == pytest.approx(0.1)
    assert ACTION.rest == ("zero",) * 4 and env.world.proprio().shape == (5,)


def test_the_hand_moves_at_the_commanded_velocity_and_stays(env: GoalEnv) -> None:
    arrange(env, (-0.1, -0.05, 0.1), (0.15, 0.1, ON_TABLE))
    act(env, (0.2, 0.1, 0.05, 0), 5)
    np.testing.assert_allclose(world_of(env).hand(), [0.0, 0.0, 0.125], atol=0.015)
    act(env, (0, 0, 0, 0), 10)  # the Jaco arm lags, and settles within a second
    before = world_of(env).hand()
    act(env, (0, 0, 0, 0), 10)
    np.testing.assert_allclose(world_of(env).hand(), before, atol=1e-3)


def test_the_hand_stays_within_reach(env: GoalEnv) -> None:
    rng = np.random.default_rng(0)
    beyond = 0.02 if world_of(env).pinches_handle else 0.006  # the Jaco arm needs a way to brake [m]
    arrange(env, (0, 0, 0.1), (0.0, 0.1, ON_TABLE))
    for corner in rng.choice([-MAX_SPEED, MAX_SPEED], (4, 3)):
        act(env, (*corner, 0), 14)
        hand = world_of(env).hand()
        assert (hand > REACH[0] - beyond).all() and (hand < REACH[1] + beyond).all(), hand


def test_zero_keeps_the_grip(env: GoalEnv) -> None:
    arrange(env, (0, 0, 0.15), (0.15, 0.1, ON_TABLE), fingers=0.02)
    act(env, (0, 0, 0, 0), 5)
    assert world_of(env).fingers() == pytest.approx(0.02, abs=2e-3)
    act(env, (0, 0, 0, 0.1), 1)
    act(env, (0, 0, 0, 0), 4)
    assert world_of(env).fingers() == pytest.approx(0.03, abs=2e-3)
    act(env, (0, 0, 0, 0.1), 8)
    assert world_of(env).fingers() == pytest.approx(WIDEST, abs=2e-3)


@pytest.mark.parametrize(("yaw", "off"), [(0.0, (0.0, 0.0)), (0.5, (0.008, 0.004))])
def test_a_grasped_cube_is_held(env: GoalEnv, yaw: float, off: tuple[float, float]) -> None:
    world = world_of(env)
    arrange(env, (0.0, 0.0, REACH[0][2]), (*off, ON_TABLE), yaw)
    act(env, (0, 0, 0, -0.1), 6)
    assert world.holds(0)
    act(env, (0, 0, 0.2, 0), 5)
    act(env, (0, 0, 0, 0), 5)
    assert world.cube(0)[2] > 0.1
    held, hand = world.cube(0) - world.hand(), world.hand()
    act(env, (0, 0, 0, 0), 30)
    assert np.linalg.norm(world.cube(0) - world.hand() - held) < 0.001
    assert np.linalg.norm(world.hand() - hand) < 0.002
    for velocity in (0.3, -0.3, 0.2):
        act(env, (velocity, -velocity / 2, 0, 0), 3)
    assert np.linalg.norm(world.cube(0) - world.hand() - held) < 0.01  # also while it is shaken
    act(env, (0, 0, 0, 0.1), 6)
    assert not world.holds(0) and world.cube(0)[2] < 0.03


def test_a_push_moves_the_cube_and_leaving_does_not(env: GoalEnv) -> None:
    world = world_of(env)
    arrange(env, (-0.1, 0.0, 0.035), (0.0, 0.0, ON_TABLE), fingers=0.0)
    act(env, (0.2, 0, 0, 0), 7)
    pushed = world.cube(0)
    assert pushed[0] > 0.03 and abs(pushed[1]) < 0.03
    act(env, (-0.3, 0, 0, 0), 4)
    rest = world.cube(0)
    act(env, (0, 0, 0, 0), 5)
    np.testing.assert_allclose(world.cube(0), rest, atol=1e-3)


def test_a_cube_is_not_pressed_through_the_table(env: GoalEnv) -> None:
    world = world_of(env)
    arrange(env, (0.0, 0.0, 0.12), (0.0, 0.0, ON_TABLE), fingers=0.0)
    for _ in range(20):
        act(env, (0, 0, -0.3, 0))
        # The Jaco arm arrives with a blow, of which the cube recovers.
        assert world.cube(0)[2] > 0.017 and np.abs(world.cube(0)).max() < 0.3
        assert world.hand()[2] > REACH[0][2] - 0.005
    assert world.cube(0)[2] > 0.022


def test_the_drawer_is_pulled_open_and_pushed_closed_and_stays_between(drawer: GoalEnv) -> None:
    world = world_of(drawer)
    arrange(drawer, (0, 0, 0.2), drawer=0.03, fingers=0.0)
    behind = (0, 0, -0.008) if world.pinches_handle else (0, 0.024, -0.008)
    fingers = WIDEST if world.pinches_handle else 0.0
    arrange(drawer, world.handle() + behind, drawer=0.03, fingers=fingers)
    act(drawer, (0, 0, 0, -0.1), 5)
    act(drawer, (0, -0.2, 0, 0), 5)
    act(drawer, (0, 0, 0, 0), 5)
    opened = world.opening()
    assert 0.1 < opened < 0.16
    act(drawer, (0, 0, 0, 0), 10)
    assert world.opening() == pytest.approx(opened, abs=2e-3)
    arrange(drawer, world.handle() - [0, 0.05, 0.005], drawer=opened, fingers=0.0)
    act(drawer, (0, 0.25, 0, 0), 8)
    assert world.opening() < opened - 0.06


def test_the_drawer_does_not_leave_its_cabinet(drawer: GoalEnv) -> None:
    world = world_of(drawer)
    arrange(drawer, (0, 0.1, 0.2), drawer=0.1)
    state = drawer.get_state()
    for speed, end in ((3.0, 0.15), (-3.0, 0.0)):
        drawer.set_state(state)
        world.data.joint("drawer").qvel[0] = speed
        act(drawer, (0, 0, 0, 0), 5)
        assert world.opening() == pytest.approx(end, abs=0.01)


def test_a_thrown_cube_stays_on_the_table() -> None:
    env = make_arm("arm_push")
    world = world_of(env)
    for angle in np.linspace(0, 2 * np.pi, 7):
        arrange(env, (0, 0, 0.24), (0.1, 0.1, 0.05))
        world.data.joint("cube").qvel[:3] = [3 * np.cos(angle), 3 * np.sin(angle), 0.5]
        act(env, (0, 0, 0, 0), 10)
        assert world.cube(0)[2] > 0.015 and (np.abs(world.cube(0)[:2]) < [0.28, 0.23]).all()
    env.close()


@pytest.mark.parametrize("task", ["arm_push", "arm_pick_place", "arm_drawer"])
def test_episodes_begin_at_rest_with_nothing_inside_of_anything(task: str) -> None:
    env = make_arm(task)
    for seed in range(20):
        start = env.reset(seed=seed)[1]["state"]
        moved = act(env, (0, 0, 0, 0), 3)
        errors = env.goal_errors(moved, start)
        assert all(error < 0.3 for error in errors.values()), (seed, errors)  # cm
    env.close()

"""The Jaco arm: damped least squares, and a hand that points down."""

from __future__ import annotations

from collections.abc import Iterator

import mujoco
import numpy as np
import pytest

from envs.arm.jaco import _DAMPING, _DOWN, JacoWorld
from envs.arm.world import REACH
from envs.protocol import GoalEnv
from tests.envs.arm.worlds import act, arrange, make_arm, world_of


@pytest.fixture(scope="module")
def env() -> Iterator[GoalEnv]:
    env = make_arm("arm_push", body="jaco")
    yield env
    env.close()


def jaco_of(env: GoalEnv) -> JacoWorld:
    assert isinstance(env.world, JacoWorld)
    return env.world


def test_joint_velocities_are_those_of_damped_least_squares(env: GoalEnv) -> None:
    """They minimise |J dq - twist|^2 + damping^2 |dq|^2, of which the normal equations are an equivalent."""
    world = jaco_of(env)
    arrange(env, (0.05, -0.05, 0.1))
    twist = np.array([0.1, -0.2, 0.05, 0.1, 0.0, -0.1])
    velocities = world._solve(twist)
    linear, angular = np.zeros((3, world.model.nv)), np.zeros((3, world.model.nv))
    mujoco.mj_jacSite(world.model, world.data, linear, angular, world.model.site("grip").id)
    jacobian = np.concatenate([linear, angular])[:, world._dofs]
    normal = jacobian.T @ jacobian + _DAMPING**2 * np.eye(6)
    np.testing.assert_allclose(normal @ velocities, jacobian.T @ twist, atol=1e-9)
    np.testing.assert_allclose((jacobian @ velocities)[:3], twist[:3], atol=0.03)


def test_it_starts_anywhere_within_reach_and_points_down(env: GoalEnv) -> None:
    world, rng = jaco_of(env), np.random.default_rng(0)
    for _ in range(10):
        position = rng.uniform(*REACH)
        arrange(env, position, (0.0, 0.0, 0.025))
        np.testing.assert_allclose(world.hand(), position, atol=2e-3)
        axes = world.data.site("grip").xmat.reshape(3, 3)
        np.testing.assert_allclose(axes, _DOWN, atol=5e-3)


def test_it_points_down_while_it_moves(env: GoalEnv) -> None:
    world, rng = jaco_of(env), np.random.default_rng(1)
    arrange(env, (0, 0, 0.2), (0.2, 0.1, 0.025))
    for velocity in rng.uniform(-0.3, 0.3, (12, 3)):
        act(env, (velocity[0], velocity[1], abs(velocity[2]), 0), 2)
        downwards = -world.data.site("grip").xmat.reshape(3, 3)[2, 2]
        assert downwards > np.cos(np.radians(8))


def test_the_commanded_position_is_part_of_the_state(env: GoalEnv) -> None:
    arrange(env, (0, 0, 0.1), (0.2, 0.1, 0.025))
    act(env, (0.2, 0.1, 0, 0), 3)
    state = env.get_state()
    after = act(env, (0, 0, 0, 0), 2)
    env.reset(seed=5)
    env.set_state(state)
    np.testing.assert_array_equal(act(env, (0, 0, 0, 0), 2), after)
    assert len(state) == world_of(env).model.nq + world_of(env).model.nv + world_of(env).model.na + 5

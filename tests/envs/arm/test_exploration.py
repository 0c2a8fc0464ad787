"""Exploration with the arm: every kind does what it is for, within the limits."""

from __future__ import annotations

import numpy as np
import pytest

from envs.arm.exploration import CONTACT, HELD, PRIMITIVES, RANDOM
from envs.protocol import Floats, GoalEnv
from tests.envs.arm.worlds import make_arm, world_of
from worldmodel.core.errors import UserError

KINDS = (RANDOM, CONTACT, PRIMITIVES, HELD)


def explored(env: GoalEnv, shares: dict[str, float] | None, seed: int, steps: int = 50) -> tuple[Floats, Floats]:
    """Actions `[T, A]` and states `[T + 1, N]` of an episode."""
    states, actions = [env.reset(seed=seed)[1]["state"]], []
    explorer = env.explorer(np.random.default_rng(seed), shares)
    for _ in range(steps):
        actions.append(explorer.act(env))
        states.append(env.step(actions[-1])[4]["state"])
    return np.array(actions), np.array(states)


def only(kind: str) -> dict[str, float]:
    return {each: float(each == kind) for each in KINDS}


def share(env: GoalEnv, shares: dict[str, float] | None, what: str, episodes: int = 16) -> float:
    """Share of episodes in which the cube is moved by 2 cm or lifted by 3 cm, or the drawer moves by 6 cm."""
    layout, hits = world_of(env).layout, 0
    for seed in range(episodes):
        states = explored(env, shares, seed)[1]
        if what == "drawer":
            hits += bool(np.ptp(layout.opening(states)) > 0.06)
        else:
            moved = layout.cube(states, 0) - layout.cube(states[0], 0)
            far = np.linalg.norm(moved, axis=-1) > 0.02 if what == "moved" else moved[..., 2] > 0.03
            hits += bool(far.any())
    return hits / episodes


@pytest.mark.parametrize(
    ("task", "what", "least"),
    [
        ("arm_push", "moved", 0.7),
        ("arm_pick_place", "moved", 0.6),
        ("arm_pick_place", "lifted", 0.1),
        ("arm_drawer", "drawer", 0.5),
    ],
)
def test_most_episodes_teach_the_task(task: str, what: str, least: float) -> None:
    env = make_arm(task)
    assert share(env, None, what) >= least
    env.close()


def test_each_kind_does_what_it_is_for() -> None:
    env = make_arm("arm_pick_place")
    assert share(env, only(CONTACT), "moved") > 0.85
    assert share(env, only(PRIMITIVES), "lifted") > 0.8
    assert share(env, only(HELD), "moved") > 0.5
    assert share(env, only(RANDOM), "moved") < 0.5
    env.close()


def test_actions_keep_their_limits_and_depend_on_the_seed_alone() -> None:
    env = make_arm("arm_pick_place", cubes=2, drawers=1, goals=["air"])
    for kind in KINDS:
        actions, states = explored(env, only(kind), 3)
        assert np.isfinite(actions).all() and np.isfinite(states).all()
        assert (np.abs(actions) <= np.float32([0.3, 0.3, 0.3, 0.1])).all()
        np.testing.assert_array_equal(explored(env, only(kind), 3)[0], actions)
    env.close()


def test_held_actions_are_held() -> None:
    env = make_arm("arm_pick_place")
    actions = explored(env, only(HELD), 5)[0]
    assert (actions[1:] == actions[:-1]).all(-1).mean() > 0.4
    env.close()


def test_shares_that_cannot_be_used_are_refused() -> None:
    env = make_arm("arm_push")
    rng = np.random.default_rng(0)
    with pytest.raises(UserError, match=r"unknown kind of exploration 'primitive': .*did you mean primitives"):
        env.explorer(rng, {"primitive": 1.0})
    with pytest.raises(UserError, match=r"share of exploration held is -1: expected a number of at least 0"):
        env.explorer(rng, {"held": -1})
    with pytest.raises(UserError, match="all 0"):
        env.explorer(rng, dict.fromkeys(KINDS, 0.0))
    env.close()

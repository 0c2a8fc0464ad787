"""Arms in chosen states, for tests."""

from __future__ import annotations

from collections.abc import Sequence

import mujoco
import numpy as np

from envs.arm.world import WIDEST, ArmWorld
from envs.protocol import Floats, GoalEnv
from envs.registry import make_named


def make_arm(task: str, **options: object) -> GoalEnv:
    """An arm that does not draw what it observes, since states are all that counts."""
    env = make_named(task, **{"image_size": 16, **options})
    blank = env.reset(seed=0)[0]
    setattr(env, "observe", lambda: blank)  # noqa: B010  (mypy lets nothing else replace a method)
    return env


def world_of(env: GoalEnv) -> ArmWorld:
    assert isinstance(env.world, ArmWorld)
    return env.world


def arrange(
    env: GoalEnv,
    hand: Sequence[float],
    cube: Sequence[float] | None = None,
    yaw: float = 0.0,
    fingers: float = WIDEST,
    drawer: float | None = None,
) -> None:
    """Put the hand, the first cube and the drawer somewhere, at rest."""
    world = world_of(env)
    env.reset(seed=0)
    world.data.qvel[:] = 0
    if cube is not None:
        start = world.layout.positions[0]
        world.data.qpos[start : start + 3] = cube
        world.data.qpos[start + 3 : start + 7] = [np.cos(yaw / 2), 0, 0, np.sin(yaw / 2)]
    if drawer is not None:
        world.data.qpos[world.layout.drawer] = drawer
    world.pose(np.array(hand, np.float64), fingers)
    mujoco.mj_forward(world.model, world.data)
    env.set_state(env.get_state())


def act(env: GoalEnv, action: Sequence[float], steps: int = 1) -> Floats:
    """Take the same action several times. Returns the last state."""
    for _ in range(steps):
        info = env.step(np.array(action, np.float32))[4]
        assert not info["diverged"]
    return np.asarray(info["state"])

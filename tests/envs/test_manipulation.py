"""The tasks of dm_control.manipulation."""

from __future__ import annotations

import numpy as np
import pytest

from envs.manipulation import TASKS
from envs.protocol import Floats, GoalEnv
from envs.registry import make_named
from tests.envs.conformance import GoalEnvConformance
from worldmodel.core.errors import UserError


@pytest.mark.slow
class TestPlaceBrick(GoalEnvConformance):
    """Its model differs between episodes, because the place to put the brick on is drawn anew."""

    def make(self) -> GoalEnv:
        return make_named("manipulation", task="place_brick", image_size=32)

    def diverging_state(self, env: GoalEnv) -> Floats:
        state = env.get_state()
        state[env.world.model.nq : env.world.model.nq + env.world.model.nv] = 1e12
        return state


def test_a_task_without_objects_is_to_move_the_hand() -> None:
    env = make_named("manipulation", task="reach_site", image_size=32)
    try:
        assert [metric.name for metric in env.metrics] == ["pinchsite"] and env.name == "manipulation_reach_site"
        start = env.reset(seed=0)[1]["state"]
        actions = np.random.default_rng(0).uniform(env.action_space.low, env.action_space.high, (10, 9))
        moved = env.simulate(start, np.repeat(actions[:1], 10, axis=0)[None])[0, -1]
        assert env.goal_errors(moved, start)["pinchsite"] > 1
        assert np.isfinite(env.path_points(moved)["jaco_arm/jaco_hand/pinchsite"]).all()
    finally:
        env.close()


def test_unknown_tasks_list_the_choices() -> None:
    assert {"place_brick", "lift_large_box", "stack_2_bricks", "reach_site"} <= set(TASKS)
    with pytest.raises(
        UserError, match=r"unknown task of dm_control.manipulation 'place_brik': .*did you mean place_brick"
    ):
        make_named("manipulation", task="place_brik")

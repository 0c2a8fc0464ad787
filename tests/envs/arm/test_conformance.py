"""Every task of the arm, with each body, keeps the promises of an environment."""

from __future__ import annotations

from typing import Any, ClassVar

import pytest

from envs.arm.world import ArmWorld
from envs.protocol import Floats, GoalEnv
from envs.registry import make_named
from tests.envs.conformance import GoalEnvConformance

EVERY_FACTOR = dict.fromkeys(("light", "colours", "sizes", "camera", "friction", "mass"), True)


class Arm(GoalEnvConformance):
    task: str
    options: ClassVar[dict[str, Any]] = {"image_size": 32}

    def make(self) -> GoalEnv:
        return make_named(self.task, **self.options)

    def diverging_state(self, env: GoalEnv) -> Floats:
        state = env.get_state()
        assert isinstance(env.world, ArmWorld)
        model = env.world.model
        state[model.nq : model.nq + model.nv] = 1e12
        return state


@pytest.mark.slow
class TestPush(Arm):
    task = "arm_push"


@pytest.mark.slow
class TestPickAndPlace(Arm):
    task = "arm_pick_place"
    options: ClassVar[dict[str, Any]] = {"image_size": 32, "cameras": ["front", "side"]}


class TestDrawer(Arm):
    task = "arm_drawer"


class TestEverythingVaries(Arm):
    task = "arm_pick_place"
    options: ClassVar[dict[str, Any]] = {"image_size": 32, "distractors": True, "vary": EVERY_FACTOR}


@pytest.mark.slow
class TestTwoCubesAndADrawer(Arm):
    """What a later task is made of: a file with other options."""

    task = "arm_pick_place"
    options: ClassVar[dict[str, Any]] = {"image_size": 32, "cubes": 2, "drawers": 1, "goals": ["air", "open"]}


class TestJaco(Arm):
    task = "arm_drawer"
    options: ClassVar[dict[str, Any]] = {"image_size": 16, "body": "jaco", "cubes": 1, "distractors": True}

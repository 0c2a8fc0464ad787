"""The conformance test finds what it is there to find."""

from __future__ import annotations

import numpy as np
import pytest

from envs.protocol import Floats, GoalEnv
from envs.push import PushConfig, PushEnv
from tests.envs.conformance import GoalEnvConformance


class Still(PushEnv):
    """Its picture never changes."""

    def __init__(self) -> None:
        super().__init__(PushConfig(image_size=16))
        frame = np.random.default_rng(0).integers(0, 255, (16, 16, 3), np.uint8)
        self.world.picture = lambda camera: frame.copy()


class NumpyFlags(PushEnv):
    """Its flags are numpy's, which are no JSON."""

    def __init__(self) -> None:
        super().__init__(PushConfig(image_size=16))

    def step(self, action):
        observation, reward, terminated, truncated, info = super().step(action)
        return observation, reward, np.bool_(terminated), truncated, info


class NumpyFlagsOfTheWorld(PushEnv):
    """A world that answers with numpy's flags does no harm."""

    def __init__(self) -> None:
        super().__init__(PushConfig(image_size=16))
        advance = self.world.advance
        self.world.advance = lambda action: np.bool_(advance(action))


class OtherCamera(PushEnv):
    """Observes through a camera that its description does not have."""

    def __init__(self) -> None:
        super().__init__(PushConfig(image_size=16))

    def observe(self):
        seen = super().observe()
        return {**seen, "images": {"elsewhere": seen["images"]["camera"]}}


class Suite(GoalEnvConformance):
    def make(self) -> GoalEnv:
        return PushEnv(PushConfig(image_size=16))

    def diverging_state(self, env: GoalEnv) -> Floats:
        return env.get_state()


@pytest.fixture
def make():
    made = []

    def make_one(cls):
        made.append(cls())
        return made[-1]

    yield make_one
    for env in made:
        env.close()


@pytest.mark.parametrize(
    ("cls", "test", "message"),
    [
        (Still, Suite.test_every_camera_sees_the_difference, "camera shows 4 different states alike"),
        (NumpyFlags, Suite.test_flags_are_plain, "numpy.bool"),
        (OtherCamera, Suite.test_cameras_are_as_described, "elsewhere"),
    ],
)
def test_a_broken_promise_is_found(make, cls, test, message):
    with pytest.raises(AssertionError, match=message):
        test(Suite(), make(cls))


def test_flags_of_a_world_are_made_plain(make):
    Suite().test_flags_are_plain(make(NumpyFlagsOfTheWorld))

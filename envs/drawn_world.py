"""The base class of worlds in MuJoCo whose episodes somebody else's code begins, such as dm_control's."""

from __future__ import annotations

import abc
import copy
from collections.abc import Sequence

import mujoco
import numpy as np

from envs.cameras import CameraConfig
from envs.mujoco_world import MujocoWorld
from envs.view import hide_goal
from envs.world import Floats
from worldmodel.core.spec import ActionSpec


class DrawnWorld(MujocoWorld):
    """A MuJoCo model that `initialise` sets to the start of an episode.

    State `[N]`: `qpos`, `qvel`, `act`, and the seed of the episode, only if `initialise` changes the model too
    (terrain, gains, places of fixed objects).

    Args:
        model: the model, which is changed in place.
        data: data of the model.
        control_step_s: a whole number of the simulator's steps [s].
        cameras: the cameras.
        action_spec: specification of the action.
        hidden: prefixes of the names of objects that show a goal. They are not drawn.
    """

    def __init__(
        self,
        model: mujoco.MjModel,
        data: mujoco.MjData,
        control_step_s: float,
        cameras: Sequence[CameraConfig],
        action_spec: ActionSpec,
        hidden: tuple[str, ...],
    ) -> None:
        self._hidden = hidden
        super().__init__(model, control_step_s, cameras, action_spec, data)
        self._nominal = copy.copy(model)
        self._varies, self._variation = False, 0
        self._varies = self._draw(1) != self._draw(2)
        self.set_state(self.get_state())

    @abc.abstractmethod
    def initialise(self, seed: int) -> None:
        """Set model and data to the start of the episode `seed`."""

    def _draw(self, seed: int) -> bytes:
        """Begin the episode `seed`. Returns its model, which does not contain the hidden goal."""
        self._variation = seed
        self.initialise(seed)
        hide_goal(self.model, self._nominal, self._hidden)
        if self.model.nhfield:  # graphics contexts keep the old terrain, so they are made anew
            self.close()
        buffer = np.empty(mujoco.mj_sizeModel(self.model), np.uint8)
        mujoco.mj_saveModel(self.model, None, buffer)
        return buffer.tobytes()

    def begin(self, rng: np.random.Generator) -> None:
        self._draw(int(rng.integers(2**31)))
        self.set_state(self.get_state())

    def get_state(self) -> Floats:
        physics = super().get_state()
        return np.append(physics, self._variation) if self._varies else physics

    def set_state(self, state: Floats) -> None:
        if self._varies and int(state[-1]) != self._variation:
            self._draw(int(state[-1]))
        super().set_state(state)

    def simulate(self, state: Floats, actions: Floats) -> Floats:
        physics = super().simulate(state, actions)
        variation = np.full((*physics.shape[:-1], int(self._varies)), state[-1])
        states = np.concatenate([physics, variation], axis=-1)
        states[np.isnan(physics).any(-1)] = np.nan
        return states

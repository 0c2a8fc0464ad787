"""Gymnasium's MuJoCo environments as worlds. They keep their own `step`, and get this project's state and rendering."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import gymnasium
import mujoco
import numpy as np
from numpy.typing import NDArray

from envs.cameras import CameraConfig
from envs.measures import Measure
from envs.mujoco_world import MujocoWorld
from envs.view import hide_goal
from envs.world import Floats, World
from worldmodel.core.spec import ActionSpec


class GymMujocoWorld(MujocoWorld):
    """The world of an environment of Gymnasium in MuJoCo.

    Args:
        inner: the environment without wrappers, with `model`, `data` and `dt`.
        cameras: the cameras.
        action_spec: specification of the action. Its bounds correspond to those of `inner.action_space`.
        hidden: prefixes of the names of objects that show the environment's own goal.
    """

    def __init__(
        self,
        inner: gymnasium.Env[Any, Any],
        cameras: Sequence[CameraConfig],
        action_spec: ActionSpec,
        hidden: tuple[str, ...],
    ) -> None:
        self._inner, self._hidden = inner, hidden
        model, data = inner.model, inner.data  # type: ignore[attr-defined]
        super().__init__(model, float(inner.dt), cameras, action_spec, data)  # type: ignore[attr-defined]
        self._nominal = copy.copy(model)
        self._scale = ActionScale(action_spec, inner)
        self._measures: list[Measure] | None = None
        self.begin(np.random.default_rng(0))

    def read_proprio(self, measures: list[Measure]) -> None:
        """Use these quantities as proprioception from now on, instead of the motors' encoders."""
        self._measures = measures
        self.proprio_size = len(self.proprio())

    def begin(self, rng: np.random.Generator) -> None:
        """See `World.begin`. The environment's own `reset` chooses the state."""
        self._inner.reset(seed=int(rng.integers(2**31)))
        hide_goal(self.model, self._nominal, self._hidden)
        self.set_state(self.get_state())

    def advance(self, action: Floats) -> bool:
        with np.errstate(all="ignore"):  # its reward may warn if the simulation diverges
            self._inner.step(self._scale.to_inner(action))
        mujoco.mj_step1(self.model, self.data)  # body poses lag one substep behind the joints
        return self.has_diverged()

    def get_state(self) -> Floats:
        mocap = [self.data.mocap_pos.ravel(), self.data.mocap_quat.ravel()]
        return np.concatenate([super().get_state(), *mocap])

    def set_state(self, state: Floats) -> None:
        mujoco.mj_resetData(self.model, self.data)
        size = self.model.nmocap
        position, orientation = np.split(state[len(state) - 7 * size :], [3 * size])
        self.data.mocap_pos[:] = position.reshape(-1, 3)
        self.data.mocap_quat[:] = orientation.reshape(-1, 4)
        nq, nv, na = self.model.nq, self.model.nv, self.model.na
        self.data.qpos[:], self.data.qvel[:] = state[:nq], state[nq : nq + nv]
        self.data.act[:] = state[nq + nv : nq + nv + na]
        mujoco.mj_forward(self.model, self.data)

    def proprio(self) -> NDArray[np.float32]:
        if self._measures is None:
            return super().proprio()
        state = self.get_state()
        return np.concatenate([measure.values(state) for measure in self._measures]).astype(np.float32)

    def simulate(self, state: Floats, actions: Floats) -> Floats:
        # Only the environment's own `step` can translate an action (inverse kinematics, mocap).
        return World.simulate(self, state, actions)

    def close(self) -> None:
        super().close()
        self._inner.close()


class ActionScale:
    """Converts physical units to those of an environment's own action space, linearly between the bounds."""

    def __init__(self, spec: ActionSpec, inner: gymnasium.Env[Any, Any]) -> None:
        space = inner.action_space
        assert isinstance(space, gymnasium.spaces.Box)
        self._low, self._high = np.array(spec.low), np.array(spec.high)
        self._inner_low, self._inner_high = space.low.astype(np.float64), space.high.astype(np.float64)
        self._dtype = space.dtype

    def to_inner(self, action: Floats) -> NDArray[Any]:
        """`action [A]` in the environment's units `[A]`, within its bounds."""
        share = (action - self._low) / np.maximum(self._high - self._low, np.finfo(np.float64).tiny)
        inner = self._inner_low + share * (self._inner_high - self._inner_low)
        return np.clip(inner, self._inner_low, self._inner_high).astype(self._dtype)

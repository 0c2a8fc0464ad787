"""The base class of worlds in MuJoCo. A world from an MJCF file implements its two abstract methods."""

from __future__ import annotations

import abc
import functools
from collections.abc import Sequence

import mujoco
import numpy as np
from numpy.typing import NDArray

from envs.cameras import CameraConfig, View
from envs.joints import Encoders
from envs.rendering import LeanRenderer
from envs.simulation import roll_out
from envs.view import lighten
from envs.world import Floats, Pixels, World
from worldmodel.core.spec import ActionSpec, CameraSpec

_DIVERGENCE = [
    int(mujoco.mjtWarning.mjWARN_BADQPOS),
    int(mujoco.mjtWarning.mjWARN_BADQVEL),
    int(mujoco.mjtWarning.mjWARN_BADQACC),
]


def repeatable(model: mujoco.MjModel) -> None:
    """Make the future depend on positions, velocities and activations alone, bit for bit.

    The solver's memory of its last solution is switched off. MuJoCo's automatic reset after divergence is switched off
    too, because it would change the state without notice.
    """
    model.opt.disableflags |= mujoco.mjtDisableBit.mjDSBL_AUTORESET | mujoco.mjtDisableBit.mjDSBL_WARMSTART


class MujocoWorld(World, abc.ABC):
    """A MuJoCo model. The action is its vector of controls, held for one control step.

    State `[N]`: `qpos`, `qvel`, `act`. Proprioception `[P]`: the motors' encoders (`envs.joints.Encoders`).

    Args:
        model: the model. It is changed in place by `repeatable`, and by `lighten` with `lean`.
        control_step_s: a whole number of the simulator's steps [s].
        cameras: the cameras.
        action_spec: specification of the action, with one dimension for each control.
        data: data of the model, None for new data.
        lean: whether to switch off effects that are slow to draw without a GPU, which makes images several times
            faster. It is not needed if the model's file has no such effects.

    Raises:
        UserError: for a camera that the model does not have.
    """

    def __init__(
        self,
        model: mujoco.MjModel,
        control_step_s: float,
        cameras: Sequence[CameraConfig],
        action_spec: ActionSpec,
        data: mujoco.MjData | None = None,
        lean: bool = True,
    ) -> None:
        if lean:
            lighten(model)
        self.model, self.data = model, mujoco.MjData(model) if data is None else data
        repeatable(model)
        self.substeps = round(control_step_s / model.opt.timestep)
        self.control_step_s = float(self.substeps * model.opt.timestep)
        self.action_spec, self.simulator = action_spec, f"mujoco {mujoco.__version__}"
        self.views = tuple(View(model, camera) for camera in cameras)
        self.cameras = tuple(view.spec for view in self.views)
        self._view = {view.spec.name: view for view in self.views}
        self.proprio_size = self._encoders.size
        self._renderer = LeanRenderer(model)

    @functools.cached_property
    def _encoders(self) -> Encoders:
        return Encoders(self.model)

    @functools.cached_property
    def _scratch(self) -> mujoco.MjData:
        return mujoco.MjData(self.model)

    def advance(self, action: Floats) -> bool:
        self.data.ctrl[:] = action
        mujoco.mj_step(self.model, self.data, nstep=self.substeps)
        mujoco.mj_step1(self.model, self.data)  # body poses and sensors lag one substep behind the joints
        return self.has_diverged()

    def has_diverged(self) -> bool:
        """Whether numbers have become bad since the last `set_state`. Without auto-reset, MuJoCo continues then."""
        return bool(self.data.warning.number[_DIVERGENCE].any()) or not np.isfinite(self.data.qpos).all()

    def get_state(self) -> Floats:
        return np.concatenate([self.data.qpos, self.data.qvel, self.data.act])

    def set_state(self, state: Floats) -> None:
        mujoco.mj_resetData(self.model, self.data)
        nq, nv, na = self.model.nq, self.model.nv, self.model.na
        self.data.qpos[:], self.data.qvel[:] = state[:nq], state[nq : nq + nv]
        self.data.act[:] = state[nq + nv : nq + nv + na]
        mujoco.mj_forward(self.model, self.data)

    def picture(self, camera: CameraSpec) -> Pixels:
        return self._renderer.render(self.data, self._view[camera.name].camera, camera.height, camera.width)

    def proprio(self) -> NDArray[np.float32]:
        return self._encoders.read(self.data)

    def simulate(self, state: Floats, actions: Floats) -> Floats:
        with self.visit(state):
            return roll_out(self.model, self.data, self._scratch, actions, self.substeps)

    def close(self) -> None:
        self._renderer.close()

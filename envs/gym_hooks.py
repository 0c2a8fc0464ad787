"""Gymnasium's environments of other simulators as worlds. Two functions read and set their state."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import gymnasium
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from envs.cameras import CameraConfig
from envs.gym_mujoco import ActionScale
from envs.measures import Measure
from envs.simulation import MAX_FINITE
from envs.world import Floats, Pixels, World
from worldmodel.core.errors import UserError
from worldmodel.core.spec import ActionSpec, CameraSpec


def _no_paths(states: Floats) -> dict[str, Floats]:
    return {}


def _render(env: Any, camera: str) -> Pixels:
    return np.asarray(env.render())


@dataclasses.dataclass(frozen=True)
class Hooks:
    """Access to the state of an environment whose simulator this project does not know.

    Attributes:
        get_state: returns the full state `[N]` of the environment without its wrappers.
        set_state: restores such a state. It runs after every control step, so that the state alone decides the future.
        render: returns an image, uint8 `[H, W, 3]` of any size, of a camera by name. By default, it is the
            environment's own.
        paths: name → `[..., 2]` (column, row) in fractions of the image, for `states [..., N]`. None by default.
    """

    get_state: Callable[[Any], Floats]
    set_state: Callable[[Any, Floats], None]
    render: Callable[[Any, str], Pixels] = _render
    paths: Callable[[Floats], Mapping[str, Floats]] = _no_paths


class HookedWorld(World):
    """The world of an environment of Gymnasium with hooks.

    Args:
        inner: the environment without wrappers.
        hooks: functions that read and set its state.
        cameras: names and sizes of the images. Images are averaged to the size.
        action_spec: specification of the action. Its bounds correspond to those of `inner.action_space`.
    """

    def __init__(
        self, inner: gymnasium.Env[Any, Any], hooks: Hooks, cameras: Sequence[CameraConfig], action_spec: ActionSpec
    ) -> None:
        self._inner, self._hooks, self.action_spec = inner, hooks, action_spec
        self.cameras = tuple(camera.spec for camera in cameras)
        self._scale = ActionScale(action_spec, inner)
        self.simulator = type(inner).__module__.partition(".")[0]
        self.control_step_s = 1 / float(inner.metadata.get("render_fps") or 10)
        self.paths = hooks.paths
        self._measures: list[Measure] = []
        self.proprio_size = 0
        self.begin(np.random.default_rng(0))

    def read_proprio(self, measures: list[Measure]) -> None:
        """Use these quantities as proprioception from now on."""
        self._measures = measures
        self.proprio_size = len(self.proprio())

    def begin(self, rng: np.random.Generator) -> None:
        """See `World.begin`. The environment's own `reset` chooses the state."""
        self._inner.reset(seed=int(rng.integers(2**31)))
        self.set_state(self.get_state())

    def advance(self, action: Floats) -> bool:
        with np.errstate(all="ignore"):  # its reward may warn if the simulation diverges
            self._inner.step(self._scale.to_inner(action))
        state = self.get_state()
        if not (np.abs(state) < MAX_FINITE).all():
            return True
        self.set_state(state)  # so that the future depends on the state alone
        return False

    def get_state(self) -> Floats:
        return np.array(self._hooks.get_state(self._inner), np.float64)

    def set_state(self, state: Floats) -> None:
        self._hooks.set_state(self._inner, np.array(state))

    def picture(self, camera: CameraSpec) -> Pixels:
        frame = self._hooks.render(self._inner, camera.name)
        if frame.dtype != np.uint8 or frame.ndim != 3 or frame.shape[2] != 3:
            raise UserError(f"the picture of {camera.name} is {frame.dtype} {frame.shape}: expected uint8 [H, W, 3]")
        if frame.shape[:2] != (camera.height, camera.width):
            resized = Image.fromarray(frame).resize((camera.width, camera.height), Image.Resampling.BOX)
            return np.array(resized)
        return np.array(frame)

    def proprio(self) -> NDArray[np.float32]:
        state = self.get_state()
        readings = [measure.values(state) for measure in self._measures]
        return np.concatenate([np.empty(0), *readings]).astype(np.float32)

    def close(self) -> None:
        self._inner.close()

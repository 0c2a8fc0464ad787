"""What an environment promises, so that no other code needs to know which one it talks to.

Shapes: `H, W` image height and width in pixels, `P` proprioception, `A` action, `N` simulator state (all 1-D sizes),
`S` action sequences, `T` control steps.
"""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import gymnasium
import numpy as np
from numpy.typing import NDArray

from worldmodel.core.errors import UserError, choices_message
from worldmodel.core.spec import ActionSpec, CameraSpec

Floats = NDArray[np.float64]
Pixels = NDArray[np.uint8]


@dataclasses.dataclass(frozen=True)
class Metric:
    """One component of the distance to a goal, for example the block's position error.

    Attributes:
        name: key in `GoalEnv.goal_errors`, for example `position`.
        unit: unit it is reported in, for example `cm`.
        tolerance: success needs the error to be at most this, in the same unit.
    """

    name: str
    unit: str
    tolerance: float


def read_reset_options(options: Mapping[str, Any] | None) -> tuple[Floats | None, Floats | None]:
    """`state` and `goal` of the options of `reset`, None where they are not given. Raises UserError for other keys."""
    given = dict(options or {})
    for key in given:
        if key not in ("state", "goal"):
            raise UserError(choices_message("reset option", key, ("state", "goal")))
    return given.get("state"), given.get("goal")


def observation_space(cameras: Sequence[CameraSpec], proprio_size: int) -> gymnasium.spaces.Dict:
    """The space of an environment's observations."""
    images: dict[str, gymnasium.Space[Any]] = {
        camera.name: gymnasium.spaces.Box(0, 255, camera.shape, np.uint8) for camera in cameras
    }
    proprio = gymnasium.spaces.Box(-np.inf, np.inf, (proprio_size,), np.float32)
    return gymnasium.spaces.Dict(images=gymnasium.spaces.Dict(images), proprio=proprio)


def require_camera(name: str | None, cameras: Sequence[CameraSpec]) -> None:
    """Raises UserError where `name` is none of `cameras`; None stands for the first."""
    if name is not None and name not in [camera.name for camera in cameras]:
        raise UserError(choices_message("camera", name, [camera.name for camera in cameras]))


class Explorer(abc.ABC):
    """A policy that moves about without a goal, to record what actions do."""

    @abc.abstractmethod
    def act(self, env: GoalEnv) -> NDArray[np.float32]:
        """Action `[A]` for the environment as it stands. It may look at the simulator: it records, it does not plan."""


class GoalEnv(gymnasium.Env[dict[str, Any], NDArray[np.float32]], abc.ABC):
    """An environment whose task is "make the world look like this picture".

    Observations are `{"images": {camera: uint8 [H, W, 3]}, "proprio": float32 [P]}`, actions `float32 [A]` in physical
    units within `action_space`. No goal is set by `reset()` unless `options={"state": ..., "goal": ...}` gives one;
    `info` holds `state` (float64 [N]), `success` (bool, False without a goal) and `diverged` (bool). A diverged
    simulation ends the episode (`terminated`), success does not: holding the goal counts too. There is no time limit
    inside; whoever runs an episode brings the budget.
    """

    name: str
    action_space: gymnasium.spaces.Box  # type: ignore[assignment]
    observation_space: gymnasium.spaces.Dict
    cameras: tuple[CameraSpec, ...]
    action_spec: ActionSpec
    control_step_s: float
    metrics: tuple[Metric, ...]
    _goal: Floats | None = None

    # --- simulator state -------------------------------------------------------------------------------------------

    @abc.abstractmethod
    def get_state(self) -> Floats:
        """Everything that is needed to come back to this instant, `[N]`."""

    @abc.abstractmethod
    def set_state(self, state: Floats) -> None:
        """Return to a stored instant `[N]`. Raises ValueError for a wrong shape or a non-finite number."""

    @abc.abstractmethod
    def observe(self) -> dict[str, Any]:
        """The observation of the present state (fresh arrays; nothing is shared with the environment)."""

    @abc.abstractmethod
    def render_state(self, state: Floats, camera: str | None = None, size: int | None = None) -> Pixels:
        """Picture `[H, W, 3]` of a stored state, leaving the present one untouched.

        Args:
            state: `[N]`.
            camera: whose picture; None: of the first camera.
            size: height of the picture in place of the camera's own [pixels]; the width keeps its proportion.
        """

    def goal_images(self, state: Floats) -> dict[str, Pixels]:
        """What every camera sees in a stored state `[N]`: a goal that can be planned toward."""
        return {camera.name: self.render_state(state, camera.name) for camera in self.cameras}

    # --- goals -----------------------------------------------------------------------------------------------------

    def set_goal(self, state: Floats | None) -> None:
        """Success is measured against this state `[N]` from now on; None takes the goal away."""
        self._goal = None if state is None else np.array(state, np.float64)

    @abc.abstractmethod
    def goal_errors(self, states: Floats, goal: Floats) -> Mapping[str, Floats]:
        """Per metric the error `[...]` of `states [..., N]` against `goal [N]` or `[..., N]`, in the metric's unit."""

    def is_success(self, states: Floats, goal: Floats, scale: float = 1.0) -> NDArray[np.bool_]:
        """Whether each of `states [..., N]` meets `scale` times every metric's tolerance, `[...]`."""
        errors = self.goal_errors(states, goal)
        return np.logical_and.reduce([errors[m.name] <= scale * m.tolerance for m in self.metrics])

    def _info(self, state: Floats, diverged: bool) -> dict[str, Any]:
        """What `reset` and `step` tell beside the observation, of an environment that has come to `state [N]`."""
        success = self._goal is not None and not diverged and bool(self.is_success(state, self._goal))
        return {"state": state, "success": success, "diverged": diverged}

    def goal_cost(self, states: Floats, goal: Floats) -> Floats:
        """Sum of squared errors, each in units of its tolerance, `[...]`: what the ceiling's planner minimises."""
        errors = self.goal_errors(states, goal)
        return np.add.reduce([(errors[m.name] / m.tolerance) ** 2 for m in self.metrics])

    @abc.abstractmethod
    def is_interesting(self, start: Floats, goal: Floats) -> bool:
        """Whether going from `start [N]` to `goal [N]` is a task worth evaluating (something must have moved)."""

    # --- exploration and simulation --------------------------------------------------------------------------------

    @abc.abstractmethod
    def explorer(self, rng: np.random.Generator) -> Explorer:
        """A fresh exploration policy for one episode."""

    @abc.abstractmethod
    def simulate(self, state: Floats, actions: Floats) -> Floats:
        """States `[S, T, N]` after each of `actions [S, T, A]` from `state [N]`, without rendering. A diverged
        sequence is NaN from there on."""

    @abc.abstractmethod
    def path_points(self, states: Floats) -> Mapping[str, Floats]:
        """Image paths for plots: name → `[..., 2]` (column, row) in fractions of the frame, for `states [..., N]`."""

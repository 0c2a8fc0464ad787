"""A simulation without a task, with its state, its actions and its rendering.

Shapes: `H, W` image height and width in pixels, `P` proprioception, `A` action, `N` simulator state (all 1-D sizes),
`S` action sequences, `T` control steps.
"""

from __future__ import annotations

import abc
import contextlib
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from worldmodel.core.errors import UserError
from worldmodel.core.spec import MOST_PIXELS, ActionSpec, CameraSpec

Floats = NDArray[np.float64]
Pixels = NDArray[np.uint8]


class World(abc.ABC):
    """A simulation that can be rendered. It knows neither goals nor rewards (`envs.task.Task` does).

    Attributes:
        cameras: at least one camera, in a fixed order.
        action_spec: specification of the action.
        proprio_size: number of proprioceptive readings, P.
        control_step_s: duration of one action [s].
        simulator: name and version of the physics engine, since contacts differ between versions.
    """

    cameras: tuple[CameraSpec, ...]
    action_spec: ActionSpec
    proprio_size: int
    control_step_s: float
    simulator: str

    @abc.abstractmethod
    def begin(self, rng: np.random.Generator) -> None:
        """Set the first state of an episode. It depends on `rng` alone."""

    @abc.abstractmethod
    def advance(self, action: Floats) -> bool:
        """Hold `action [A]`, finite and within the bounds, for one control step. Returns whether the simulation
        diverged. If so, `get_state` may return numbers that are not finite."""

    @abc.abstractmethod
    def get_state(self) -> Floats:
        """The full state of the simulation, `[N]`, from which `set_state` restores it."""

    @abc.abstractmethod
    def set_state(self, state: Floats) -> None:
        """Restore a stored state `[N]`. `GoalEnv` has checked its length and that it is finite."""

    @abc.abstractmethod
    def picture(self, camera: CameraSpec) -> Pixels:
        """Image `[camera.height, camera.width, 3]` of the present state by the camera `camera.name`, in new memory.

        The size may differ from that in `cameras`, since images for people are larger.
        """

    @abc.abstractmethod
    def proprio(self) -> NDArray[np.float32]:
        """The present proprioception `[P]`, in new memory."""

    def simulate(self, state: Floats, actions: Floats) -> Floats:
        """States `[S, T, N]` after each of `actions [S, T, A]`, within the bounds, from `state [N]`.

        The present state is restored. A diverged sequence is NaN from there on. This method is right for every
        simulation, but slow. Many simulators can run several sequences at once.
        """
        states = np.full((*actions.shape[:2], len(state)), np.nan)
        with self.visit(state):
            for sequence, row in zip(actions, states, strict=True):
                self.set_state(state)
                for step, action in enumerate(sequence):
                    if not np.isfinite(action).all() or self.advance(action):
                        break
                    row[step] = self.get_state()
        return states

    @contextlib.contextmanager
    def visit(self, state: Floats) -> Iterator[None]:
        """A context in which the state is `state [N]`. At its end, the present state is restored."""
        present = self.get_state()
        self.set_state(state)
        try:
            yield
        finally:
            self.set_state(present)

    def close(self) -> None:  # noqa: B027  (what holds nothing has nothing to free)
        """Free resources of the operating system. Safe to call twice."""


def require_size(height: int, width: int, what: str = "image_size") -> None:
    """Raises UserError for images that are too small to draw, or too large to store."""
    received = height if height == width else f"{height} x {width}"
    if min(height, width) < 8:
        raise UserError(f"{what} {received} is too small: accepted are 8 pixels and more")
    if max(height, width) > MOST_PIXELS:
        raise UserError(f"{what} {received} is too large: accepted are {MOST_PIXELS} pixels and fewer")

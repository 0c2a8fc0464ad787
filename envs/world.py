"""A simulation without a task: its state, its actions and its rendering.

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
    """What can be simulated and seen. It knows neither goals nor rewards (`envs.task.Task` does).

    Attributes:
        cameras: at least one, in an order that stays.
        action_spec: what can be commanded.
        proprio_size: number of proprioceptive readings, P.
        control_step_s: how long one action lasts [s].
        simulator: what computes the physics, with its version: contacts differ between versions.
    """

    cameras: tuple[CameraSpec, ...]
    action_spec: ActionSpec
    proprio_size: int
    control_step_s: float
    simulator: str

    @abc.abstractmethod
    def begin(self, rng: np.random.Generator) -> None:
        """Go to where an episode begins, as `rng` alone decides."""

    @abc.abstractmethod
    def advance(self, action: Floats) -> bool:
        """Hold `action [A]`, finite and within the bounds, for one control step. Returns whether the simulation
        diverged; then `get_state` may hold numbers that are not finite."""

    @abc.abstractmethod
    def get_state(self) -> Floats:
        """Everything that is needed to come back to this instant, `[N]`."""

    @abc.abstractmethod
    def set_state(self, state: Floats) -> None:
        """Return to a stored instant: `[N]`, finite, and of the right length (`GoalEnv` sees to that)."""

    @abc.abstractmethod
    def picture(self, camera: CameraSpec) -> Pixels:
        """What the camera called `camera.name` sees now, `[camera.height, camera.width, 3]`, in fresh memory.

        The size may differ from that in `cameras`: pictures for people are larger.
        """

    @abc.abstractmethod
    def proprio(self) -> NDArray[np.float32]:
        """What the robot reads of itself now, `[P]`, in fresh memory."""

    def simulate(self, state: Floats, actions: Floats) -> Floats:
        """States `[S, T, N]` after each of `actions [S, T, A]`, within the bounds, from `state [N]`; the present stays.

        A diverged sequence is NaN from there on. This way is right for every simulation, and slow: many of them can do
        several sequences at once.
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
        """Be in `state [N]` for a while."""
        present = self.get_state()
        self.set_state(state)
        try:
            yield
        finally:
            self.set_state(present)

    def close(self) -> None:  # noqa: B027  (what holds nothing has nothing to free)
        """Free what the operating system gave. Safe to call twice."""


def require_size(height: int, width: int, what: str = "image_size") -> None:
    """Raises UserError for pictures that are too small to draw, or too large to keep."""
    received = height if height == width else f"{height} x {width}"
    if min(height, width) < 8:
        raise UserError(f"{what} {received} is too small: accepted are 8 pixels and more")
    if max(height, width) > MOST_PIXELS:
        raise UserError(f"{what} {received} is too large: accepted are {MOST_PIXELS} pixels and fewer")

"""Failures that begin in the middle of an episode of `push`.

Shapes: `A` action dimensions, `N` simulator state, `H, W` height and width of a camera's images.
"""

from __future__ import annotations

import collections
from collections.abc import Callable
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from envs.push import ARENA_WIDTH, BLOCK_WIDTH, PUSHER_RADIUS
from planning.environment import Environment, Floats, Observation
from planning.evaluation.optics import looked_at, quantised

PUSHED_M, DELAY_STEPS = 0.1, 3
# The camera is knocked so far out of place that no model can take the image for one of its usual place: the scene moves
# by a quarter of the image and turns. A model may well endure a tenth of both.
POSE_SHARE, POSE_TURN_DEG = 0.25, 25.0
_SLIPPERY: Final = 0.02  # of friction and damping of the block on the floor
_BLOCK: Final = slice(0, 3)  # its degrees of freedom
_FINER: Final = 2  # renderings of the moved camera are so many times finer, and then averaged
KINDS: Final = ("pushed_away", "blocked", "colours", "frozen", "pose", "slippery", "delayed")


class FailingEnv:
    """An environment in which `kind` happens from control step `since` on. None: all is well.

    Args:
        env: of `push`. It is shared, not owned, and is as before after the next `reset`.
        seed: of what chance decides: where the block is pushed to and where the camera moves to.
    """

    def __init__(self, env: Environment) -> None:
        self._env: Any = env
        self._model = self._env.world.model
        self._healthy = self._model.dof_frictionloss.copy(), self._model.dof_damping.copy()
        self.arrange(None, 0, 0)

    def arrange(self, kind: str | None, since: int, seed: int) -> None:
        """Decide what happens in the next episode."""
        self._kind, self._since, self._rng = kind, since, np.random.default_rng(seed)
        self._direction = float(self._rng.uniform(0, 2 * np.pi))
        self._turn = int(self._rng.choice([-1, 1]))

    def __getattr__(self, name: str) -> Any:
        """Everything else is the environment's own."""
        return getattr(self._env, name)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """See `Environment`."""
        self._step, self._kept = 0, None
        self._queue: collections.deque[NDArray[np.float32]] = collections.deque()
        self._model.dof_frictionloss[:], self._model.dof_damping[:] = self._healthy
        observation, info = self._env.reset(seed=seed, options=options)
        return self._seen(observation), info

    def step(self, action: NDArray[np.float32], /) -> tuple[Observation, Any, bool, bool, dict[str, Any]]:
        """See `Environment`."""
        self._step += 1
        if self._failing("slippery"):
            self._model.dof_frictionloss[_BLOCK] = _SLIPPERY * self._healthy[0][_BLOCK]
            self._model.dof_damping[_BLOCK] = _SLIPPERY * self._healthy[1][_BLOCK]
        self._queue.append(action)
        if self._failing("blocked"):
            action = np.zeros_like(action)
        elif self._failing("delayed"):
            action = self._queue[max(0, len(self._queue) - 1 - DELAY_STEPS)]
        observation, reward, terminated, truncated, info = self._env.step(action)
        if self._failing("pushed_away") and self._step == self._since and not terminated:
            self._env.set_state(self._pushed(self._env.get_state()))
            observation, info = self._env.observe(), {**info, "state": self._env.get_state()}
        return self._seen(observation), reward, terminated, truncated, info

    def _failing(self, kind: str) -> bool:
        return self._kind == kind and self._step >= self._since

    def _pushed(self, state: Floats) -> Floats:
        """`state [N]` with the block a tenth of a metre away, at rest, neither in a wall nor in the pusher."""
        reach = ARENA_WIDTH / 2 - BLOCK_WIDTH * np.sqrt(0.5)
        apart = BLOCK_WIDTH * np.sqrt(0.5) + PUSHER_RADIUS
        for turn in self._rng.permutation(np.linspace(0, 2 * np.pi, 64, endpoint=False)):
            place = state[:2] + PUSHED_M * np.array([np.cos(turn), np.sin(turn)])
            if (np.abs(place) < reach).all() and np.linalg.norm(place - state[3:5]) > apart:
                moved = state.copy()
                moved[:2], moved[5:8] = place, 0
                return moved
        return state

    def _seen(self, observation: Observation) -> Observation:
        images = observation["images"]
        if self._kept is None or not self._failing("frozen"):
            self._kept = {camera: image.copy() for camera, image in images.items()}
        change: Callable[[str], NDArray[np.uint8]] | None = None
        if self._failing("frozen"):
            change = self._kept.__getitem__
        elif self._failing("colours"):
            change = lambda camera: np.ascontiguousarray(images[camera][..., ::-1])  # noqa: E731
        elif self._failing("pose"):
            change = self._from_elsewhere
        return (
            observation if change is None else {**observation, "images": {camera: change(camera) for camera in images}}
        )

    def _from_elsewhere(self, camera: str) -> NDArray[np.uint8]:
        size = _FINER * self._env.cameras[[each.name for each in self._env.cameras].index(camera)].height
        fine = self._env.render_state(self._env.get_state(), camera, size=size)
        way = POSE_SHARE * np.array([np.cos(self._direction), np.sin(self._direction)])
        turn = POSE_TURN_DEG * self._turn
        return quantised(looked_at(fine, _FINER, (float(way[0]), float(way[1])), turn, 1.0))

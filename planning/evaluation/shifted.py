"""An environment that is seen by a camera with a shift."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from planning.environment import Environment, Floats, Observation
from planning.evaluation.manifest import Pair
from planning.evaluation.shifts import Draw, Render, Shift, apply, draw
from worldmodel.core.errors import choices_message

# Which images are shifted: that of the goal, or also those of the episode itself.
GOAL, BOTH = "goal", "both"
WHERE: Final = {GOAL: "goal image", BOTH: "goal and camera"}


class ShiftedEnv:
    """A `planning.environment.Environment` with other images; states, actions and success are those of `env`.

    An episode begins with `goal_images` of the goal of one of `pairs`. What chance decides in it depends on that pair's
    seed and the shift's name alone.

    Args:
        env: is shared, not owned: closing this closes it.
        shift: how its camera differs.
        strength: how much.
        where: `goal` (the goal image only) or `both` (the camera's images in the episode too).
        pairs: of the manifest.

    Raises:
        ValueError: for another `where`.
    """

    def __init__(self, env: Environment, shift: Shift, strength: float, where: str, pairs: Sequence[Pair]) -> None:
        if where not in WHERE:
            raise ValueError(choices_message("where", where, WHERE))
        self._env, self._shift, self._strength, self._where = env, shift, strength, where
        self._pairs = {pair.goal: pair for pair in pairs}
        self._draws: dict[str, Draw] = {}
        self._frames = 0

    def __getattr__(self, name: str) -> Any:
        """Everything else is the environment's own."""
        return getattr(self._env, name)

    def goal_images(self, state: Floats) -> dict[str, NDArray[np.uint8]]:
        """What the shifted camera sees at the goal `state [N]`, uint8 `[H, W, 3]` by camera. Begins an episode.

        Raises:
            ValueError: for a state that is the goal of no pair.
        """
        pair = self._pairs.get(tuple(np.asarray(state, np.float64).tolist()))
        if pair is None:
            raise ValueError("the goal images of a state that is the goal of no pair: expected one of the manifest")
        start, images = np.array(pair.start), self._env.goal_images(state)
        first = self._env.goal_images(start)
        self._frames = 0
        self._draws = {
            camera: draw(
                self._shift,
                self._strength,
                pair.seed,
                camera,
                self._render(start, camera, first),
                self._render(state, camera, images),
            )
            for camera in images
        }
        return self._shifted(state, images)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """See `Environment`."""
        observation, info = self._env.reset(seed=seed, options=options)
        return self._seen(observation), info

    def step(self, action: NDArray[np.float32], /) -> tuple[Observation, Any, bool, bool, dict[str, Any]]:
        """See `Environment`."""
        observation, reward, terminated, truncated, info = self._env.step(action)
        return self._seen(observation), reward, terminated, truncated, info

    def observe(self) -> Observation:
        """See `Environment`."""
        return self._seen(self._env.observe())

    def _seen(self, observation: Observation) -> Observation:
        if self._where == GOAL:
            return observation
        if not self._draws:
            raise ValueError("an observation before any episode: expected goal_images of a pair's goal first")
        self._frames += 1  # the goal image is number 0
        return {**observation, "images": self._shifted(self._env.get_state(), observation["images"])}

    def _shifted(self, state: Floats, images: Mapping[str, NDArray[np.uint8]]) -> dict[str, NDArray[np.uint8]]:
        return {
            camera: apply(
                self._shift, self._strength, self._render(state, camera, images), self._draws[camera], self._frames
            )
            for camera in images
        }

    def _render(self, state: Floats, camera: str, images: Mapping[str, NDArray[np.uint8]]) -> Render:
        """Renderings of `state [N]`, of which `images` has those of the camera's own size already."""
        image = images[camera]

        def render(factor: int) -> NDArray[np.uint8]:
            return image if factor == 1 else self._env.render_state(state, camera, size=factor * len(image))

        return render

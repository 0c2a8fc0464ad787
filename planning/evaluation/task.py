"""What a single run is asked to do: where it starts, and what it should make the world look like."""

from __future__ import annotations

import dataclasses

import numpy as np
from numpy.typing import NDArray

from planning.environment import Environment, Floats
from planning.goal_image import GoalImage
from planning.manifest import Manifest


@dataclasses.dataclass(frozen=True)
class Task:
    """One start and one goal.

    Attributes:
        goal: the goal picture, uint8 `[H, W, 3]`.
        start_state: where to start, `[N]`; None where `start_seed` decides.
        start_seed: seed of the environment's reset.
        goal_state: the simulator state that the picture shows, `[N]`; None for a photo. No planner sees it.
        title: where the goal comes from, for the user.
    """

    goal: NDArray[np.uint8]
    start_state: Floats | None
    start_seed: int
    goal_state: Floats | None
    title: str


def from_image(env: Environment, image: GoalImage, name: str, seed: int | None) -> Task:
    """Toward a picture. The start is what its file says, unless the user gave a seed. States of another size are not
    of this environment and are left aside."""
    size = len(env.get_state())
    start, goal = (s if s is not None and len(s) == size else None for s in (image.start_state, image.goal_state))
    return Task(image.pixels, start if seed is None else None, seed or 0, goal, name)


def from_manifest(env: Environment, manifest: Manifest, seed: int | None) -> Task:
    """The pair that `seed` points to, counting round; the only one, where fresh ones were drawn with `seed`."""
    index = (seed or 0) % len(manifest.pairs)
    pair = manifest.pairs[index]
    goal = np.array(pair.goal)
    title = f"pair {index} of the manifest" if len(manifest.pairs) > 1 else f"a pair drawn with seed {manifest.seed}"
    return Task(env.render_state(goal), np.array(pair.start), 0, goal, title)

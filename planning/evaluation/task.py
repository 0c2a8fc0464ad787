"""The task of an episode, which is its start and its goal."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from planning.environment import Environment, Floats
from planning.evaluation.manifest import Manifest, Pair
from planning.goal_image import CROP, GoalImage
from planning.goals import read_pictures, sub_goals
from worldmodel.core.errors import UserError
from worldmodel.core.goal import Goal, ImageGoal
from worldmodel.core.spec import EnvironmentSpec

# An image does not show a state if more than this share of its pixels differs from the rendering by more than the level
# below [of 255]. On 48 states of push and reacher, the same state rendered larger and averaged down stays at half of
# this share, and another state as far away as the goal of a task exceeds it.
_DIFFERENT_PIXELS: Final = 0.01
_DIFFERENT: Final = 48


@dataclasses.dataclass(frozen=True)
class Task:
    """One start and one goal, or several goals in turn.

    Attributes:
        goals: the goals in their order, as a model reads them.
        picture: the last goal's image of the first camera, uint8 `[H, W, 3]`.
        start_state: simulator state at the start, `[N]`. None if `start_seed` decides.
        start_seed: seed of the environment's reset.
        goal_state: simulator state that the last goal shows, `[N]`. None for a photo. No planner sees it.
        title: origin of the goal, for the user.
        seed: seed of this task's own random stream.
        notes: notes on the goal for the user.
    """

    goals: tuple[Goal, ...]
    picture: NDArray[np.uint8]
    start_state: Floats | None
    start_seed: int
    goal_state: Floats | None
    title: str
    seed: int = 0
    notes: tuple[str, ...] = ()


def from_pair(env: Environment, pair: Pair, title: str = "") -> Task:
    """The task of a pair of a manifest."""
    goal = np.array(pair.goal)
    images = env.goal_images(goal)
    return Task((ImageGoal(images),), next(iter(images.values())), np.array(pair.start), 0, goal, title, pair.seed)


def from_manifest(env: Environment, manifest: Manifest, seed: int | None) -> Task:
    """The task of pair number `seed`, modulo their number. New pairs, drawn with `seed`, are only one."""
    index = (seed or 0) % len(manifest.pairs)
    several = len(manifest.pairs) > 1
    title = f"pair {index} of the manifest" if several else f"a pair drawn with seed {manifest.seed}"
    return from_pair(env, manifest.pairs[index], title)


def from_images(env: Environment, spec: EnvironmentSpec, given: Any, seed: int | None, fit: str = CROP) -> Task:
    """The task of goal images: one image, one per camera, or a list of either. See `planning.goals`.

    The first file may hold the start, unless the user gave a seed. The last file may hold the goal state, which decides
    success.

    Raises:
        UserError: for images that cannot be used, and for images from another environment.
    """
    goals, notes = [read_pictures(one, spec, fit) for one in sub_goals(given)], []
    starts: list[Floats | None] = []
    states: list[Floats | None] = []
    for pictures, one in zip(goals, sub_goals(given), strict=True):
        start, state, note = _checked_states(env, spec, pictures, str(one))
        starts.append(start)
        states.append(state)
        notes += [note] if note else []
    return Task(
        tuple(ImageGoal({name: image.pixels for name, image in pictures.items()}) for pictures in goals),
        goals[-1][spec.cameras[0].name].pixels,
        starts[0] if seed is None else None,
        seed or 0,
        states[-1],
        " then ".join(_title(one) for one in sub_goals(given)),
        seed or 0,
        tuple(notes),
    )


def _title(given: str | Path | Mapping[str, Any]) -> str:
    return ", ".join(map(str, given.values())) if isinstance(given, Mapping) else str(given)


def _checked_states(
    env: Environment, spec: EnvironmentSpec, pictures: Mapping[str, GoalImage], name: str
) -> tuple[Floats | None, Floats | None, str]:
    """Start and goal state of one goal if they are credible, and a note for the user."""
    for image in pictures.values():
        if image.environment is not None and image.environment != spec.env:
            raise UserError(f"goal {name} shows {image.environment}, not {spec.env}: expected a picture of {spec.env}")
        for state in (image.start_state, image.goal_state):
            # Old files do not name their environment.
            if state is not None and len(state) != spec.state_size:
                raise UserError(
                    f"goal {name} holds a state of {len(state)} numbers, and {spec.env} has states of "
                    f"{spec.state_size}: expected a picture of {spec.env}"
                )
    first = next((image for image in pictures.values() if image.goal_state is not None), None)
    if first is None or first.goal_state is None:
        return next(iter(pictures.values())).start_state, None, ""
    if not _shows(env, first.goal_state, {camera: image.pixels for camera, image in pictures.items()}):
        return None, None, f"{name} does not show the simulator state that it holds: only the image is used"
    return first.start_state, first.goal_state, ""


def _shows(env: Environment, state: Floats, pictures: Mapping[str, NDArray[np.uint8]]) -> bool:
    """Whether images `[H, W, 3]`, by camera, can show `state [N]`."""
    for camera, pixels in pictures.items():
        try:
            rendered = env.render_state(state, camera)
        except ValueError:  # the simulator refuses the state
            return False
        off = np.abs(rendered.astype(np.int16) - pixels).max(-1) > _DIFFERENT
        if off.mean() > _DIFFERENT_PIXELS:
            return False
    return True

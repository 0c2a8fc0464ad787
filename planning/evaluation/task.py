"""The task of an episode: where it starts, and which goal it has."""

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

# A state's rendering differs clearly from a picture where more than this share of the pixels is off by more than that
# [of 255]. The same state drawn larger and averaged down stays at half of the share, a state that is a task away is
# beyond it (48 states of push and reacher).
_DIFFERENT_PIXELS: Final = 0.01
_DIFFERENT: Final = 48


@dataclasses.dataclass(frozen=True)
class Task:
    """One start and one goal, or several goals in turn.

    Attributes:
        goals: in their order, as a model reads them.
        picture: what the first camera should see at last, uint8 `[H, W, 3]`.
        start_state: where to start, `[N]`; None where `start_seed` decides.
        start_seed: seed of the environment's reset.
        goal_state: the simulator state that the last goal shows, `[N]`; None for a photo. No planner sees it.
        title: where the goal comes from, for the user.
        seed: of a stream of random numbers of this task's own.
        notes: what the user should know of the goal.
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
    """From a pair of a manifest."""
    goal = np.array(pair.goal)
    images = env.goal_images(goal)
    return Task((ImageGoal(images),), next(iter(images.values())), np.array(pair.start), 0, goal, title, pair.seed)


def from_manifest(env: Environment, manifest: Manifest, seed: int | None) -> Task:
    """The pair that `seed` points to, counting round; the only one, where fresh ones were drawn with `seed`."""
    index = (seed or 0) % len(manifest.pairs)
    several = len(manifest.pairs) > 1
    title = f"pair {index} of the manifest" if several else f"a pair drawn with seed {manifest.seed}"
    return from_pair(env, manifest.pairs[index], title)


def from_images(env: Environment, spec: EnvironmentSpec, given: Any, seed: int | None, fit: str = CROP) -> Task:
    """Toward pictures: one, one per camera, or a list of either. See `planning.goals`.

    The start is what the first file says, unless the user gave a seed; the last file's goal state judges.

    Raises:
        UserError: for pictures that cannot be used, and for those that another environment has made.
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
    """Start and goal state of one goal, as far as they can be believed, and what to tell the user."""
    for image in pictures.values():
        if image.environment is not None and image.environment != spec.env:
            raise UserError(f"goal {name} shows {image.environment}, not {spec.env}: expected a picture of {spec.env}")
        for state in (image.start_state, image.goal_state):
            # Files from before they named their environment.
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
    """Whether pictures `[H, W, 3]`, by camera, can be of `state [N]`."""
    for camera, pixels in pictures.items():
        try:
            rendered = env.render_state(state, camera)
        except ValueError:  # a state that the simulator refuses
            return False
        off = np.abs(rendered.astype(np.int16) - pixels).max(-1) > _DIFFERENT
        if off.mean() > _DIFFERENT_PIXELS:
            return False
    return True

"""Converts the goals of users into goals that a model reads.

A goal is an image (`goal=img.png`) or one image for each camera (`goal='{front: a.png, side: b.png}'`). A list of these
is a sequence of sub-goals (`goal='[a.png,b.png]'`). In Python, images may also be arrays, and any `Goal` that the model
reads is accepted in place of images.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from planning.goal_image import CROP, GoalImage, read_goal
from planning.inputs import read_images
from worldmodel.core.errors import UserError, choices_message
from worldmodel.core.goal import Goal, ImageGoal
from worldmodel.core.spec import EnvironmentSpec

MOST_SUB_GOALS = 1_000


def sub_goals(given: Any) -> list[Any]:
    """A goal or a sequence of goals, as a list. Raises UserError for an empty list, and for a list in a list."""
    goals = list(given) if isinstance(given, Sequence) and not isinstance(given, str) else [given]
    if not 1 <= len(goals) <= MOST_SUB_GOALS or any(isinstance(goal, list | tuple) for goal in goals):
        raise UserError(
            f"goal has {len(goals)} entries: expected a picture, or a list of 1 to {MOST_SUB_GOALS:,}, visited in turn"
        )
    return goals


def read_pictures(given: Any, spec: EnvironmentSpec, fit: str = CROP) -> dict[str, GoalImage]:
    """The image files of one goal, by camera. `given` is a path if there is one camera, or maps cameras to paths.

    Raises:
        UserError: for a camera that is missing or unknown, and for an image that cannot be used.
    """
    if not isinstance(given, Mapping):
        if not isinstance(given, str | Path) or given == "":
            raise UserError(f"goal is {given!r}: expected the path of a picture")
        if len(spec.cameras) > 1:
            each = ", ".join(f"{name}: {name}.png" for name in spec.camera_names)
            raise UserError(f"goal is one picture, and {spec.env} has several cameras: expected goal='{{{each}}}'")
        given = {spec.cameras[0].name: given}
    for name in given:
        if name not in spec.camera_names:
            raise UserError(choices_message("camera of the goal", name, spec.camera_names))
    missing = [name for name in spec.camera_names if not isinstance(given.get(name), str | Path)]
    if missing:
        raise UserError(f"goal has no picture of {missing[0]}: expected one for each of {', '.join(spec.camera_names)}")
    return {camera.name: read_goal(given[camera.name], camera, fit) for camera in spec.cameras}


def read_one(given: Any, spec: EnvironmentSpec, fit: str = CROP) -> Goal:
    """One goal from a `Goal`, an image (file or array), or a mapping from cameras to images. Raises UserError."""
    if isinstance(given, Goal):
        return given
    parts = given if isinstance(given, Mapping) else {"": given}
    if all(isinstance(part, str | Path) for part in parts.values()):
        return ImageGoal({name: image.pixels for name, image in read_pictures(given, spec, fit).items()})
    if isinstance(given, Mapping):
        # The images of several cameras may be files and arrays mixed.
        given = {
            name: read_goal(part, spec.camera(name), fit).pixels
            if isinstance(part, str | Path) and name in spec.camera_names
            else part
            for name, part in given.items()
        }
    return ImageGoal(read_images(given, spec, "goal"))


def read_goals(given: Any, spec: EnvironmentSpec, fit: str = CROP) -> tuple[Goal, ...]:
    """A goal or a sequence of goals. Raises UserError for other values, and for images that cannot be used."""
    if isinstance(given, np.ndarray):
        given = [given]
    return tuple(read_one(goal, spec, fit) for goal in sub_goals(given))

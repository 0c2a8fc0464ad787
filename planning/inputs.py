"""Checks observations of users and environments against a model's specification, and copies the observations."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from worldmodel.core.errors import UserError, choices_message
from worldmodel.core.observation import Observation
from worldmodel.core.spec import HOLD, ActionSpec, EnvironmentSpec


def read_images(given: Any, spec: EnvironmentSpec, what: str = "image") -> dict[str, NDArray[np.uint8]]:
    """One image `[H, W, 3]` per camera, from a mapping by camera or, with one camera, from the image itself.

    Raises:
        UserError: for a camera that is missing or unknown, and for an image that is not uint8 of the camera's size.
    """
    if not isinstance(given, Mapping):
        if len(spec.cameras) > 1:
            raise UserError(f"{what} is a single one: expected one for each camera, {_by_camera(spec)}")
        given = {spec.cameras[0].name: given}
    for name in given:
        if name not in spec.camera_names:
            raise UserError(choices_message("camera", name, spec.camera_names))
    return {camera.name: _picture(given, camera.name, camera.shape, what) for camera in spec.cameras}


def _by_camera(spec: EnvironmentSpec) -> str:
    return "{" + ", ".join(f"{name}: ..." for name in spec.camera_names) + "}"


def _picture(given: Mapping[str, Any], name: str, shape: tuple[int, ...], what: str) -> NDArray[np.uint8]:
    wanted = f"expected uint8 {list(shape)}"
    if given.get(name) is None:
        raise UserError(f"{what} of {name} is missing: {wanted}")
    try:
        image = np.asarray(given[name])
    except ValueError as error:
        raise UserError(f"{what} of {name} is not an array: {wanted}") from error
    if image.dtype != np.uint8 or image.shape != shape:
        raise UserError(f"{what} of {name} is {image.dtype} {list(image.shape)}: {wanted}")
    return np.array(image)


def read_numbers(given: ArrayLike, shape: tuple[int, ...], what: str) -> NDArray[np.float32]:
    """Finite numbers of a shape, in single precision. Raises UserError that names the first number that is not."""
    wanted = f"expected finite numbers {list(shape)}"
    try:
        values = np.asarray(given)
    except ValueError as error:
        raise UserError(f"{what} is not an array: {wanted}") from error
    if values.dtype.kind not in "fiu" or values.shape != shape:
        raise UserError(f"{what} is {values.dtype} {list(values.shape)}: {wanted}")
    with np.errstate(over="ignore"):
        single = values.astype(np.float32)
    broken = np.argwhere(~np.isfinite(single))
    if len(broken):
        place = tuple(broken[0].tolist())
        index = "".join(f"[{i}]" for i in place)
        raise UserError(f"{what}{index} is {values[place]}: {wanted} within float32")
    return single


def read_observation(given: Observation, spec: EnvironmentSpec, rows: int) -> Observation:
    """A copy of an observation `[B, ...]` of `rows` robots. Raises UserError if it is not finite or does not fit."""
    if len(given.proprio) != rows:
        raise UserError(f"{len(given.proprio)} observations for a controller of {rows} environments")
    proprio = np.zeros((rows, spec.proprio_size), np.float32)
    images: dict[str, list[NDArray[np.uint8]]] = {name: [] for name in spec.camera_names}
    for row in range(rows):
        where = f" of environment {row}" if rows > 1 else ""
        proprio[row] = read_numbers(given.proprio[row], (spec.proprio_size,), f"proprio{where}")
        one = {name: image[row] for name, image in given.images.items()}
        for name, image in read_images(one, spec, f"image{where}").items():
            images[name].append(image)
    return Observation({name: np.stack(each) for name, each in images.items()}, proprio)


def read_start(given: tuple[float, ...] | None, action: ActionSpec) -> NDArray[np.float32] | None:
    """The option `command`, which is the command `[A]` at the start. Raises UserError for another length."""
    return None if given is None else read_numbers(given, (action.size,), "command")


def first_command(
    given: NDArray[np.float32] | None,
    seen: Observation,
    action: ActionSpec,
    first: list[bool],
    start: NDArray[np.float32] | None = None,
) -> list[NDArray[np.float32] | None]:
    """The present command `[A]` of every row, or None if it is the last decision.

    Args:
        given: `[B, A]`, the user's commands, or None.
        seen: the observations `[B, ...]`.
        action: specification of the action, which says what rest is.
        first: for every row, whether there is no decision yet. The command is then read from the matching readings in
            dimensions that hold, and is rest in all others.
        start: `[A]`, the command at the start of an episode in dimensions that hold and have no reading.

    Raises:
        UserError: if the command of a dimension that holds is unknown.
    """
    if given is not None:
        values = read_numbers(given, (len(first), action.size), "command")
        return [values[row] for row in range(len(first))]
    if not any(first):
        return [None] * len(first)
    command = np.zeros((len(first), action.size), np.float32)
    for dimension, (name, rest, reading) in enumerate(zip(action.names, action.rest, action.hold_from, strict=True)):
        if rest == HOLD and reading is not None:
            command[:, dimension] = seen.proprio[:, reading]
        elif rest == HOLD and start is not None:
            command[:, dimension] = start[dimension]
        elif rest == HOLD:
            raise UserError(
                f"action {name} holds its last command, and there is none yet: give the one in force, command=[...] "
                f"({action.size} numbers), or train with a hold_from that says which reading shows it"
            )
        elif isinstance(rest, float | int):
            command[:, dimension] = rest
    return [command[row] if is_first else None for row, is_first in enumerate(first)]

"""Renders the motions of `envs.motion.motions` with MuJoCo, in random light, on random floors.

Shapes: `T` frames, `K` objects, `S` height and width of a frame.
"""

from __future__ import annotations

from importlib import resources
from typing import Final

import mujoco
import numpy as np
from numpy.typing import NDArray

from envs.cameras import CameraConfig, View
from envs.motion.motions import BOX, DISC, PALETTE, Motion
from envs.rendering import LeanRenderer
from envs.scenery import Scenery

VIEW_WIDTH_M: Final = 0.5  # what the camera of assets/clips.xml sees of the floor
MOST_OBJECTS: Final = 2
_PLATE_COLOUR: Final = (0.25, 0.25, 0.28)
_HIDDEN: Final = (0.0, 0.0, 0.0, 0.0)


class ClipScene:
    """The objects, the plate, the floor and the camera. Nothing depends on what was rendered before.

    Args:
        size: height and width of the frames [pixels], S.
    """

    def __init__(self, size: int) -> None:
        self._model = mujoco.MjModel.from_xml_string((resources.files("envs") / "assets" / "clips.xml").read_text())
        self._data = mujoco.MjData(self._model)
        self._view = View(self._model, CameraConfig(height=size, camera="top"))
        self._scenery, self._renderer, self._size = Scenery(self._model), LeanRenderer(self._model), size

    def render(self, motion: Motion, scenery: int, frame: int | None = None) -> NDArray[np.uint8]:
        """All frames `[T, S, S, 3]`, or one of them alone, `[1, S, S, 3]`.

        Args:
            motion: what happens.
            scenery: seed of light, floor, background and the place of the camera. 0 is the plain scene.
            frame: number of the frame; None for all.
        """
        numbers = range(len(motion.places)) if frame is None else (frame,)
        pictures = []
        for number in numbers:
            self._arrange(motion, scenery, number)
            pictures.append(self._renderer.render(self._data, self._view.camera, self._size, self._size))
        return np.stack(pictures)

    def points(self, motion: Motion, scenery: int) -> NDArray[np.float64]:
        """Where the centre of the first object is in every frame, `[T, 2]` as column and row [pixels]."""
        found = []
        for number in range(len(motion.places)):
            self._arrange(motion, scenery, number)
            found.append(self._view.project(self._data, self._data.body("object_0").xpos) * self._size)
        return np.stack(found)

    def close(self) -> None:
        """Free the graphics."""
        self._renderer.close()

    def _arrange(self, motion: Motion, scenery: int, frame: int) -> None:
        model, data = self._model, self._data
        self._scenery.arrange(data, scenery, 0.0)
        for k in range(MOST_OBJECTS):
            is_there = k < len(motion.shapes)
            for shape in (DISC, BOX):
                geom = model.geom(f"{shape}_{k}")
                shown = is_there and motion.shapes[k] == shape
                geom.rgba = (*PALETTE[motion.colours[frame, k]], 1.0) if shown else _HIDDEN
                # A disc has a radius and half a height, a box three halves.
                geom.size[: 1 if shape == DISC else 2] = motion.radius * VIEW_WIDTH_M
            if is_there:
                data.qpos[3 * k : 3 * k + 3] = [*motion.places[frame, k] * VIEW_WIDTH_M, motion.yaws[k]]
        plate = model.geom("plate")
        plate.rgba = _HIDDEN if motion.plate is None else (*_PLATE_COLOUR, 1.0)
        if motion.plate is not None:
            plate.size[0] = motion.plate.half_width * VIEW_WIDTH_M
            data.qpos[3 * MOST_OBJECTS] = motion.plate.yaw
        mujoco.mj_kinematics(model, data)
        mujoco.mj_camlight(model, data)

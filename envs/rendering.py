"""Offscreen rendering that costs a fraction of a millisecond in software.

Shadows and reflections are what is slow without a GPU: they are off. Anti-aliasing stays on, because without it more
than a third of 64-pixel frames do not change when an object moves by a millimetre.
"""

from __future__ import annotations

from typing import Any

import mujoco
import numpy as np
from numpy.typing import NDArray

from envs import graphics
from worldmodel.core.errors import UserError


class LeanRenderer:
    """Renders a model's camera to uint8 `[size, size, 3]`.

    The GL context is made on the first frame, in the process that asks for it, so that an environment can be
    made on a machine without graphics and used for states only.
    """

    def __init__(self, model: mujoco.MjModel, size: int) -> None:
        if size < 8:
            raise UserError(f"image_size {size} is too small: accepted are 8 pixels and more")
        self._model, self._size = model, size
        model.vis.global_.offwidth = max(model.vis.global_.offwidth, size)
        model.vis.global_.offheight = max(model.vis.global_.offheight, size)
        self._renderer: Any = None

    def render(self, data: mujoco.MjData, camera: str | int) -> NDArray[np.uint8]:
        """A fresh frame `[size, size, 3]` of `data` as `camera` sees it."""
        if self._renderer is None:
            if not graphics.is_available():
                raise UserError(graphics.ADVICE)
            self._renderer = mujoco.Renderer(self._model, self._size, self._size)
            flags = self._renderer.scene.flags
            for flag in (mujoco.mjtRndFlag.mjRND_SHADOW, mujoco.mjtRndFlag.mjRND_REFLECTION):
                flags[flag] = 0
        self._renderer.update_scene(data, camera)
        frame = np.empty((self._size, self._size, 3), np.uint8)
        self._renderer.render(out=frame)
        return frame

    def close(self) -> None:
        """Free the GL context. Safe to call twice; EGL prints tracebacks at exit for contexts left open."""
        if self._renderer is not None:
            self._renderer.close()
            self._renderer = None

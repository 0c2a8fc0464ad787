"""Offscreen rendering in software, in a fraction of a millisecond.

Shadows and reflections are off, because they are slow without a GPU. Anti-aliasing is on. Without it, more than a third
of all 64-pixel frames do not change when an object moves by a millimetre.
"""

from __future__ import annotations

import atexit
import functools
import weakref
from typing import Any

import mujoco
import numpy as np

from envs import graphics
from envs.world import Pixels
from worldmodel.core.errors import UserError

_open: weakref.WeakSet[LeanRenderer] = weakref.WeakSet()


def _close_all() -> None:
    for renderer in list(_open):
        renderer.close()


@functools.cache
def _close_all_at_exit() -> None:
    """Close all renderers at exit. Otherwise MuJoCo would free them during Python's shutdown, and EGL print tracebacks.

    Must be called after MuJoCo has made a context. MuJoCo has then registered the end of EGL, and exit functions run
    in reverse order.
    """
    atexit.register(_close_all)


class LeanRenderer:
    """Renders a model's cameras to uint8 `[height, width, 3]`.

    A GL context is made for the first frame of its size, in the process that renders it. An environment can therefore
    be made on a machine without graphics and used for states only.
    """

    def __init__(self, model: mujoco.MjModel) -> None:
        self._model = model
        self._renderers: dict[tuple[int, int], Any] = {}
        _open.add(self)

    def render(self, data: mujoco.MjData, camera: str | int | mujoco.MjvCamera, height: int, width: int) -> Pixels:
        """A fresh frame `[height, width, 3]` of `data` as `camera` sees it. Raises UserError without graphics."""
        renderer = self._renderers.get((height, width)) or self._make(height, width)
        renderer.update_scene(data, camera)
        frame = np.empty((height, width, 3), np.uint8)
        renderer.render(out=frame)
        return frame

    def _make(self, height: int, width: int) -> Any:
        if not graphics.is_available():
            raise UserError(graphics.ADVICE)
        buffer = self._model.vis.global_
        buffer.offwidth, buffer.offheight = max(buffer.offwidth, width), max(buffer.offheight, height)
        renderer = mujoco.Renderer(self._model, height, width)
        _close_all_at_exit()
        for flag in (mujoco.mjtRndFlag.mjRND_SHADOW, mujoco.mjtRndFlag.mjRND_REFLECTION):
            renderer.scene.flags[flag] = 0
        self._renderers[height, width] = renderer
        return renderer

    def close(self) -> None:
        """Free the GL contexts. Safe to call twice. It is called for every renderer when the process ends."""
        while self._renderers:
            self._renderers.popitem()[1].close()

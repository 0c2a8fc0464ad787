"""Chooses MuJoCo's OpenGL library. MuJoCo reads these variables on import, so this module must not import it."""

from __future__ import annotations

import ctypes.util
import importlib
import os
import sys

ADVICE = (
    "no OpenGL library for offscreen rendering: found neither EGL nor OSMesa nor a display; "
    "install one with: sudo apt-get install --no-install-recommends libosmesa6"
)


def choose_backend() -> None:
    """Set `MUJOCO_GL` to what this machine has, unless the user chose already."""
    # After a fork, llvmpipe's worker threads would hang the child.
    os.environ.setdefault("LP_NUM_THREADS", "0")
    if sys.platform.startswith("linux") and "MUJOCO_GL" not in os.environ:
        if ctypes.util.find_library("OSMesa"):
            os.environ["MUJOCO_GL"] = "osmesa"
        elif ctypes.util.find_library("EGL"):
            os.environ["MUJOCO_GL"] = "egl"
        _tell_mujoco()


def _tell_mujoco() -> None:
    """Make MuJoCo choose again if it was imported before. Its first choice is then a library that needs a display."""
    for name in ("mujoco.rendering.classic.gl_context", "mujoco.gl_context"):  # from 3.11 on, and before
        if name in sys.modules and "MUJOCO_GL" in os.environ:
            importlib.reload(sys.modules[name])


def is_available() -> bool:
    """Whether rendering is possible, by a chosen library, a display, or an operating system that always has one."""
    return not sys.platform.startswith("linux") or "MUJOCO_GL" in os.environ or "DISPLAY" in os.environ

"""How a MuJoCo model is seen: cheap to draw, without its goal markers, and where a point of it lies in the picture."""

from __future__ import annotations

from typing import Any

import mujoco
import numpy as np

from envs.protocol import Floats
from worldmodel.core.errors import UserError, choices_message


def lighten(model: mujoco.MjModel) -> None:
    """Turn off what is slow to draw without a GPU and `LeanRenderer` cannot. Call before making a renderer."""
    quality = model.vis.quality
    quality.shadowsize, quality.offsamples = 0, 4
    quality.numslices, quality.numstacks, quality.numquads = 16, 8, 1
    # A sky costs a third of a small frame even where it is hidden; as an unused flat texture it is not drawn.
    model.tex_type[model.tex_type == mujoco.mjtTexture.mjTEXTURE_SKYBOX] = mujoco.mjtTexture.mjTEXTURE_2D


def hide_goal(model: mujoco.MjModel, nominal: mujoco.MjModel, prefixes: tuple[str, ...]) -> None:
    """Make invisible what is named after a goal, and put it where `nominal` has it, so that it tells nothing.

    Args:
        model: changed in place.
        nominal: the same model as it was compiled.
        prefixes: beginnings of the names of geoms, sites, bodies and lights.
    """
    if not prefixes:
        return
    bodies = _named(model.nbody, model.body, prefixes)
    geoms = _named(model.ngeom, model.geom, prefixes)
    geoms += [g for g in range(model.ngeom) if model.geom_bodyid[g] in bodies and g not in geoms]
    sites = _named(model.nsite, model.site, prefixes)
    lights = _named(model.nlight, model.light, prefixes)
    fields = {
        "body_pos": bodies,
        "body_quat": bodies,
        "geom_pos": geoms,
        "geom_size": geoms,
        "geom_rgba": geoms,
        "site_pos": sites,
        "site_size": sites,
        "site_rgba": sites,
        "light_pos": lights,
    }
    for name, rows in fields.items():
        getattr(model, name)[rows] = getattr(nominal, name)[rows]
    model.geom_rgba[geoms, 3] = 0
    model.site_rgba[sites, 3] = 0
    model.light_active[lights] = 0


def _named(count: int, accessor: Any, prefixes: tuple[str, ...]) -> list[int]:
    return [number for number in range(count) if accessor(number).name.startswith(prefixes)]


class MarkerView:
    """Where a marked point of the robot appears to a camera.

    Args:
        model: its camera's field of view is changed in place if `fovy` is given.
        camera: name or number.
        fovy: vertical field of view [degrees], or None for the camera's own.
        marker: name of a geom, site or body.

    Raises:
        UserError: for a camera or marker that the model does not have.
    """

    def __init__(self, model: mujoco.MjModel, camera: int | str, fovy: float | None, marker: str) -> None:
        self._model = model
        names = [model.camera(number).name or str(number) for number in range(model.ncam)]
        if isinstance(camera, int) and 0 <= camera < model.ncam:
            self.camera = camera
        elif camera in names:
            self.camera = names.index(str(camera))
        else:
            raise UserError(choices_message("camera", camera, [*names, *map(str, range(model.ncam))]))
        if fovy is not None:
            model.cam_fovy[self.camera] = fovy
        self.marker = marker
        self._find_marker()

    def _find_marker(self) -> None:
        kinds = {"geom": self._model.ngeom, "site": self._model.nsite, "body": self._model.nbody}
        names: set[str] = set()
        for kind, count in kinds.items():
            for number in range(count):
                name = getattr(self._model, kind)(number).name
                if name == self.marker:
                    self._field, self._number = {"geom": "geom_xpos", "site": "site_xpos", "body": "xpos"}[kind], number
                    return
                names.add(name)
        raise UserError(choices_message("marker", self.marker, names - {"", "world"}))

    def project(self, data: mujoco.MjData) -> Floats:
        """Point `[2]` (column, row) of the marker in fractions of a square frame, for the positions in `data`."""
        mujoco.mj_kinematics(self._model, data)
        mujoco.mj_comPos(self._model, data)  # tracking cameras follow the centre of mass
        mujoco.mj_camlight(self._model, data)
        # Camera frame: x to the right, y up, looking along -z.
        axes = data.cam_xmat[self.camera].reshape(3, 3)
        x, y, z = axes.T @ (getattr(data, self._field)[self._number] - data.cam_xpos[self.camera])
        half_view = np.tan(np.radians(self._model.cam_fovy[self.camera]) / 2)
        return np.array([0.5 - x / (2 * z * half_view), 0.5 + y / (2 * z * half_view)])

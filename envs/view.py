"""The view of a MuJoCo model: fast rendering without goal markers, and the projection of points into the image."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import mujoco
import numpy as np

from envs.cameras import View
from envs.world import Floats
from worldmodel.core.errors import UserError, choices_message


def lighten(model: mujoco.MjModel) -> None:
    """Turn off what is slow to draw without a GPU, beyond `LeanRenderer`'s settings. Call before making a renderer."""
    quality = model.vis.quality
    quality.shadowsize, quality.offsamples = 0, 4
    quality.numslices, quality.numstacks, quality.numquads = 16, 8, 1
    # A sky costs a third of a small frame even if it is hidden. As an unused flat texture, it is not drawn.
    model.tex_type[model.tex_type == mujoco.mjtTexture.mjTEXTURE_SKYBOX] = mujoco.mjtTexture.mjTEXTURE_2D


def hide_goal(model: mujoco.MjModel, nominal: mujoco.MjModel, prefixes: tuple[str, ...]) -> None:
    """Hide the objects that show a goal, and restore their values from `nominal`, so that they reveal nothing.

    Args:
        model: the model, which is changed in place.
        nominal: the same model as it was compiled.
        prefixes: prefixes of the names of geoms, sites, bodies and lights.
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


class Marker:
    """A marked point of a model.

    Args:
        model: the MuJoCo model.
        name: name of a geom, site or body.

    Raises:
        UserError: for a name that the model does not have.
    """

    def __init__(self, model: mujoco.MjModel, name: str) -> None:
        self.name = name
        kinds = {"geom": model.ngeom, "site": model.nsite, "body": model.nbody}
        names: set[str] = set()
        for kind, count in kinds.items():
            for number in range(count):
                if getattr(model, kind)(number).name == name:
                    self._field, self._number = {"geom": "geom_xpos", "site": "site_xpos", "body": "xpos"}[kind], number
                    return
                names.add(getattr(model, kind)(number).name)
        raise UserError(choices_message("marker", name, names - {"", "world"}))

    def position(self, data: mujoco.MjData) -> Floats:
        """Its position `[3]` [m]. The positions in `data` must be up to date (`mj_kinematics`)."""
        return np.array(getattr(data, self._field)[self._number])


class MarkerPaths:
    """Paths of marked points in a camera's image, for states that begin with `qpos`.

    Args:
        model: the MuJoCo model.
        view: the camera's view.
        markers: the points.
    """

    def __init__(self, model: mujoco.MjModel, view: View, markers: Sequence[Marker]) -> None:
        self._model, self._view, self._markers = model, view, tuple(markers)
        self._data = mujoco.MjData(model)

    def __call__(self, states: Floats) -> dict[str, Floats]:
        """Marker name → `[..., 2]` (column, row) in fractions of the image, for `states [..., N]`. States that are not
        finite give NaN."""
        flat = states.reshape(-1, states.shape[-1])
        points = np.full((len(self._markers), len(flat), 2), np.nan)
        for number, state in enumerate(flat):
            if not np.isfinite(state).all():
                continue
            self._data.qpos[:] = state[: self._model.nq]
            mujoco.mj_kinematics(self._model, self._data)
            for marker, row in zip(self._markers, points, strict=True):
                row[number] = self._view.project(self._data, marker.position(self._data))
        shape = (*states.shape[:-1], 2)
        return {marker.name: row.reshape(shape) for marker, row in zip(self._markers, points, strict=True)}

"""Cameras of a MuJoCo model. They are its own cameras or free cameras, each with a name and an image size."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import mujoco
import numpy as np

from envs.world import Floats, require_size
from worldmodel.core.errors import UserError, choices_message
from worldmodel.core.options import from_config
from worldmodel.core.spec import CAMERA, CameraSpec


@dataclasses.dataclass(frozen=True)
class CameraConfig:
    """One camera.

    Attributes:
        name: name of its images in observations and recordings.
        height: height of its images [pixels].
        width: width of its images [pixels], None for the height.
        camera: name or number of one of the model's cameras, None for a free camera with the attributes below.
        fovy: vertical field of view [degrees], None for the camera's own.
        lookat: point that a free camera looks at [m].
        distance: distance of a free camera from this point [m].
        azimuth: viewing direction of a free camera about the vertical [degrees]. 0 is along +x, 90 along +y.
        elevation: viewing direction of a free camera above the horizontal [degrees], negative for looking down.
    """

    name: str = CAMERA
    height: int = 64
    width: int | None = None
    camera: int | str | None = None
    fovy: float | None = None
    lookat: tuple[float, ...] = (0.0, 0.0, 0.0)
    distance: float = 1.0
    azimuth: float = 90.0
    elevation: float = -45.0

    def __post_init__(self) -> None:
        if self.fovy is not None and not (isinstance(self.fovy, int | float) and 0 < self.fovy < 180):
            raise UserError(f"fovy {self.fovy!r} cannot be used: expected degrees between 0 and 180")
        if len(self.lookat) != 3 or not self.distance > 0:
            raise UserError(
                f"camera {self.name} looks at {list(self.lookat)} from {self.distance} m: "
                "expected three coordinates and a distance above 0"
            )
        require_size(self.height, self.height if self.width is None else self.width)
        assert self.spec  # raises for a name or size that is not valid

    @property
    def spec(self) -> CameraSpec:
        """Name and image size of the camera."""
        return CameraSpec(self.name, self.height, self.height if self.width is None else self.width)


def read_cameras(values: Sequence[Mapping[str, Any] | CameraConfig]) -> tuple[CameraConfig, ...]:
    """Cameras from plain values. Raises UserError for a camera that cannot be used, and for a repeated name."""
    cameras = tuple(v if isinstance(v, CameraConfig) else from_config(CameraConfig, v, "camera") for v in values)
    names = [camera.name for camera in cameras]
    if not names or len(set(names)) < len(names):
        raise UserError(f"cameras are {', '.join(names) or 'none'}: expected at least one, each name once")
    return cameras


class View:
    """The view of a model by one camera.

    Args:
        model: the model. The camera's field of view is changed in place if the configuration has one.
        config: the camera.

    Raises:
        UserError: for a camera that the model does not have.
    """

    def __init__(self, model: mujoco.MjModel, config: CameraConfig) -> None:
        self._model, self.spec = model, config.spec
        self.camera: int | mujoco.MjvCamera = self._free(config)
        if config.camera is not None:
            self.camera = _number_of(model, config.camera)
            if config.fovy is not None:
                model.cam_fovy[self.camera] = config.fovy
        elif config.fovy is not None:
            model.vis.global_.fovy = config.fovy  # all free cameras share it

    @staticmethod
    def _free(config: CameraConfig) -> mujoco.MjvCamera:
        camera = mujoco.MjvCamera()
        camera.type = mujoco.mjtCamera.mjCAMERA_FREE
        camera.lookat[:] = config.lookat
        camera.distance, camera.azimuth, camera.elevation = config.distance, config.azimuth, config.elevation
        return camera

    def project(self, data: mujoco.MjData, point: Floats) -> Floats:
        """Position `[2]` of `point` [m] in the image, (column, row) in fractions of its size.

        The positions in `data` must be up to date (`mj_kinematics`).
        """
        position, axes, fovy = self._pose(data)
        # Camera frame: x to the right, y up, looking along -z.
        x, y, z = axes.T @ (point - position)
        half_height = np.tan(np.radians(fovy) / 2)
        half_width = half_height * self.spec.width / self.spec.height
        return np.array([0.5 - x / (2 * z * half_width), 0.5 + y / (2 * z * half_height)])

    def _pose(self, data: mujoco.MjData) -> tuple[Floats, Floats, float]:
        """Position `[3]` [m], axes `[3, 3]` as columns, and vertical field of view [degrees]."""
        if isinstance(self.camera, int):
            mujoco.mj_comPos(self._model, data)  # tracking cameras follow the centre of mass
            mujoco.mj_camlight(self._model, data)
            axes = data.cam_xmat[self.camera].reshape(3, 3)
            return data.cam_xpos[self.camera], axes, float(self._model.cam_fovy[self.camera])
        azimuth, elevation = np.radians([self.camera.azimuth, self.camera.elevation])
        forward = np.array(
            [np.cos(elevation) * np.cos(azimuth), np.cos(elevation) * np.sin(azimuth), np.sin(elevation)]
        )
        right = np.array([np.sin(azimuth), -np.cos(azimuth), 0.0])
        axes = np.stack([right, np.cross(right, forward), -forward], axis=1)
        position = np.array(self.camera.lookat) - self.camera.distance * forward
        return position, axes, float(self._model.vis.global_.fovy)


def _number_of(model: mujoco.MjModel, camera: int | str) -> int:
    names = [model.camera(number).name or str(number) for number in range(model.ncam)]
    if isinstance(camera, int) and 0 <= camera < model.ncam:
        return camera
    if camera in names:
        return names.index(str(camera))
    raise UserError(choices_message("camera", camera, [*names, *map(str, range(model.ncam))]))

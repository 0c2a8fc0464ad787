"""Visual variation that no action touches: lighting, floor, camera jitter and moving background objects."""

from __future__ import annotations

import mujoco
import numpy as np

_NUM_BACKGROUND = 3
_FLOORS = ("plain", "checker", "gradient", "speckle")


class Scenery:
    """Sets the appearance of a scene from a seed. Seed 0 is the plain scene.

    The scene depends only on (seed, time), so that two numbers in a stored state restore it.
    """

    def __init__(self, model: mujoco.MjModel) -> None:
        self._model = model
        self._floor, self._camera = model.geom("floor").id, model.camera("top").id
        self._background = [model.geom(f"background_{i}").id for i in range(_NUM_BACKGROUND)]
        self._fields = {
            "geom_matid": model.geom_matid,
            "geom_rgba": model.geom_rgba,
            "geom_size": model.geom_size,
            "cam_pos": model.cam_pos,
            "light_dir": model.light_dir,
            "light_diffuse": model.light_diffuse,
            "mat_rgba": model.mat_rgba,
        }
        self._plain = {name: field.copy() for name, field in self._fields.items()}
        self._headlight = np.array(model.vis.headlight.diffuse)
        self._seed = 0

    def arrange(self, data: mujoco.MjData, seed: int, time_s: float) -> None:
        """Set the scene of `seed` as it looks `time_s` after its start."""
        if seed != self._seed:
            self._dress(seed)
            self._seed = seed
        self.move(data, time_s)

    def _dress(self, seed: int) -> None:
        for name, field in self._fields.items():
            field[:] = self._plain[name]
        self._model.vis.headlight.diffuse[:] = self._headlight
        if seed == 0:
            return
        rng = np.random.default_rng(seed)
        floor = self._model.material(_FLOORS[rng.integers(len(_FLOORS))]).id
        self._model.geom_matid[self._floor] = floor
        self._model.mat_rgba[floor, :3] = rng.uniform(0.45, 1.0, 3)
        self._model.vis.headlight.diffuse[:] = self._headlight * rng.uniform(0.4, 1.2)
        self._model.light_dir[0] = [*rng.uniform(-0.8, 0.8, 2), -1]
        self._model.light_diffuse[0] = rng.uniform(0.0, 0.3)
        self._model.cam_pos[self._camera, :2] += rng.uniform(-0.008, 0.008, 2)
        for geom in self._background:
            self._model.geom_rgba[geom] = [*rng.uniform(0.1, 0.9, 3), 1]
            self._model.geom_size[geom, 0] = rng.uniform(0.012, 0.03)
        self._centre = rng.uniform(-0.2, 0.2, (_NUM_BACKGROUND, 2))
        self._swing = rng.uniform(0.0, 0.12, (_NUM_BACKGROUND, 2))
        self._rate = rng.uniform(0.5, 2.5, (_NUM_BACKGROUND, 2))  # [rad/s]
        self._phase = rng.uniform(0, 2 * np.pi, (_NUM_BACKGROUND, 2))

    def move(self, data: mujoco.MjData, time_s: float) -> None:
        """Move the background objects to their positions at `time_s`."""
        if self._seed == 0:
            return
        data.mocap_pos[:, :2] = self._centre + self._swing * np.sin(self._rate * time_s + self._phase)
        data.mocap_pos[:, 2] = 0.002  # on the floor, under block and pusher

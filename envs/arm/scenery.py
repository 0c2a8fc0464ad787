"""What varies between episodes of the arm: distractors that no action touches, and factors of variation."""

from __future__ import annotations

import colorsys

import mujoco
import numpy as np

from envs.arm.config import Factors
from envs.arm.scene import BACKGROUND, DRAWER, cube_names
from envs.world import Floats

# Bounding volumes are computed for the largest cube when the model is compiled, and only smaller cubes are drawn.
LARGEST_CUBE, SMALLEST_CUBE = 0.03, 0.02  # half of the width [m]
_EVERY_HUE = (0.0, 1.0)
_TABLE_LIGHTNESS = (0.55, 1.05)  # factor of each channel of the table's colour
_FIELDS = (
    "geom_rgba",
    "geom_size",
    "geom_friction",
    "geom_matid",
    "mat_rgba",
    "cam_pos",
    "light_dir",
    "light_diffuse",
    "dof_frictionloss",
    "body_mass",
    "body_inertia",
)


class ArmScenery:
    """Sets a scene from a seed. Seed 0 is the plain scene.

    The scene depends only on (seed, time), so that two numbers in a stored state restore it. Every factor has its own
    random stream. Switching one on does not change the others.

    Args:
        model: the model, which is changed in place.
        factors: what varies.
        distractors: whether there are distractors.
        cubes: number of cubes.
    """

    def __init__(self, model: mujoco.MjModel, factors: Factors, distractors: bool, cubes: int) -> None:
        self._model, self._factors, self._distractors = model, factors, distractors
        self._cubes, self._scratch = cube_names(cubes), mujoco.MjData(model)
        self._has_drawer = any(model.body(number).name == DRAWER for number in range(model.nbody))
        self._plain = {name: getattr(model, name).copy() for name in _FIELDS}
        self._headlight = np.array(model.vis.headlight.diffuse)
        self._seed = 0

    @property
    def varies(self) -> bool:
        """Whether anything differs between episodes."""
        return self._distractors or self._factors.any

    def dress(self, seed: int) -> None:
        """Give the model the scene of `seed`."""
        if seed != self._seed:
            self._draw(seed)
            self._seed = seed

    def move(self, data: mujoco.MjData, time_s: float) -> None:
        """Move the objects in the background to their positions `time_s` after the start."""
        if self._seed and self._distractors:
            data.mocap_pos[:, :2] = self._centre + self._swing * np.sin(self._rate * time_s + self._phase)
            data.mocap_pos[:, 2] = 0.001  # they lie on the table

    def _draw(self, seed: int) -> None:
        for name, values in self._plain.items():
            getattr(self._model, name)[:] = values
        self._model.vis.headlight.diffuse[:] = self._headlight
        if seed:
            factors, distracted = self._factors, self._distractors
            steps = (
                (self._light, factors.light or distracted),
                (self._table, factors.colours or distracted),
                (self._camera, factors.camera or distracted),
                (self._background, distracted),
                (self._colours, factors.colours),
                (self._sizes, factors.sizes),
                (self._friction, factors.friction),
                (self._mass, factors.mass),
            )
            for number, (step, wanted) in enumerate(steps):
                if wanted:
                    step(np.random.default_rng((seed, number)))
        if self._factors.changes_physics:
            extent = self._model.stat.extent
            mujoco.mj_setConst(self._model, self._scratch)
            self._model.stat.extent = extent  # the nearest distance that is drawn is in units of it

    def _light(self, rng: np.random.Generator) -> None:
        self._model.vis.headlight.diffuse[:] = self._headlight * rng.uniform(0.3, 1.3)
        self._model.light_dir[0] = [*rng.uniform(-0.8, 0.8, 2), -1]
        self._model.light_diffuse[0] = rng.uniform(0.1, 0.35)

    def _table(self, rng: np.random.Generator) -> None:
        self._model.mat_rgba[self._model.material("table").id, :3] = rng.uniform(*_TABLE_LIGHTNESS, 3).clip(0, 1)
        if rng.random() < 0.3:  # without tiles
            table = self._model.geom("table").id
            self._model.geom_matid[table] = -1
            self._model.geom_rgba[table] = [*rng.uniform(0.5, 0.95, 3), 1]

    def _camera(self, rng: np.random.Generator) -> None:
        self._model.cam_pos += rng.uniform(-0.02, 0.02, self._model.cam_pos.shape)

    def _background(self, rng: np.random.Generator) -> None:
        discs = [self._model.geom(name).id for name in BACKGROUND]
        for geom in discs:
            self._model.geom_rgba[geom] = [*rng.uniform(0.1, 0.9, 3), 1]
            self._model.geom_size[geom, 0] = rng.uniform(0.012, 0.03)
        shape = (len(discs), 2)
        self._centre = rng.uniform(-0.18, 0.18, shape)
        self._swing = rng.uniform(0.0, 0.08, shape)
        self._rate = rng.uniform(0.5, 2.5, shape)  # [rad/s]
        self._phase = rng.uniform(0, 2 * np.pi, shape)

    def _colours(self, rng: np.random.Generator) -> None:
        hues = _EVERY_HUE if isinstance(self._factors.colours, bool) else self._factors.colours
        for name in self._cubes:
            self._model.geom(name).rgba[:3] = _vivid(rng, *hues)
        for part in ("finger", f"{DRAWER}_", "cabinet"):
            colour = _vivid(rng, *_EVERY_HUE)
            for name in self._names():
                if name.startswith(part):
                    self._model.geom(name).rgba[:3] = colour

    def _names(self) -> list[str]:
        return [self._model.geom(number).name for number in range(self._model.ngeom)]

    def _sizes(self, rng: np.random.Generator) -> None:
        for name in self._cubes:
            self._resize(name, float(rng.uniform(SMALLEST_CUBE, LARGEST_CUBE)))

    def _resize(self, name: str, half: float) -> None:
        """Give a cube another size and the same mass. The inertia of a cube is m (2 h)² / 6 about each axis."""
        body = self._model.body(name)
        self._model.geom(name).size[:] = half
        body.inertia[:] = body.mass[0] * (2 * half) ** 2 / 6

    def _friction(self, rng: np.random.Generator) -> None:
        for name in (*self._cubes, "table"):  # contacts take the larger one of two
            self._model.geom(name).friction[0] = rng.uniform(0.25, 0.9)
        if self._has_drawer:
            self._model.joint(DRAWER).frictionloss[:] *= rng.uniform(0.5, 2.0)

    def _mass(self, rng: np.random.Generator) -> None:
        for name in (*self._cubes, *([DRAWER] if self._has_drawer else [])):
            body, factor = self._model.body(name), rng.uniform(0.5, 2.0)
            body.mass[:] *= factor
            body.inertia[:] *= factor


def _vivid(rng: np.random.Generator, first: float, last: float) -> Floats:
    """A colour `[3]` that is not grey, with a hue from `first` to `last`: one channel is strong and one is weak."""
    while True:
        colour = rng.permutation([rng.uniform(0.7, 1.0), rng.uniform(0.1, 0.9), rng.uniform(0.0, 0.3)])
        hue = colorsys.rgb_to_hsv(*colour)[0]
        if first <= hue <= last if first < last else hue >= first or hue <= last:
            return np.asarray(colour)

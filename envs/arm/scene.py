"""Builds the scene of an arm from its files, and knows where its objects are in a state."""

from __future__ import annotations

import dataclasses
from importlib import resources

import mujoco
import numpy as np

from envs.world import Floats

_COLOURS = ((0.86, 0.20, 0.18), (0.16, 0.38, 0.80), (0.22, 0.60, 0.30), (0.95, 0.75, 0.15))  # of the cubes, in turn
CUBE = 0.025  # half of the width of a cube [m]
BACKGROUND = ("background_0", "background_1", "background_2")
DRAWER = "drawer"
HANDLE = "handle"  # its geom
GRIP = "grip"  # the site between the finger tips, and the actuator of the fingers


def cube_names(count: int) -> tuple[str, ...]:
    """Names of the cubes, which are those of their bodies, joints and geoms."""
    return ("cube",) if count == 1 else tuple(f"cube_{number + 1}" for number in range(count))


def read_part(file: str) -> mujoco.MjSpec:
    """A part of the scene from `envs/assets/`."""
    return mujoco.MjSpec.from_string((resources.files("envs") / "assets" / file).read_text())


def build(body: mujoco.MjSpec, cubes: int, half_width: float, drawer: bool, background: bool) -> mujoco.MjModel:
    """The model of a table with `body` above it.

    Args:
        body: the gripper, with its actuators and the site `grip`.
        cubes: number of cubes.
        half_width: half of the width of each cube [m].
        drawer: whether there is a drawer.
        background: whether there are objects in the background, which nothing touches.
    """
    scene = read_part("arm_table.xml")
    _attach(scene, body)
    for number, name in enumerate(cube_names(cubes)):
        _attach(scene, read_part("arm_cube.xml"))
        for element in (scene.body("cube"), scene.joint("cube"), scene.geom("cube")):
            element.name = name
        scene.geom(name).size = [half_width] * 3
        scene.geom(name).rgba = [*_COLOURS[number], 1]
    if drawer:
        _attach(scene, read_part("arm_drawer.xml"))
    for name in BACKGROUND if background else ():
        _add_background(scene, name)
    return scene.compile()


def _attach(scene: mujoco.MjSpec, part: mujoco.MjSpec) -> None:
    scene.attach(part, prefix="", frame=scene.worldbody.add_frame())


def _add_background(scene: mujoco.MjSpec, name: str) -> None:
    """A flat disc on the table, which the scenery moves."""
    body = scene.worldbody.add_body(name=name, mocap=True, pos=[0, 0, -1])
    body.add_geom(name=name, type=mujoco.mjtGeom.mjGEOM_CYLINDER, size=[0.02, 0.001, 0], contype=0, conaffinity=0)


@dataclasses.dataclass(frozen=True)
class Layout:
    """Where the objects are in a state, which begins with `qpos` and `qvel`.

    Attributes:
        cubes: names of the cubes.
        positions: index of each cube's position [m]; two more numbers follow it.
        velocities: index of each cube's velocity [m/s], likewise.
        drawer: index of the drawer's opening [m], None without a drawer.
    """

    cubes: tuple[str, ...]
    positions: tuple[int, ...]
    velocities: tuple[int, ...]
    drawer: int | None

    @classmethod
    def of(cls, model: mujoco.MjModel, cubes: int, drawer: bool) -> Layout:
        """The layout of a model that `build` made."""
        names = cube_names(cubes)
        return cls(
            names,
            tuple(int(model.joint(name).qposadr[0]) for name in names),
            tuple(model.nq + int(model.joint(name).dofadr[0]) for name in names),
            int(model.joint(DRAWER).qposadr[0]) if drawer else None,
        )

    def cube(self, states: Floats, number: int) -> Floats:
        """Position `[..., 3]` [m] of a cube in `states [..., N]`."""
        return states[..., self.positions[number] : self.positions[number] + 3]

    def velocity(self, states: Floats, number: int) -> Floats:
        """Velocity `[..., 3]` [m/s] of a cube in `states [..., N]`."""
        return states[..., self.velocities[number] : self.velocities[number] + 3]

    def opening(self, states: Floats) -> Floats:
        """Opening `[...]` [m] of the drawer in `states [..., N]`."""
        assert self.drawer is not None, "this scene has no drawer"
        return np.asarray(states[..., self.drawer])

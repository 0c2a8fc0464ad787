"""Options of the arm's tasks."""

from __future__ import annotations

import dataclasses
from typing import Any, Final

from envs.cameras import CameraConfig
from worldmodel.core.configs import with_body
from worldmodel.core.errors import UserError, choices_message
from worldmodel.core.options import from_config

BODIES: Final = ("hand", "jaco")
CAMERAS: Final = ("front", "side")
# Kinds of goals. Of the cube: on another place of the table, or held in the air. Of the drawer: further open or closed.
PLACE, AIR, OPEN, CLOSE = "place", "air", "open", "close"
GOALS_OF_CUBES, GOALS_OF_DRAWER = (PLACE, AIR), (OPEN, CLOSE)
MOST_CUBES: Final = 4  # more do not fit on the table beside each other and a drawer


@dataclasses.dataclass(frozen=True)
class Factors:
    """Factors of variation. Each one that is switched on is drawn anew in every episode.

    Attributes:
        light: direction and brightness of the lamps.
        colours: of the table, the cubes, the drawer and the fingers. Two numbers from 0 to 1 also say which hues the
            cubes have, from the first to the second and past 1. Red is 0, green a third, and blue two thirds.
        sizes: of the cubes, from 4 to 6 cm.
        camera: positions of the cameras, by up to 2 cm along each axis.
        friction: of the cubes on the table, and of the drawer in its cabinet.
        mass: of the cubes and the drawer.
    """

    light: bool = False
    colours: bool | tuple[float, ...] = False
    sizes: bool = False
    camera: bool = False
    friction: bool = False
    mass: bool = False

    def __post_init__(self) -> None:
        if not isinstance(self.colours, bool):
            hues = self.colours
            if len(hues) != 2 or not all(0 <= hue <= 1 for hue in hues) or hues[0] == hues[1]:
                raise ValueError(f"colours {list(hues)}: expected true, false or two different hues from 0 to 1")

    @property
    def any(self) -> bool:
        """Whether at least one is switched on."""
        return any(dataclasses.asdict(self).values())

    @property
    def changes_physics(self) -> bool:
        """Whether one that changes what actions do is switched on."""
        return self.sizes or self.friction or self.mass


@dataclasses.dataclass(frozen=True)
class ArmConfig:
    """One task of the arm.

    Attributes:
        name: name of the folder of data and checkpoints. The name of a body other than `hand` is added to it.
        goals: kinds of goals, which take turns in a manifest. `place` and `air` are of cubes, `open` and `close` of the
            drawer.
        cubes: number of cubes.
        drawers: number of drawers, 0 or 1.
        body: `hand`, a parallel gripper on three slides, or `jaco`, the Kinova arm of dm_control.
        image_size: height and width of the frames [pixels].
        cameras: `front`, `side`, or both.
        distractors: random lighting, table, camera jitter, and background objects that no action touches.
        vary: factors of variation (`Factors`).
        cube_tolerance_m: largest distance of a cube from its goal that counts as success.
        drawer_tolerance_m: largest error of the drawer's opening that counts as success.
        cube_min_change_m: a goal is used if a cube has to move at least this far.
        drawer_min_change_m: or if the drawer has to move at least this far.
    """

    name: str
    goals: tuple[str, ...]
    cubes: int
    drawers: int
    body: str = "hand"
    image_size: int = 64
    cameras: tuple[str, ...] = CAMERAS
    distractors: bool = False
    vary: Any = dataclasses.field(default_factory=dict)
    cube_tolerance_m: float = 0.03
    drawer_tolerance_m: float = 0.01
    cube_min_change_m: float = 0.05
    drawer_min_change_m: float = 0.06

    def __post_init__(self) -> None:
        if self.body not in BODIES:
            raise UserError(choices_message("body", self.body, BODIES))
        if self.drawers not in (0, 1):
            raise UserError(f"drawers {self.drawers}: expected 0 or 1")
        if not 0 <= self.cubes <= MOST_CUBES or not (self.cubes or self.drawers):
            raise UserError(f"cubes {self.cubes}: expected 0 to {MOST_CUBES}, and at least one without a drawer")
        accepted = (*(GOALS_OF_CUBES if self.cubes else ()), *(GOALS_OF_DRAWER if self.drawers else ()))
        for kind in self.goals:
            if kind not in accepted:
                raise UserError(choices_message(f"kind of goal of {self.name}", kind, accepted))
        for what, values in (("goals", self.goals), ("cameras", self.cameras)):
            if not values or len(set(values)) < len(values):
                raise UserError(f"{what} are {', '.join(values) or 'none'}: expected at least one, each name once")
        for key in ("cube_tolerance_m", "drawer_tolerance_m", "cube_min_change_m", "drawer_min_change_m"):
            if not getattr(self, key) > 0:
                raise UserError(f"{key} {getattr(self, key)!r} cannot be used: expected metres, above 0")
        assert self.views and self.factors  # raise for values that cannot be used

    @property
    def full_name(self) -> str:
        """The environment's name, as the commands have it too."""
        return with_body(self.name, self.body)

    @property
    def views(self) -> tuple[CameraConfig, ...]:
        """The cameras."""
        for camera in self.cameras:
            if camera not in CAMERAS:
                raise UserError(choices_message("camera", camera, CAMERAS))
        return tuple(CameraConfig(camera, self.image_size, camera=camera) for camera in self.cameras)

    @property
    def factors(self) -> Factors:
        """The factors of variation."""
        return self.vary if isinstance(self.vary, Factors) else from_config(Factors, self.vary, "vary")

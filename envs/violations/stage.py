"""A stage on which things slide along lanes, and on which nobody acts.

Lengths are in metres. x runs to the right, y away from the camera, z up.

Shapes: `N` state, `T` rows of a clip.
"""

from __future__ import annotations

import dataclasses
from importlib import resources
from typing import Final

import mujoco
import numpy as np
from numpy.typing import NDArray

from envs.cameras import CameraConfig
from envs.mujoco_world import MujocoWorld
from envs.world import Floats
from worldmodel.core.spec import ActionSpec

RADIUS: Final = 0.065  # of every thing, also of boxes, which are as high as balls
WALL_HALF_WIDTH: Final = 0.02
PLATFORM_HALF_WIDTH: Final = 0.8
PLATFORM_HEIGHT: Final = 0.2
NEAR_LANE, FAR_LANE = 0.0, 0.24  # y of the lanes, which do not touch each other
SHAPES: Final = ("ball", "box", "pill")
COLOURS: Final = (
    (0.85, 0.20, 0.15), (0.15, 0.35, 0.85), (0.15, 0.60, 0.20), (0.90, 0.75, 0.10), (0.55, 0.20, 0.65),
    (0.95, 0.50, 0.10),
)  # fmt: skip
_SCREENS: Final = ((0.30, 0.34, 0.40), (0.45, 0.38, 0.34), (0.35, 0.42, 0.36), (0.42, 0.36, 0.45))
_FLOORS: Final = ((0.80, 0.80, 0.78), (0.72, 0.76, 0.80), (0.80, 0.74, 0.68), (0.74, 0.80, 0.72))
SCREENS, FLOORS = len(_SCREENS), len(_FLOORS)
# In front of both lanes, and behind them: the screen is in every picture, and hides something only in front.
_SCREEN_Y: Final = {True: -0.16, False: 0.45}
# Behind the backdrop, where no camera sees it and nothing touches anything.
_AWAY: Final = {"thing_0": 50.0, "thing_1": 55.0, "wall": 60.0, "platform": 65.0}
_POSITIONS, _VELOCITIES, _FIXTURES, _LOOK = slice(0, 6), slice(6, 12), slice(12, 21), slice(21, 27)
STATE_SIZE: Final = 27
CONTROL_STEP_S: Final = 0.1
# Columns of the state that belong to a thing, by what they say about it.
X: Final = ((0, 6), (3, 9))
MOTION: Final = ((0, 1, 2, 6, 7, 8), (3, 4, 5, 9, 10, 11))
SHAPE: Final = (21, 22)
COLOUR: Final = (23, 24)


@dataclasses.dataclass(frozen=True)
class Thing:
    """What slides along a lane at the start of a clip.

    Attributes:
        x: its place on the lane [m].
        speed: its velocity along x [m/s].
        shape: number in `SHAPES`.
        colour: number in `COLOURS`.
        lane: y of its lane [m].
        height: z of what it stands on [m].
    """

    x: float
    speed: float
    shape: int
    colour: int
    lane: float = NEAR_LANE
    height: float = 0.0


@dataclasses.dataclass(frozen=True)
class Stage:
    """What does not move in a clip.

    Attributes:
        screen: x of the screen's middle [m].
        in_front: whether the screen stands in front of the lanes, so that it hides what passes, or behind them.
        screen_colour: number of its colour, below `SCREENS`.
        floor_colour: number of the floor's colour, below `FLOORS`.
        wall: x of a wall across the near lane [m], None for no wall.
        platform: x of the middle of a platform along the near lane [m], None for no platform.
    """

    screen: float
    in_front: bool
    screen_colour: int
    floor_colour: int
    wall: float | None = None
    platform: float | None = None

    def state(self, *things: Thing) -> Floats:
        """The state `[N]` with at most two `things` on this stage."""
        state = np.zeros(STATE_SIZE)
        for index in range(2):
            state[MOTION[index][1]], state[MOTION[index][2]] = _AWAY[f"thing_{index}"], RADIUS
        for index, thing in enumerate(things):
            state[list(MOTION[index])] = [thing.x, thing.lane, RADIUS + thing.height, thing.speed, 0, 0]
            state[SHAPE[index]], state[COLOUR[index]] = thing.shape, thing.colour
        screen = [self.screen, _SCREEN_Y[self.in_front], 0.2]
        wall = [0, _AWAY["wall"], 0.24] if self.wall is None else [self.wall, NEAR_LANE, 0.24]
        middle = [0, _AWAY["platform"], 0.1] if self.platform is None else [self.platform, NEAR_LANE, 0.1]
        state[_FIXTURES] = [*screen, *wall, *middle]
        state[25:27] = self.screen_colour, self.floor_colour
        return state


class StageWorld(MujocoWorld):
    """Two things, a screen, a wall and a platform.

    State `[27]`: positions of both things [m], their velocities [m/s], positions of screen, wall and platform [m], then
    the numbers of the things' shapes and colours, and of the colours of screen and floor. What is not on the stage is
    behind the backdrop. The action `[1]` is always zero, since there is no robot.
    """

    def __init__(self, image_size: int) -> None:
        text = (resources.files("envs") / "assets" / "stage.xml").read_text()
        model = mujoco.MjModel.from_xml_string(text)
        nobody = ActionSpec((0.0,), (0.0,), ("",), ("nothing",))
        camera = CameraConfig(height=image_size, fovy=42.0, lookat=(0.0, 0.1, 0.15), distance=1.4, elevation=-22.0)
        super().__init__(model, CONTROL_STEP_S, (camera,), nobody, lean=False)
        self._drawn = [[model.geom(f"{shape}_{index}").id for shape in SHAPES] for index in range(2)]
        self._screen, self._floor = model.geom("screen").id, model.geom("floor").id
        self._look = np.zeros(_LOOK.stop - _LOOK.start)

    def begin(self, rng: np.random.Generator) -> None:
        """One thing that slides along a lane."""
        stage = Stage(rng.uniform(-0.15, 0.15), False, int(rng.integers(SCREENS)), int(rng.integers(FLOORS)))
        thing = Thing(rng.uniform(-0.4, 0.4), rng.uniform(-0.5, 0.5), int(rng.integers(3)), int(rng.integers(6)))
        self.set_state(stage.state(thing))

    def advance(self, action: Floats) -> bool:
        mujoco.mj_step(self.model, self.data, nstep=self.substeps)
        mujoco.mj_kinematics(self.model, self.data)  # mj_step leaves poses one substep behind the joints
        return self.has_diverged()

    def get_state(self) -> Floats:
        return np.concatenate([self.data.qpos, self.data.qvel, self.data.mocap_pos.reshape(-1), self._look])

    def set_state(self, state: Floats) -> None:
        mujoco.mj_resetData(self.model, self.data)
        self.data.qpos[:], self.data.qvel[:] = state[_POSITIONS], state[_VELOCITIES]
        self.data.mocap_pos[:] = state[_FIXTURES].reshape(3, 3)
        self._dress(state[_LOOK])
        mujoco.mj_forward(self.model, self.data)

    def _dress(self, look: Floats) -> None:
        """Give everything the shape and colours of `look [6]`."""
        self._look = look.copy()
        shapes, colours, (screen, floor) = look.astype(int).reshape(3, 2)
        for drawn, shape, colour in zip(self._drawn, shapes, colours, strict=True):
            self.model.geom_rgba[drawn, 3] = 0.0
            self.model.geom_rgba[drawn[shape]] = [*COLOURS[colour], 1.0]
        self.model.geom_rgba[self._screen, :3] = _SCREENS[screen]
        self.model.geom_rgba[self._floor, :3] = _FLOORS[floor]

    def proprio(self) -> NDArray[np.float32]:
        return np.zeros(0, np.float32)

    def film(self, state: Floats, rows: int) -> Floats:
        """The states `[T, N]` of `rows` control steps from `state [N]` on, which is the first."""
        self.set_state(state)
        states = [self.get_state()]
        for _ in range(rows - 1):
            assert not self.advance(np.zeros(1)), "nothing on this stage is stiff enough to diverge"
            states.append(self.get_state())
        return np.stack(states)

    def simulate(self, state: Floats, actions: Floats) -> Floats:
        # What is fixed is part of the state, and MuJoCo's rollouts do not set it.
        with self.visit(state):
            ahead = self.film(state, actions.shape[1] + 1)[1:]
        return np.tile(ahead, (len(actions), 1, 1))

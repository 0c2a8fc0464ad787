"""Planar pushing in scenes where going straight to the goal fails: around a wall, also with another block in the way.

The physics, the camera and the pusher are those of `envs.push`. Lengths are in metres and angles in radians.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from importlib import resources
from typing import Final

import mujoco
import numpy as np

from envs.cameras import CameraConfig
from envs.exploration import SmoothRandomExplorer, SwitchingExplorer
from envs.mujoco_world import MujocoWorld
from envs.protocol import Explorer, Floats, GoalEnv, Metric, Task
from envs.push import (
    ARENA_WIDTH,
    BLOCK_WIDTH,
    CONTROL_STEP_S,
    MAX_SPEED,
    PUSHER_RADIUS,
    PushThroughExplorer,
    to_frame,
)
from envs.registry import EnvFamily
from worldmodel.core.spec import ActionSpec

COLOURS: Final = ("red", "green")  # of the blocks, in the order of the state
WALL_HALF_WIDTH: Final = 0.01  # as thick as the walls around the arena
_GREEN: Final = (0.20, 0.65, 0.25, 1.0)
_HALF: Final = ARENA_WIDTH / 2
_CORNER: Final = BLOCK_WIDTH * np.sqrt(0.5)  # from the middle of a block to its corner
_PUSHER: Final = slice(3, 5)
_BLOCKS: Final = (slice(0, 3), slice(5, 8))  # x, y, yaw of every block
# Of the position, in per cent of the arena's width. It is that of `push` for one block. Two have more, since the pusher
# easily touches the first one again while it finishes the second.
_TOLERANCE: Final = {1: 4.0, 2: 6.0}
_DRAWS: Final = 10_000  # far more than any scene that has room needs


@dataclasses.dataclass(frozen=True)
class PushSceneConfig:
    """Options of the scene.

    Attributes:
        name: name of the folder of data and checkpoints.
        blocks: number of blocks, 1 or 2.
        wall_length: length of a wall across the middle of the arena, from its left side [m]. Behind its free end is a
            gap. 0 for no wall.
        image_size: height and width of the frames [pixels].
    """

    name: str
    blocks: int
    wall_length: float
    image_size: int = 64

    def __post_init__(self) -> None:
        if self.blocks not in (1, 2):
            raise ValueError(f"blocks {self.blocks} must be 1 or 2")
        # The gap has to let a block and the pusher beside it through, at any yaw of the block.
        longest = ARENA_WIDTH - 2 * _CORNER - 2 * PUSHER_RADIUS
        if not 0 <= self.wall_length <= longest:
            raise ValueError(f"wall_length {self.wall_length} must be at least 0 and at most {longest:.2f}")


@dataclasses.dataclass(frozen=True)
class Layout:
    """Where there is room in a scene.

    Attributes:
        blocks: number of blocks.
        wall_length: see `PushSceneConfig`.
    """

    blocks: int
    wall_length: float

    @property
    def wall_end(self) -> float:
        """x of the wall's free end [m]."""
        return self.wall_length - _HALF

    def to_wall(self, point: Floats) -> float:
        """Distance [m] of `point [2]` from the wall in the middle, infinite without one."""
        if not self.wall_length:
            return np.inf
        beyond = np.maximum([point[0] - self.wall_end, abs(point[1]) - WALL_HALF_WIDTH], 0)
        return float(np.hypot(*beyond))

    def has_room(self, point: Floats, radius: float) -> bool:
        """Whether a disc around `point [2]` touches no wall."""
        return bool((np.abs(point) < _HALF - radius).all()) and self.to_wall(point) > radius

    def state(self, blocks: Sequence[Floats], pusher: Floats) -> Floats:
        """The state `[N]` at rest with blocks at `[3]` each and the pusher at `[2]`."""
        positions = np.concatenate([blocks[0], pusher, *blocks[1:]])
        return np.concatenate([positions, np.zeros_like(positions)])

    def place(self, rng: np.random.Generator, taken: Sequence[tuple[Floats, float]], radius: float) -> Floats:
        """A random point `[2]` with room for a disc of `radius`, apart from the discs `taken` (centre and radius)."""
        for _ in range(_DRAWS):
            point = rng.uniform(radius - _HALF, _HALF - radius, 2)
            apart = all(np.linalg.norm(point - other) > radius + room for other, room in taken)
            if apart and self.has_room(point, radius):
                return point
        raise AssertionError("a scene of this size has room")

    def arrange(self, rng: np.random.Generator) -> Floats:
        """A random state `[N]` at rest, in which nothing touches."""
        taken: list[tuple[Floats, float]] = []
        for _ in range(self.blocks):
            taken.append((self.place(rng, taken, _CORNER), _CORNER))
        blocks = [np.append(point, rng.uniform(-np.pi, np.pi)) for point, _ in taken]
        return self.state(blocks, self.place(rng, taken, PUSHER_RADIUS))


class PushSceneEnv(GoalEnv):
    """Planar pushing at 10 Hz with a wall, two blocks, or both.

    Action `[2]`: velocity of the pusher [m/s], each within ±0.4. Proprioception `[2]`: position of the pusher [m].
    State `[N]`: positions (red block x, y [m] and yaw [rad], pusher x, y [m], then the green block, if there is one),
    followed by their velocities. Success: the block is within 4 % of the arena's width of its goal. Of two blocks, each
    is within 6 %. The yaw does not count, since these scenes test the way.
    """

    def __init__(self, config: PushSceneConfig) -> None:
        layout = Layout(config.blocks, config.wall_length)
        super().__init__(config.name, PushSceneWorld(layout, config.image_size), PushSceneTask(layout))


class PushSceneWorld(MujocoWorld):
    """The blocks, the pusher and the walls."""

    def __init__(self, layout: Layout, image_size: int) -> None:
        model = _build(layout)
        low, high = model.actuator_ctrlrange.T.astype(np.float32)
        action = ActionSpec(tuple(low.tolist()), tuple(high.tolist()), ("m/s", "m/s"), ("vx", "vy"))
        camera = CameraConfig(height=image_size, camera="top")
        super().__init__(model, CONTROL_STEP_S, (camera,), action, lean=False)
        self._layout = layout
        self._places = [0, 1, 3, 4, 5, 6][: 2 + 2 * layout.blocks]  # x and y of everything that moves

    def begin(self, rng: np.random.Generator) -> None:
        """Place blocks and pusher at random, apart, at rest."""
        self.set_state(self._layout.arrange(rng))

    def has_diverged(self) -> bool:
        # A position far outside is as bad as a number that is not finite.
        return super().has_diverged() or not (np.abs(self.data.qpos[self._places]) < ARENA_WIDTH).all()

    def simulate(self, state: Floats, actions: Floats) -> Floats:
        states = super().simulate(state, actions)
        outside = ~(np.abs(states[..., self._places]) < ARENA_WIDTH).all(-1)
        states[np.maximum.accumulate(outside, axis=1)] = np.nan
        return states


def _build(layout: Layout) -> mujoco.MjModel:
    """The model of `push` with the further parts of the scene."""
    spec = mujoco.MjSpec.from_string((resources.files("envs") / "assets" / "push.xml").read_text())
    if layout.wall_length:
        wall = spec.worldbody.add_geom(spec.find_default("wall"))
        half = layout.wall_length / 2
        wall.name, wall.pos, wall.size = "wall_middle", [half - _HALF, 0, 0.02], [half, WALL_HALF_WIDTH, 0.02]
    if layout.blocks > 1:
        first = spec.body("block")
        body = spec.worldbody.add_body(name="block_2", pos=[0, 0, 0.02])
        for joint in first.joints:
            body.add_joint(
                name=joint.name.replace("block", "block_2"), type=joint.type, axis=joint.axis,
                damping=joint.damping, frictionloss=joint.frictionloss,
            )  # fmt: skip
        (shape,) = first.geoms
        body.add_geom(
            name="block_2", type=shape.type, size=shape.size, mass=shape.mass, rgba=list(_GREEN), condim=shape.condim,
            friction=shape.friction, solref=shape.solref,
        )  # fmt: skip
    return spec.compile()


class PushSceneTask(Task):
    """The task to bring every block to its position in the goal. The pusher's position does not matter.

    Goals of an evaluation are far (`draw_pair`). Start and goal of the first block lie on the two sides of the wall, so
    that the straight way ends at the wall. The pusher starts on the block's side. A second block stands in the gap. It
    has to leave before the first one can pass, and its goal is elsewhere.
    """

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        names = ("position",) if layout.blocks == 1 else COLOURS
        self._blocks = dict(zip(names, _BLOCKS, strict=False))
        tolerance = _TOLERANCE[layout.blocks] * ARENA_WIDTH  # per cent of m are cm
        self.metrics = tuple(Metric(name, "cm", tolerance) for name in names)

    def errors(self, states: Floats, goal: Floats) -> Mapping[str, Floats]:
        """Position error [cm] of every block, by its colour if there are two."""
        states, goal = np.asarray(states), np.asarray(goal)
        return {
            name: np.linalg.norm(states[..., part][..., :2] - goal[..., part][..., :2], axis=-1) * 100
            for name, part in self._blocks.items()
        }

    def is_interesting(self, start: Floats, goal: Floats) -> bool:
        """Whether a block moves at least 5 cm. The start is then no success."""
        return any(bool(error >= 5) for error in self.errors(start, goal).values())

    def draw_pair(self, rng: np.random.Generator) -> tuple[Floats, Floats] | None:
        """See `Task.draw_pair`. Both states are at rest and are drawn by rejection."""
        for _ in range(_DRAWS):
            start = self._layout.arrange(rng)
            if self._is_beginning(start):
                break
        else:
            return None
        for _ in range(_DRAWS):
            goal = self._layout.arrange(rng)
            if self._is_far(start, goal) and not self.is_success(start, goal):
                return start, goal
        return None

    def _is_beginning(self, start: Floats) -> bool:
        """Whether an evaluation may begin at `start [N]`."""
        red, *green = self._places(start)
        if not self._is_in_reach(start):
            return False
        if self._layout.wall_length and not (self._is_behind_wall(red) and red[1] * start[_PUSHER][1] > 0):
            return False
        return not green or not self._layout.wall_length or self._is_in_gap(green[0])

    def _is_far(self, start: Floats, goal: Floats) -> bool:
        """Whether going straight from `start [N]` to `goal [N]` fails."""
        (red, *_), (red_goal, *green_goal) = self._places(start), self._places(goal)
        if not self._is_in_reach(goal):
            return False
        if self._layout.wall_length and not (self._is_behind_wall(red_goal) and red[1] * red_goal[1] < 0):
            return False
        # The second block has to leave the gap, and to leave room for the first one.
        return not green_goal or not self._layout.wall_length or abs(green_goal[0][1]) > BLOCK_WIDTH

    def _places(self, state: Floats) -> list[Floats]:
        """The position `[2]` of every block in `state [N]`."""
        return [state[part][:2] for part in self._blocks.values()]

    def _is_in_reach(self, state: Floats) -> bool:
        """Whether the pusher fits between every block and the walls around the arena. No side is then out of reach."""
        free = _HALF - BLOCK_WIDTH / 2 - 2 * PUSHER_RADIUS
        return all(bool((np.abs(place) <= free).all()) for place in self._places(state))

    def _is_behind_wall(self, place: Floats) -> bool:
        return bool(place[0] < self._layout.wall_end - BLOCK_WIDTH / 2)

    def _is_in_gap(self, place: Floats) -> bool:
        """Whether a block at `place [2]` stands in the gap so that no other one passes."""
        return bool(place[0] > self._layout.wall_end and abs(place[1]) < BLOCK_WIDTH / 2)

    def explorer(self, rng: np.random.Generator) -> Explorer:
        limit = np.full(2, MAX_SPEED, np.float32)
        explorers: list[Explorer] = [SmoothRandomExplorer(-limit, limit, rng), ScenePushExplorer(rng, self._layout)]
        return SwitchingExplorer(explorers, [0.2, 0.8], rng)

    def path_points(self, states: Floats) -> Mapping[str, Floats]:
        titles = ("block",) if len(self._blocks) == 1 else (f"{colour} block" for colour in COLOURS)
        names = {**dict(zip(titles, _BLOCKS, strict=False)), "pusher": _PUSHER}
        return {name: to_frame(states[..., part][..., :2]) for name, part in names.items()}


class ScenePushExplorer(PushThroughExplorer):
    """Explores contact as in `push`, with a random block at a time, and walks around the wall to reach it."""

    def __init__(self, rng: np.random.Generator, layout: Layout) -> None:
        super().__init__(rng)
        self._layout, self._block = layout, 0

    def _look(self, env: GoalEnv) -> tuple[Floats, Floats]:
        state = env.get_state()
        if self._steps_left == 0:
            self._block = int(self._rng.integers(self._layout.blocks))
        return state[_BLOCKS[self._block]][:2], state[_PUSHER]

    def _has_room(self, place: Floats) -> bool:
        return super()._has_room(place) and self._layout.to_wall(place) > BLOCK_WIDTH / 2

    def _route(self, pusher: Floats, target: Floats) -> Floats:
        """The next point `[2]` on the way to `target [2]`, which leads through the gap if the wall is between."""
        end = self._layout.wall_end
        crosses = pusher[1] * target[1] < 0 and min(pusher[0], target[0]) < end + PUSHER_RADIUS
        if not (self._layout.wall_length and crosses):
            return target
        beside = end + 2 * PUSHER_RADIUS
        if pusher[0] < end + PUSHER_RADIUS:
            return np.array([beside + PUSHER_RADIUS, pusher[1]])
        return np.array([max(beside, target[0]), np.sign(target[1]) * 2 * PUSHER_RADIUS])


FAMILY = EnvFamily(PushSceneConfig, PushSceneEnv)

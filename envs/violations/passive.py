"""Violations on the stage, in which nobody acts.

Each function draws a scene. With `hidden`, the screen stands in front of where physics breaks. Otherwise all of it is
seen. Things pass the middle of the screen in row `_PASSING`, more or less.

Shapes: `T` rows of a clip.
"""

from __future__ import annotations

import dataclasses
from typing import Final

import numpy as np

from envs.violations.scene import Clip, Crossing, first_difference
from envs.violations.stage import (
    COLOUR,
    COLOURS,
    CONTROL_STEP_S,
    FAR_LANE,
    FLOORS,
    MOTION,
    NEAR_LANE,
    PLATFORM_HALF_WIDTH,
    PLATFORM_HEIGHT,
    RADIUS,
    SCREENS,
    SHAPE,
    SHAPES,
    WALL_HALF_WIDTH,
    Stage,
    StageWorld,
    Thing,
    X,
)

_PASSING: Final = (9, 13)  # rows; earlier, and things would not be seen before, later, and not after
_SPEED: Final = (0.33, 0.48)  # slow enough to stay in the picture [m/s], fast enough to be hidden for 3 to 6 rows
_SCREEN: Final = 0.12  # the screen's distance from the middle of the picture, at most [m]
_UNSEEN: Final = 50.0  # y of a lane behind the backdrop [m]
_MOVED: Final = 1e-3  # smaller differences of positions and velocities do not show [m, m/s]


@dataclasses.dataclass(frozen=True)
class _Draw:
    """What all scenes have: a stage, and how a thing crosses it.

    Attributes:
        world: the world that films it.
        rows: frames of a clip, T.
        stage: the stage, without wall and platform.
        direction: 1 for a thing that moves to the right, and -1 to the left.
        speed: of the thing [m/s].
        passing: row in which it passes the middle of the screen.
    """

    world: StageWorld
    rows: int
    stage: Stage
    direction: int
    speed: float
    passing: int

    @classmethod
    def of(cls, world: StageWorld, rng: np.random.Generator, rows: int, hidden: bool) -> _Draw:
        """A random stage and a random crossing. With `hidden`, the screen is in front."""
        stage = Stage(rng.uniform(-_SCREEN, _SCREEN), hidden, int(rng.integers(SCREENS)), int(rng.integers(FLOORS)))
        direction, speed = int(rng.choice([-1, 1])), rng.uniform(*_SPEED)
        return cls(world, rows, stage, direction, speed, int(rng.integers(*_PASSING)))

    def thing(self, shape: int, colour: int, lane: float = NEAR_LANE, height: float = 0.0, gap: float = 0.0) -> Thing:
        """A thing that is `gap` [m] before the middle of the screen in the row `passing`."""
        way = self.speed * self.passing * CONTROL_STEP_S + gap
        return Thing(self.stage.screen - self.direction * way, self.direction * self.speed, shape, colour, lane, height)

    def film(self, stage: Stage, *things: Thing) -> Clip:
        """What happens to `things` on `stage`."""
        states = self.world.film(stage.state(*things), self.rows)
        return Clip(states, np.zeros((self.rows, 1), np.float32))


def _looks(rng: np.random.Generator) -> tuple[tuple[int, int], tuple[int, int]]:
    """Two pairs of a shape and a colour, which differ in both."""
    shapes, colours = rng.permutation(len(SHAPES)), rng.permutation(len(COLOURS))
    return (int(shapes[0]), int(colours[0])), (int(shapes[1]), int(colours[1]))


def vanish(world: StageWorld, rng: np.random.Generator, rows: int, hidden: bool) -> Crossing:
    """A thing is there or not (object permanence)."""
    draw, (look, _) = _Draw.of(world, rng, rows, hidden), _looks(rng)
    there, empty = draw.film(draw.stage, draw.thing(*look)), draw.film(draw.stage)
    columns = (*MOTION[0], SHAPE[0], COLOUR[0])
    return Crossing(there, empty, columns, draw.passing, ("vanishes", "appears"))


def teleport(world: StageWorld, rng: np.random.Generator, rows: int, hidden: bool) -> Crossing:
    """A thing is in the near lane or in the far one (continuity)."""
    draw, (look, _) = _Draw.of(world, rng, rows, hidden), _looks(rng)
    near, far = (draw.film(draw.stage, draw.thing(*look, lane=lane)) for lane in (NEAR_LANE, FAR_LANE))
    return Crossing(near, far, MOTION[0], draw.passing, ("jumps away", "jumps near"))


def colour(world: StageWorld, rng: np.random.Generator, rows: int, hidden: bool) -> Crossing:
    """A thing has one colour or another."""
    draw, ((shape, one), (_, other)) = _Draw.of(world, rng, rows, hidden), _looks(rng)
    clips = [draw.film(draw.stage, draw.thing(shape, colour)) for colour in (one, other)]
    return Crossing(clips[0], clips[1], [COLOUR[0]], draw.passing, ("changes colour", "changes colour"))


def shape(world: StageWorld, rng: np.random.Generator, rows: int, hidden: bool) -> Crossing:
    """A thing has one shape or another."""
    draw, ((one, colour), (other, _)) = _Draw.of(world, rng, rows, hidden), _looks(rng)
    clips = [draw.film(draw.stage, draw.thing(shape, colour)) for shape in (one, other)]
    return Crossing(clips[0], clips[1], [SHAPE[0]], draw.passing, ("changes shape", "changes shape"))


def wall(world: StageWorld, rng: np.random.Generator, rows: int, hidden: bool) -> Crossing:
    """There is a wall across the lane or not (solidity). The thing bounces off it, or passes."""
    draw, (look, _) = _Draw.of(world, rng, rows, hidden), _looks(rng)
    thing, walled = (
        draw.thing(*look, gap=RADIUS + WALL_HALF_WIDTH),
        dataclasses.replace(draw.stage, wall=draw.stage.screen),
    )
    bounces, passes = draw.film(walled, thing), draw.film(draw.stage, thing)
    at = first_difference(bounces, passes, MOTION[0], _MOVED)
    return Crossing(bounces, passes, MOTION[0], at, ("passes through a wall", "bounces off nothing"))


def collision(world: StageWorld, rng: np.random.Generator, rows: int, hidden: bool) -> Crossing:
    """Two things that meet are in the same lane or in two (solidity). They bounce off each other, or pass."""
    draw, (look, other) = _Draw.of(world, rng, rows, hidden), _looks(rng)
    one, back = draw.thing(*look, gap=RADIUS), dataclasses.replace(draw, direction=-draw.direction)
    bounce, passing = (
        draw.film(draw.stage, one, back.thing(*other, lane=lane, gap=RADIUS)) for lane in (NEAR_LANE, FAR_LANE)
    )
    columns = (*X[0], *X[1])
    at = first_difference(bounce, passing, columns, _MOVED)
    return Crossing(bounce, passing, columns, at, ("pass through each other", "bounce without contact"))


def motion(world: StageWorld, rng: np.random.Generator, rows: int, hidden: bool) -> Crossing:
    """A thing at rest is hit by another or not (causality). It starts to move, or stays. It is always seen."""
    draw, (look, other) = _Draw.of(world, rng, rows, hidden=False), _looks(rng)
    rests = Thing(draw.stage.screen, 0.0, *other)
    away = Thing(0.0, 0.0, *look, lane=_UNSEEN)
    hit, alone = (draw.film(draw.stage, first, rests) for first in (draw.thing(*look, gap=2 * RADIUS), away))
    at = first_difference(hit, alone, X[1], _MOVED)
    return Crossing(hit, alone, MOTION[1], at, ("is hit and stays", "starts by itself"))


def floating(world: StageWorld, rng: np.random.Generator, rows: int, hidden: bool) -> Crossing:
    """A platform ends in the middle or goes on (support). The thing on it falls, or slides on."""
    draw, (look, _) = _Draw.of(world, rng, rows, hidden), _looks(rng)
    begins = draw.stage.screen - draw.direction * PLATFORM_HALF_WIDTH
    short = dataclasses.replace(draw.stage, platform=begins)
    long = dataclasses.replace(draw.stage, platform=begins + draw.direction * PLATFORM_HALF_WIDTH)
    thing = draw.thing(*look, height=PLATFORM_HEIGHT)
    falls, stays = draw.film(short, thing), draw.film(long, thing)
    at = first_difference(falls, stays, MOTION[0], _MOVED)
    return Crossing(falls, stays, MOTION[0], at, ("floats", "falls through a platform"))

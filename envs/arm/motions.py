"""Motions of the arm that explorers are made of. Each one is a generator of actions, which reads the world as it goes.

A motion is what somebody who plays with the objects would do. It has no goal that an evaluation could ask for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final

import numpy as np

from envs.arm.world import CONTROL_STEP_S, MAX_GRIP_SPEED, MAX_SPEED, REACH, ArmWorld
from envs.world import Floats

Motion = Iterator[Floats]
Aim = Callable[[], Floats]  # a point `[3]` [m], which may move

OPENING, KEEPING, CLOSING = MAX_GRIP_SPEED, 0.0, -MAX_GRIP_SPEED  # the grip's command [m/s]
_SWITCH: Final = 5  # control steps in which the fingers surely open or close
_CLEAR: Final = 0.075  # height of the grip point above an object at which the fingers pass over it [m]
_BEHIND: Final = np.array([0.0, 0.024, -0.008])  # from the handle to between it and the drawer's front [m]
_AROUND: Final = np.array([0.0, 0.0, -0.008])  # from the handle to where fingers close around it [m]
_BEFORE: Final = np.array([0.0, -0.04, -0.008])  # from the handle to before it [m]
_LOWEST: Final = float(REACH[0][2])
_BESIDE: Final = 0.075  # distance from a cube's middle at which a push begins [m]


def command(velocity: Floats, grip: float) -> Floats:
    """An action `[4]` from the hand's velocity `[3]` and the grip's [m/s]."""
    return np.array([*velocity, grip])


def still(steps: int, grip: float = KEEPING) -> Motion:
    """Stay in place for `steps` control steps."""
    for _ in range(steps):
        yield command(np.zeros(3), grip)


def toward(arm: ArmWorld, aim: Aim, speed: float, grip: float = KEEPING, near: float = 0.01, most: int = 16) -> Motion:
    """Move the grip point to `aim`, up to `near` [m] away from it, in at most `most` control steps."""
    for _ in range(most):
        way = np.clip(aim(), *REACH) - arm.hand()
        if np.linalg.norm(way) < near:
            return
        yield command(_limited(way / CONTROL_STEP_S, speed), grip)


def over(arm: ArmWorld, aim: Aim, speed: float, grip: float) -> Motion:
    """Move the grip point above `aim` without touching what is there: up first, then sideways."""
    height = aim()[2] + _CLEAR
    if arm.hand()[2] < height - 0.02:
        yield from toward(arm, lambda: np.append(arm.hand()[:2], height), speed, grip, 0.02, 8)
    yield from toward(arm, lambda: aim() + _up(_CLEAR), speed, grip, 0.015, 24)


def grasp(arm: ArmWorld, cube: int, speed: float, rng: np.random.Generator) -> Motion:
    """Close the fingers around a cube, more or less in its middle."""
    error = rng.normal(0, [0.008, 0.005, 0.005])
    yield from over(arm, lambda: arm.cube(cube) + error, speed, OPENING)
    yield from toward(arm, lambda: arm.cube(cube) + error, speed, OPENING, 0.006, 10)
    yield from still(_SWITCH, CLOSING)


def carry(arm: ArmWorld, speed: float, rng: np.random.Generator) -> Motion:
    """Move to a random place, mostly in the air, and stay there for a while."""
    place = rng.uniform(*REACH)
    place[2] = rng.uniform(0.05, REACH[1][2] - 0.02)
    yield from toward(arm, lambda: np.append(arm.hand()[:2], max(arm.hand()[2], 0.06)), speed, KEEPING, 0.01, 4)
    yield from toward(arm, lambda: place, speed, KEEPING, 0.02, 24)
    yield from still(int(rng.integers(0, 8)))


def put_down(arm: ArmWorld, cube: int, speed: float, rng: np.random.Generator) -> Motion:
    """Put a held cube down at a random place, on the table or in an open drawer, and leave it."""
    place = rng.uniform(REACH[0] * 0.85, REACH[1] * 0.85)
    place[2] = _LOWEST + arm.half_width(cube) - 0.025
    if arm.layout.drawer is not None and arm.opening() > 0.08 and rng.random() < 0.5:
        place = arm.handle() + np.array([rng.uniform(-0.04, 0.04), 0.09, 0.0])
    yield from toward(arm, lambda: np.append(arm.hand()[:2], max(place[2] + 0.06, arm.hand()[2])), speed, most=4)
    yield from toward(arm, lambda: place + _up(0.05), speed, KEEPING, 0.015, 24)
    yield from toward(arm, lambda: place, speed, KEEPING, 0.005, 8)
    yield from still(_SWITCH, OPENING)
    yield from toward(arm, lambda: place + _up(0.08), speed, KEEPING, 0.02, 6)


def pull(arm: ArmWorld, speed: float, rng: np.random.Generator) -> Motion:
    """Pull the drawer open by a random distance, with the fingers between handle and drawer or around the handle."""
    along = np.array([rng.uniform(-0.03, 0.03), rng.normal(0, 0.003), 0])
    aim = along + (_AROUND if arm.pinches_handle else _BEHIND)
    yield from over(arm, lambda: arm.handle() + aim, speed, OPENING if arm.pinches_handle else CLOSING)
    yield from toward(arm, lambda: arm.handle() + aim, speed, KEEPING, 0.008, 10)
    yield from still(_SWITCH if arm.pinches_handle else 0, CLOSING)
    for _ in range(int(rng.integers(4, 16))):
        yield command(np.array([0, -speed, 0]), KEEPING)
    if arm.pinches_handle:
        yield from still(_SWITCH, OPENING)
    yield from still(int(rng.integers(0, 4)))
    yield from toward(arm, lambda: arm.handle() + aim + _up(_CLEAR), speed, KEEPING, 0.02, 5)


def shut(arm: ArmWorld, speed: float, rng: np.random.Generator) -> Motion:
    """Push the drawer closed by a random distance, by its handle."""
    along = np.array([rng.uniform(-0.05, 0.05), 0, rng.uniform(0, 0.008)])
    yield from over(arm, lambda: arm.handle() + _BEFORE + along, speed, CLOSING)
    yield from toward(arm, lambda: arm.handle() + _BEFORE + along, speed, CLOSING, 0.01, 10)
    for _ in range(int(rng.integers(4, 18))):
        yield command(np.array([0, speed, 0]), KEEPING)
    yield from toward(arm, lambda: arm.handle() + _BEFORE + along, speed, KEEPING, 0.02, 4)


def push(arm: ArmWorld, cube: int, speed: float, rng: np.random.Generator) -> Motion:
    """Push a cube from a random side through a random point of it, with the fingers as they are or closed."""
    angle = _side(arm.cube(cube)[:2], rng)
    side = np.array([np.cos(angle), np.sin(angle)])
    aim = np.append(rng.uniform(-0.02, 0.02, 2), rng.uniform(-0.01, 0.01))
    grip = CLOSING if rng.random() < 0.7 else KEEPING

    def beside() -> Floats:
        return np.asarray(arm.cube(cube) + aim + _BESIDE * np.append(side, 0))

    if np.dot(arm.hand()[:2] - arm.cube(cube)[:2], side) < 0.05:  # the cube may be in the way
        yield from over(arm, beside, max(speed, 0.2), grip)
    yield from toward(arm, beside, max(speed, 0.2), grip, 0.015, 14)
    for _ in range(int(rng.integers(5, 20))):
        through = (arm.cube(cube) + aim - arm.hand())[:2]
        ahead = through / max(float(np.linalg.norm(through)), 1e-6) if np.linalg.norm(through) > 0.03 else -side
        yield command(np.append(speed * ahead, 0), grip)


def press(arm: ArmWorld, speed: float, rng: np.random.Generator) -> Motion:
    """Move against the drawer's handle or front from a random side, and on."""
    error = rng.uniform([-0.08, -0.05, -0.01], [0.08, 0.06, 0.03])
    yield from over(arm, lambda: arm.handle() + error, max(speed, 0.2), KEEPING)
    yield from toward(arm, lambda: arm.handle() + error, max(speed, 0.2), KEEPING, 0.015, 8)
    angle = rng.choice([-1, 1]) * rng.uniform(np.pi / 4, 3 * np.pi / 4)
    for _ in range(int(rng.integers(5, 18))):
        yield command(speed * np.array([np.cos(angle), np.sin(angle), 0]), KEEPING)


def held(arm: ArmWorld, near: Aim | None, rng: np.random.Generator) -> Motion:
    """Go near a point, then take random actions that are held for a few control steps each, as a planner does."""
    if near is not None:
        point = near
        error = rng.uniform([-0.07, -0.07, -0.01], [0.07, 0.07, 0.08])
        grip = float(rng.choice([OPENING, KEEPING, CLOSING]))
        yield from toward(arm, lambda: point() + error, MAX_SPEED, grip, 0.03, 14)
    keeping = 0.85 if near is None else 0.5  # what is held mostly stays so
    for _ in range(int(rng.integers(3, 7))):
        velocity = rng.uniform(-1, 1, 3) * rng.uniform(0.3, 1.0) * MAX_SPEED
        grip = KEEPING if rng.random() < keeping else float(rng.uniform(CLOSING, OPENING))
        for _ in range(int(rng.integers(2, 7))):
            yield command(velocity, grip)


def _up(height: float) -> Floats:
    return np.array([0.0, 0.0, height])


def _limited(velocity: Floats, speed: float) -> Floats:
    return velocity * min(1.0, speed / max(float(np.linalg.norm(velocity)), 1e-6))


def _side(position: Floats, rng: np.random.Generator) -> float:
    """A side [rad] to push a cube at `position [2]` from. Sides that would push it out of reach are mostly avoided."""
    for _ in range(4):
        angle = float(rng.uniform(-np.pi, np.pi))
        ahead = position - 0.1 * np.array([np.cos(angle), np.sin(angle)])
        if (np.abs(ahead) < REACH[1][:2]).all():
            break
    return angle

"""Violations of what a robot's actions do, in the world of `envs.push`.

Until the break, the actions of the two possible clips are the same. No predictor that is blind to actions can tell the
clips of `command` apart, since each of their frames is in a possible clip as well.

Shapes: `T` rows of a clip, `A` action, `N` state.
"""

from __future__ import annotations

import dataclasses
from typing import Final

import numpy as np

from envs.push import ARENA_WIDTH, BLOCK_WIDTH, MAX_SPEED, PUSHER_RADIUS, PushConfig, PushWorld
from envs.violations.scene import MARGIN, Clip, Crossing, first_difference
from envs.world import Floats

_BLOCK: Final = (0, 1, 2, 5, 6, 7)  # columns of the block's positions and velocities
_PUSHER: Final = (3, 4, 8, 9)
_ALL: Final = tuple(range(10))  # all but the scenery
_POSITIONS: Final = (0, 1, 2)
_MOVED: Final = 2e-3  # less does not show [m, rad]: a hundredth of the picture is 5 mm
_PUSHED: Final = 0.04  # a push moves the block at least so far [m]
_CORNER: Final = BLOCK_WIDTH * np.sqrt(0.5)


@dataclasses.dataclass(frozen=True)
class _Draw:
    """A start, and the actions that all clips of a scene share.

    Attributes:
        state: `[N]`, the pusher beside the block.
        away: direction `[2]` from the block to the pusher.
        turn: row from which on the actions differ.
        actions: `[T, A]`, slow and random until `turn`, and zero from there on.
    """

    state: Floats
    away: Floats
    turn: int
    actions: Floats

    @classmethod
    def of(cls, rng: np.random.Generator, rows: int) -> _Draw:
        """A random start, in which nothing touches, and random actions until the turn."""
        state = np.zeros(12)
        state[:2], state[2] = rng.uniform(-0.1, 0.1, 2), rng.uniform(-np.pi, np.pi)
        angle = rng.uniform(-np.pi, np.pi)
        away = np.array([np.cos(angle), np.sin(angle)])
        state[3:5] = state[:2] + (_CORNER + PUSHER_RADIUS + rng.uniform(0.005, 0.03)) * away
        turn = int(rng.integers(MARGIN - 1, rows // 2 - 2))
        actions = np.zeros((rows, 2))
        # Around the block, not toward it, so that nothing is touched before the turn.
        actions[:turn] = rng.uniform(-0.06, 0.06) * np.array([-away[1], away[0]])
        return cls(state, away, turn, actions)

    def film(self, world: PushWorld, velocity: Floats) -> Clip:
        """The clip in which the pusher is told to move with `velocity [2]` [m/s] from the turn on."""
        actions = self.actions.copy()
        actions[self.turn : -1] = np.clip(velocity, -MAX_SPEED, MAX_SPEED)
        taken = actions.astype(np.float32)
        ahead = world.simulate(self.state, taken[None, :-1].astype(np.float64))[0]
        return Clip(np.concatenate([self.state[None], ahead]), taken)


def _turned(direction: Floats, angle: float) -> Floats:
    """`direction [2]` turned by `angle` [rad]."""
    cosine, sine = np.cos(angle), np.sin(angle)
    return np.array([[cosine, -sine], [sine, cosine]]) @ direction


def _moves(clip: Clip) -> float:
    """How far the block is from its start at the end [m]."""
    return float(np.linalg.norm(clip.states[-1, :2] - clip.states[0, :2]))


def contact(world: PushWorld, rng: np.random.Generator, rows: int) -> Crossing | None:
    """The robot pushes the block or goes elsewhere. The block moves, or stays.

    Its twins are a block that moves untouched, and a push without effect, in which the pusher passes over the block.
    """
    draw, speed = _Draw.of(rng, rows), rng.uniform(0.15, 0.35)
    pushes = draw.film(world, -speed * _turned(draw.away, rng.uniform(-0.3, 0.3)))
    leaves = draw.film(world, speed * _turned(draw.away, rng.uniform(-1.2, 1.2)))
    at = first_difference(pushes, leaves, _POSITIONS, _MOVED)
    if _moves(pushes) < _PUSHED or np.ptp(leaves.states[:, _BLOCK], axis=0).any():
        return None
    return Crossing(pushes, leaves, _BLOCK, at, ("a push without effect", "moves untouched"))


def command(world: PushWorld, rng: np.random.Generator, rows: int) -> Crossing | None:
    """The robot is told to go one way or another, or to rest. The twins do what the other one was told."""
    draw, speed = _Draw.of(rng, rows), rng.uniform(0.1, 0.3)
    goes = draw.film(world, speed * _turned(draw.away, rng.uniform(-1.2, 1.2)))
    rests = rng.random() < 0.5
    other = draw.film(world, np.zeros(2) if rests else speed * _turned(draw.away, np.pi / 2 + rng.uniform(-0.3, 0.3)))
    at = first_difference(goes, other, _PUSHER[:2], _MOVED)
    touched = any(np.ptp(clip.states[:, _BLOCK], axis=0).any() for clip in (goes, other))
    apart = np.linalg.norm(goes.states[-1, 3:5] - other.states[-1, 3:5])
    if touched or apart < ARENA_WIDTH / 10:
        return None
    violations = ("does not move", "moves at rest") if rests else ("moves another way", "moves another way")
    return Crossing(goes, other, _ALL, at, violations)


def make_world(image_size: int) -> PushWorld:
    """The world in which these violations happen."""
    return PushWorld(PushConfig(image_size=image_size))

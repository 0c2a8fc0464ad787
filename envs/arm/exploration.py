"""Exploration with the arm. It mixes smooth random motion, contact, primitives, and actions as a planner holds them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final

import numpy as np
from numpy.typing import NDArray

from envs.arm import motions
from envs.arm.config import AIR, ArmConfig
from envs.arm.motions import Motion
from envs.arm.world import ACTION, ArmWorld
from envs.exploration import SmoothRandomExplorer
from envs.protocol import Explorer, Floats, GoalEnv

# Kinds of exploration.
RANDOM, CONTACT, PRIMITIVES, HELD = "random", "contact", "primitives", "held"
_LOW, _HIGH = ACTION.bounds
_MOST_NOISE: Final = 0.06  # standard deviation of the noise on a motion's velocities [m/s]
_SLIPS: Final = 0.01  # probability per control step that a motion's grip command is replaced by a random one


def default_shares(config: ArmConfig) -> dict[str, float]:
    """The share of each kind of exploration in a task. What only has to be pushed is not grasped.

    About half of it are held actions, which are what plans consist of. A model that has seen more of them imagines
    them better (EXPERIMENTS.md).
    """
    if config.drawers:
        return {RANDOM: 0.05, CONTACT: 0.15, PRIMITIVES: 0.35, HELD: 0.45}
    if AIR in config.goals:
        return {RANDOM: 0.05, CONTACT: 0.1, PRIMITIVES: 0.25, HELD: 0.6}
    return {RANDOM: 0.1, CONTACT: 0.4, PRIMITIVES: 0.0, HELD: 0.5}


class ArmExplorer(Explorer):
    """Explores an arm's world without a goal.

    One motion follows another until the episode ends. `random` is smooth random motion. `contact` pushes a cube, or
    presses against the drawer. `primitives` grasp a cube, carry it, and mostly put it down, or pull the drawer open or
    push it closed. `held` goes near an object and then holds random actions for a few control steps each, as planners
    do. Motions have random speeds, errors and noise, so that some of them fail.

    Args:
        arm: the simulation.
        rng: source of randomness.
        shares: the share of each kind among the motions.
    """

    def __init__(self, arm: ArmWorld, rng: np.random.Generator, shares: Mapping[str, float]) -> None:
        self._arm, self._rng, self._shares = arm, rng, dict(shares)
        self._smooth = SmoothRandomExplorer(_LOW, _HIGH, rng)
        self._motion: Motion = iter(())
        self._noise = 0.0

    def act(self, env: GoalEnv) -> NDArray[np.float32]:
        action = next(self._motion, None)
        while action is None:
            self._motion = self._begin(env)
            action = next(self._motion, None)
        noisy = action.copy()
        noisy[:3] += self._noise * self._rng.standard_normal(3)
        if self._noise and self._rng.random() < _SLIPS:
            noisy[3] = self._rng.uniform(_LOW[3], _HIGH[3])
        return np.clip(noisy, _LOW, _HIGH).astype(np.float32)

    def _begin(self, env: GoalEnv) -> Motion:
        """The next motion. Its noise is drawn too, and some motions have none."""
        rng, arm = self._rng, self._arm
        kind = str(rng.choice(list(self._shares), p=list(self._shares.values())))
        speed = float(rng.uniform(0.1, 0.3))
        self._noise = 0.0 if kind in (RANDOM, HELD) or rng.random() < 0.3 else float(rng.uniform(0, _MOST_NOISE))
        if kind == RANDOM:
            return self._random(env, int(rng.integers(6, 16)))
        cube = self._choose()
        if kind == HELD:
            return motions.held(arm, self._near(cube), rng)
        if kind == CONTACT:
            return motions.press(arm, speed, rng) if cube is None else motions.push(arm, cube, speed, rng)
        return self._drawer_primitive(speed) if cube is None else self._cube_primitive(cube, speed)

    def _choose(self) -> int | None:
        """A cube, or None for the drawer. A cube that is held, or in the closed drawer, leaves no choice."""
        arm = self._arm
        cubes = list(range(len(arm.layout.cubes)))
        for cube in cubes:
            if arm.holds(cube):
                return cube
        if arm.layout.drawer is None:
            return int(self._rng.choice(cubes))
        # The front edge of the cabinet is at y = 0.055.
        free = [cube for cube in cubes if arm.cube(cube)[1] < 0.055 + arm.half_width(cube)]
        number = int(self._rng.integers(len(free) + 1))
        return free[number] if number < len(free) else None

    def _near(self, cube: int | None) -> motions.Aim | None:
        """The point that held actions begin near, None if a cube is held already."""
        if cube is None:
            return self._arm.handle
        return None if self._arm.holds(cube) else lambda: self._arm.cube(cube)

    def _random(self, env: GoalEnv, steps: int) -> Iterator[Floats]:
        for _ in range(steps):
            yield self._smooth.act(env).astype(np.float64)

    def _cube_primitive(self, cube: int, speed: float) -> Motion:
        arm, rng = self._arm, self._rng
        if not arm.holds(cube):
            yield from motions.grasp(arm, cube, speed, rng)
        for _ in range(int(rng.integers(1, 3))):
            yield from motions.carry(arm, speed, rng)
        if rng.random() < 0.6:
            yield from motions.put_down(arm, cube, speed, rng)

    def _drawer_primitive(self, speed: float) -> Motion:
        is_open = self._arm.opening() > self._rng.uniform(0.02, 0.13)
        return (motions.shut if is_open else motions.pull)(self._arm, speed, self._rng)

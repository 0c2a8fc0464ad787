"""Policies that record what actions do. They have no goal and are no experts."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from envs.protocol import Explorer, GoalEnv


class SmoothRandomExplorer(Explorer):
    """Random actions that keep their direction for a while.

    An AR(1) process, `x <- c x + sqrt(1 - c^2) n` with n ~ N(0, 1), squashed into the bounds; `c` and the scale are
    drawn anew at random moments, so that one episode holds slow and fast, jerky and steady stretches.
    """

    def __init__(self, low: NDArray[np.float32], high: NDArray[np.float32], rng: np.random.Generator) -> None:
        self._centre, self._half = (high + low) / 2, (high - low) / 2
        self._rng = rng
        self._noise = rng.standard_normal(low.shape)
        self._redraw()

    def _redraw(self) -> None:
        self._correlation = self._rng.choice([0.0, 0.6, 0.8, 0.9, 0.95])
        self._scale = self._rng.uniform(0.2, 1.5)
        self._steps_left = int(self._rng.integers(5, 25))

    def act(self, env: GoalEnv) -> NDArray[np.float32]:
        if self._steps_left == 0:
            self._redraw()
        self._steps_left -= 1
        fresh = self._rng.standard_normal(self._noise.shape)
        self._noise = self._correlation * self._noise + np.sqrt(1 - self._correlation**2) * fresh
        action = self._centre + self._half * np.clip(self._scale * self._noise, -1, 1)
        return action.astype(np.float32)


class SwitchingExplorer(Explorer):
    """Hands over between explorers at random moments.

    Args:
        explorers: the policies to mix.
        weights: their shares of the segments, summing to one.
        segment_steps: shortest and longest segment [control steps].
    """

    def __init__(
        self,
        explorers: list[Explorer],
        weights: list[float],
        rng: np.random.Generator,
        segment_steps: tuple[int, int] = (8, 30),
    ) -> None:
        self._explorers, self._weights, self._rng, self._segment_steps = explorers, weights, rng, segment_steps
        self._steps_left = 0

    def act(self, env: GoalEnv) -> NDArray[np.float32]:
        if self._steps_left == 0:
            self._active = self._explorers[int(self._rng.choice(len(self._explorers), p=self._weights))]
            self._steps_left = int(self._rng.integers(*self._segment_steps))
        self._steps_left -= 1
        return self._active.act(env)

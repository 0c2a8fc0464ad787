"""Exploration policies. They record the effects of actions, and have no goal."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from envs.protocol import Explorer, GoalEnv
from worldmodel.core.spec import BINARY, HOLD, ActionSpec


class SmoothRandomExplorer(Explorer):
    """Random actions that keep their direction for a while.

    The actions are an AR(1) process, `x <- c x + sqrt(1 - c^2) n` with n ~ N(0, 1), squashed into the bounds. `c` and
    the scale are drawn anew at random times, so that an episode has slow and fast, jerky and steady parts.
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
    """Switches between explorers at random times.

    Args:
        explorers: the policies to mix.
        weights: shares of the segments, summing to one.
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


class CommandExplorer(Explorer):
    """Random commands for any robot, derived from the specification of its action.

    If rest is `hold` (absolute positions), the command wanders from where the robot is. Binary dimensions switch now
    and then. The other dimensions are as in `SmoothRandomExplorer`. Limits on rates are kept.

    Args:
        spec: specification of the action.
        control_step_s: duration of one action [s].
        rng: source of randomness.
    """

    _LARGEST_MOVE = 0.1  # largest change of a wandering command in one control step, as a fraction of the range
    _SWITCHES = 1 / 15  # probability per control step that a binary dimension switches

    def __init__(self, spec: ActionSpec, control_step_s: float, rng: np.random.Generator) -> None:
        self._spec, self._rng = spec, rng
        self._low, self._high = (bound.astype(np.float64) for bound in spec.bounds)
        self._smooth = SmoothRandomExplorer(np.full(spec.size, -1, np.float32), np.full(spec.size, 1, np.float32), rng)
        self._holds = np.array([rest == HOLD for rest in spec.rest])
        self._binary = np.array([kind == BINARY for kind in spec.kinds])
        rates = np.array([np.inf if rate is None else rate for rate in spec.max_rate])
        # A little less than the limit, so that single precision cannot exceed it.
        self._most = rates * control_step_s * (1 - 1e-6)
        self._last: NDArray[np.float64] | None = None

    def act(self, env: GoalEnv) -> NDArray[np.float32]:
        if self._last is None:
            self._last = self._first_command(env.world.proprio())
        u, span = self._smooth.act(env).astype(np.float64), self._high - self._low
        wander = self._last + u * np.minimum(self._LARGEST_MOVE * span, self._most)
        command = np.where(self._holds, wander, self._low + (u + 1) / 2 * span)
        command = np.clip(command, self._last - self._most, self._last + self._most)
        switch = self._rng.random(len(u)) < self._SWITCHES
        other = np.where(self._last > (self._low + self._high) / 2, self._low, self._high)
        command = np.where(self._binary, np.where(switch, other, self._last), command)
        self._last = np.clip(command, self._low, self._high)
        return self._last.astype(np.float32)

    def _first_command(self, proprio: NDArray[np.float32]) -> NDArray[np.float64]:
        """The command under which the robot stays as it is, `[A]`."""
        first = np.clip(np.zeros(self._spec.size), self._low, self._high)
        for dimension, (rest, reading) in enumerate(zip(self._spec.rest, self._spec.hold_from, strict=True)):
            if rest == HOLD:
                middle = (self._low[dimension] + self._high[dimension]) / 2
                first[dimension] = middle if reading is None else proprio[reading]
            elif not isinstance(rest, str):
                first[dimension] = rest
        nearest = np.where(first > (self._low + self._high) / 2, self._high, self._low)
        return np.clip(np.where(self._binary, nearest, first), self._low, self._high)

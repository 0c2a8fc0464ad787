"""A world small enough to be right by inspection: a point on a plane that moves by `speed` [m/s] for 0.1 s."""

from __future__ import annotations

import dataclasses
from typing import Any

import gymnasium
import numpy as np
import torch
from torch import Tensor

from envs.protocol import Explorer, Floats, GoalEnv, Metric

SIZE = 16


class PointExplorer(Explorer):
    """Goes round in a circle of half a metre, so that the point stays in sight."""

    def __init__(self, rng: np.random.Generator) -> None:
        self._angle = rng.uniform(-np.pi, np.pi)

    def act(self, env: GoalEnv) -> Any:
        self._angle += 0.2
        return np.array([np.cos(self._angle), np.sin(self._angle)], np.float32)


class PointEnv(GoalEnv):
    """The frame's red and green encode the position, so that a model can read it exactly enough."""

    name, control_step_s = "point", 0.1
    metrics = (Metric("position", "m", 0.1),)

    def __init__(self, diverge_at: float = np.inf) -> None:
        self.action_space = gymnasium.spaces.Box(-1, 1, (2,), np.float32)
        self.observation_space = gymnasium.spaces.Dict(
            pixels=gymnasium.spaces.Box(0, 255, (SIZE, SIZE, 3), np.uint8),
            proprio=gymnasium.spaces.Box(-np.inf, np.inf, (2,), np.float32),
        )
        self._state, self._diverge_at = np.zeros(2), diverge_at

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        gymnasium.Env.reset(self, seed=seed)
        state = (options or {}).get("state")
        self.set_state(self.np_random.uniform(-1, 1, 2) if state is None else state)
        return self.observe(), {"state": self.get_state(), "success": False, "diverged": False}

    def step(self, action: Any) -> Any:
        assert np.isfinite(action).all() and (np.abs(action) <= 1).all(), "an environment must never see this"
        self._state = self._state + 0.1 * np.asarray(action, np.float64)
        diverged = bool(self._state[0] > self._diverge_at)
        return self.observe(), 0.0, diverged, False, {"state": self.get_state(), "diverged": diverged}

    def get_state(self) -> Floats:
        return self._state.copy()

    def set_state(self, state: Floats) -> None:
        self._state = np.array(state, np.float64)

    def observe(self) -> Any:
        return {"images": self.goal_images(self._state), "proprio": self._state.astype(np.float32)}

    def goal_images(self, state: Floats) -> Any:
        return {"camera": self.render_state(state)}

    def render_state(self, state: Floats, camera: str | None = None, size: int | None = None) -> Any:
        frame = np.zeros((size or SIZE, size or SIZE, 3), np.uint8)
        frame[..., :2] = np.clip(np.round(127.5 + 50 * np.asarray(state)), 0, 255)
        return frame

    def goal_errors(self, states: Floats, goal: Floats) -> Any:
        return {"position": np.linalg.norm(np.asarray(states) - goal, axis=-1)}

    def is_interesting(self, start: Floats, goal: Floats) -> bool:
        return bool(np.linalg.norm(goal - start) > 0.5)

    def explorer(self, rng: np.random.Generator) -> Explorer:
        return PointExplorer(rng)

    def simulate(self, state: Floats, actions: Floats) -> Floats:
        return state + 0.1 * np.cumsum(np.clip(actions, -1, 1), axis=1)

    def path_points(self, states: Floats) -> Any:
        return {"point": 0.5 + np.asarray(states) / 4}


@dataclasses.dataclass
class PointModel:
    """Knows the point's dynamics and reads positions from frames; `broken_rows` are rolled out to NaN."""

    broken_rows: tuple[int, ...] = ()
    history: int = 3
    seen: list[tuple[int, ...]] = dataclasses.field(default_factory=list)
    last_actions: Tensor | None = None

    @staticmethod
    def _read(pixels: Tensor) -> Tensor:
        return (pixels[..., 0, 0, :2].float() - 127.5) / 50

    def encode(self, pixels: Tensor, proprio: Tensor, actions: Tensor) -> Tensor:
        assert pixels.dtype == torch.uint8 and actions.shape[1] == pixels.shape[1] - 1 == proprio.shape[1] - 1
        self.seen.append(tuple(pixels.shape[:2]))
        self.last_actions = actions
        return self._read(pixels[:, -1])

    def encode_goal(self, pixels: Tensor) -> Tensor:
        return self._read(pixels)

    def rollout(self, latent: Tensor, actions: Tensor) -> Tensor:
        future = latent[:, None, None] + 0.1 * actions.cumsum(2)
        future[list(self.broken_rows)] = torch.nan
        return future

    def distance(self, latent: Tensor, goal: Tensor) -> Tensor:
        return (latent - goal[:, None, None]).square().sum(-1)

    def distance_now(self, latent: Tensor, goal: Tensor) -> Tensor:
        return (latent - goal).square().sum(-1)

"""A world small enough to be right by inspection: a point on a plane that moves by `speed` [m/s] for 0.1 s."""

from __future__ import annotations

import dataclasses
from typing import Any

import gymnasium
import numpy as np
import torch
from torch import Tensor

from envs.protocol import Explorer, Floats, GoalEnv, Metric, observation_space
from worldmodel.core.errors import UserError
from worldmodel.core.goal import Goal, ImageGoal
from worldmodel.core.observation import Observation
from worldmodel.core.spec import ActionSpec, EnvironmentSpec, one_camera
from worldmodel.core.tensor_record import TensorRecord

SIZE = 16
POINT = EnvironmentSpec(
    "point", one_camera(SIZE), 0.1, ActionSpec((-1.0, -1.0), (1.0, 1.0), ("m/s", "m/s")), 2, 2, "sim 1.0"
)


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
    cameras, action_spec = POINT.cameras, POINT.action

    def __init__(self, diverge_at: float = np.inf) -> None:
        self.action_space = gymnasium.spaces.Box(-1, 1, (2,), np.float32)
        self.observation_space = observation_space(self.cameras, 2)
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


@dataclasses.dataclass(frozen=True)
class PointLatent(TensorRecord):
    """Where the point is, `[..., 2]`, how many frames led to that, and what was done before the last one."""

    position: Tensor
    frames: Tensor
    action: Tensor


@dataclasses.dataclass
class PointModel:
    """Knows the point's dynamics and reads positions from frames; from beyond `broken_beyond` [m] it imagines NaN.

    Attributes:
        looked: shapes of the pictures that it has seen, one entry for each call.
    """

    broken_beyond: float = np.inf
    spec: EnvironmentSpec = POINT
    reached_distance: float = 0.2
    looked: list[tuple[int, ...]] = dataclasses.field(default_factory=list)

    @staticmethod
    def _read(pixels: Any) -> Tensor:
        return (torch.as_tensor(pixels)[..., 0, 0, :2].float() - 127.5) / 50

    def observe(self, previous: PointLatent | None, observation: Observation, action: Tensor | None) -> PointLatent:
        assert (previous is None) == (action is None)
        pixels = observation.images["camera"]
        self.looked.append(pixels.shape)
        position = self._read(pixels)
        frames = torch.ones(len(position)) if previous is None else previous.frames + 1
        return PointLatent(position, frames, torch.full_like(position, torch.nan) if action is None else action)

    def goal(self, goal: Goal) -> PointLatent:
        if isinstance(goal, PlaceGoal):
            return PointLatent(torch.tensor([goal.place]), torch.ones(1), torch.zeros(1, 2))
        if not isinstance(goal, ImageGoal):
            raise UserError(f"cannot read a {type(goal).__name__}: expected ImageGoal")
        return PointLatent(self._read(goal.images["camera"][None]), torch.ones(1), torch.zeros(1, 2))

    def imagine(self, latent: PointLatent, actions: Tensor) -> PointLatent:
        future = latent.position[:, None, None] + 0.1 * actions.cumsum(2)
        broken = latent.position[:, :1].abs() > self.broken_beyond
        future = torch.where(broken[:, None, None], torch.nan, future)
        return PointLatent(future, latent.frames[:, None, None].expand(future.shape[:-1]), actions)

    def distance(self, latents: PointLatent, goal: PointLatent) -> Tensor:
        place = goal.position
        while place.ndim < latents.position.ndim:
            place = place[:, None]
        return (latents.position - place).square().sum(-1)


@dataclasses.dataclass(frozen=True)
class PlaceGoal(Goal):
    """A goal of the user's own kind, which this model can read."""

    place: tuple[float, float]


def show(*places: list[float]) -> Observation:
    """What points at these places look like, `[B, ...]`."""
    env = PointEnv()
    images = np.stack([env.render_state(np.array(place)) for place in places])
    return Observation({"camera": images}, np.array(places, np.float32))


def picture_of(place: list[float]) -> ImageGoal:
    return ImageGoal(PointEnv().goal_images(np.array(place)))


class PointDecoder:
    """Shows the latents of `PointModel` as exactly as 8 bits allow; its features are the places that it sees.

    Args:
        off: what it shows is this far away from the truth [m].
    """

    def __init__(self, off: tuple[float, float] = (0.0, 0.0)) -> None:
        self._off = torch.tensor(off)

    def code(self, latents: PointLatent) -> Tensor:
        return latents.position

    def show(self, codes: Tensor) -> dict[str, Tensor]:
        places = (codes + self._off).flatten(0, -2).tolist()
        frames = np.stack([PointEnv().render_state(np.array(place)) for place in places])
        return {"camera": torch.from_numpy(frames).unflatten(0, codes.shape[:-1])}

    def decode(self, latents: PointLatent) -> dict[str, Tensor]:
        return self.show(self.code(latents))

    def reconstruct(self, observation: Observation) -> dict[str, Tensor]:
        return self.decode(PointModel().observe(None, observation, None))

    def features(self, pictures: Any) -> Tensor:
        return PointModel._read(pictures["camera"])

    def feature_distance(self, features: Tensor, others: Tensor) -> Tensor:
        return (features - others).pow(2).mean(-1).sqrt()

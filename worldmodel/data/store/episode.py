"""One recorded episode."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from worldmodel.data.store.layout import REWARD, Layout, image_column


@dataclasses.dataclass(frozen=True)
class Episode:
    """One recorded episode of `T` actions.

    Attributes:
        images: by camera, uint8 `[T+1, H, W, 3]`.
        action: float32 `[T+1, A]`, in physical units; the last row is zero and was never taken.
        proprio: float32 `[T+1, P]`.
        state: float64 `[T+1, S]`, the simulator's state.
        seed: seed of the environment's reset.
        reward: float32 `[T+1]`. Row t is the reward of the action in row t, and the last row is zero. None for a
            store without rewards.
        instruction: the instruction to the robot; empty if there was none.
    """

    images: Mapping[str, NDArray[np.uint8]]
    action: NDArray[np.float32]
    proprio: NDArray[np.float32]
    state: NDArray[np.float64]
    seed: int
    reward: NDArray[np.float32] | None = None
    instruction: str = ""

    @property
    def num_steps(self) -> int:
        """Number of actions taken, `T`."""
        return len(self.action) - 1

    @property
    def columns(self) -> dict[str, NDArray[Any]]:
        """The arrays by column name, in the order of the store."""
        columns: dict[str, NDArray[Any]] = {image_column(camera): rows for camera, rows in self.images.items()}
        columns |= {"action": self.action, "proprio": self.proprio, "state": self.state}
        return columns if self.reward is None else columns | {REWARD: self.reward}

    @classmethod
    def of_steps(
        cls,
        observations: Sequence[Mapping[str, Any]],
        actions: Sequence[NDArray[np.float32]],
        states: Sequence[NDArray[np.float64]],
        seed: int,
    ) -> Self:
        """The episode with T+1 observations and states of an environment, and the T actions between them."""
        cameras = observations[0]["images"]
        return cls(
            images={camera: np.stack([o["images"][camera] for o in observations]) for camera in cameras},
            action=np.stack([*actions, np.zeros_like(actions[0])]).astype(np.float32),
            proprio=np.stack([o["proprio"] for o in observations]).astype(np.float32),
            state=np.stack(states).astype(np.float64),
            seed=seed,
        )

    @classmethod
    def of(cls, layout: Layout, columns: Mapping[str, NDArray[Any]], seed: int, instruction: str = "") -> Self:
        """Inverse of `columns`."""
        images = {camera: columns[image_column(camera)] for camera in layout.spec.camera_names}
        vectors = {name: columns[name] for name in ("action", "proprio", "state")}
        return cls(images, **vectors, seed=seed, reward=columns.get(REWARD), instruction=instruction)

"""TO BE REMOVED with the first commit after `planning` uses the contract: what it called before there was one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from worldmodel.core.observation import Observation
from worldmodel.models.keypoint.predictor import Belief

if TYPE_CHECKING:
    from worldmodel.models.contract import WorldModel

    class _Contract(WorldModel):
        def encode_goal_images(self, images: Any) -> Belief: ...
else:
    _Contract = object


class PlanningOfBefore(_Contract):
    """The old names, of models with a single camera."""

    @property
    def history(self) -> int:
        return 2

    def encode(self, pixels: Tensor, proprio: Tensor, actions: Tensor) -> Belief:
        camera, latent = self.spec.only_camera.name, None
        for step in range(max(0, pixels.shape[1] - 2), pixels.shape[1]):
            images: dict[str, Any] = {camera: pixels[:, step]}
            latent = self.observe(latent, Observation(images, proprio[:, step]), None)  # type: ignore[arg-type]
        assert isinstance(latent, Belief)
        return latent

    def encode_goal(self, pixels: Tensor) -> Belief:
        return self.encode_goal_images({self.spec.only_camera.name: pixels.to(self.device)})

    def rollout(self, latent: Belief, actions: Tensor) -> Belief:
        ahead = self.imagine(latent, actions)
        assert isinstance(ahead, Belief)
        return ahead

    def distance_now(self, latent: Belief, goal: Belief) -> Tensor:
        return self.distance(latent, goal)

    def compile_rollout(self) -> None:
        self.compile_imagination()

    @staticmethod
    def load(name_or_path: str, device: torch.device) -> Any:
        from worldmodel.models.registry import load_model

        return load_model(name_or_path, device)

"""Frozen encoder + scene code + action-conditioned predictor: all that planning sees of learning.

Shapes: `B` plans, `S` sampled action sequences, `H` control steps ahead, `T` frames of history; `N` tokens of a frame,
`C` channels of each; `Z` scene code, `P` proprioception.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from worldmodel.core import checkpoint
from worldmodel.core.errors import UserError
from worldmodel.core.spec import EnvironmentSpec
from worldmodel.encoders.base import PatchGrid
from worldmodel.encoders.registry import build_encoder, describe_encoder, read_encoder_config
from worldmodel.models.keypoint.compression import Compression, CompressionConfig
from worldmodel.models.keypoint.predictor import Belief, Predictor, PredictorConfig
from worldmodel.models.keypoint.scene import Scene, SceneConfig
from worldmodel.models.normaliser import Normaliser


@dataclasses.dataclass(frozen=True)
class GoalConfig:
    """What counts as near to a goal picture.

    Attributes:
        robot_weight: weight of the robot's place (in standard deviations of its proprioception, as far as the goal
            picture shows it) beside that of the scene's keypoints (in half widths of the picture). Small: where the
            robot is in the goal picture should decide only when nothing else does.
        look_weight: weight of the scene's look, which is of unit length.
    """

    robot_weight: float = 0.1
    look_weight: float = 0.25

    def __post_init__(self) -> None:
        if not min(self.robot_weight, self.look_weight) >= 0:
            raise ValueError(f"weights must not be negative, got {self}")


@dataclasses.dataclass(frozen=True)
class WorldModelConfig:
    """Shapes of all parts."""

    encoder: PatchGrid
    compression: CompressionConfig
    scene: SceneConfig
    predictor: PredictorConfig
    goal: GoalConfig

    @classmethod
    def from_dict(cls, content: dict[str, Any]) -> WorldModelConfig:
        """Read back what `to_dict` wrote. Raises KeyError, TypeError or ValueError."""
        return cls(
            read_encoder_config(content["encoder"]),
            CompressionConfig(**content["compression"]),
            SceneConfig(**content["scene"]),
            PredictorConfig(**content["predictor"]),
            GoalConfig(**content["goal"]),
        )

    def to_dict(self) -> dict[str, Any]:
        """As plain values, with the encoder's kind."""
        return {**dataclasses.asdict(self), "encoder": describe_encoder(self.encoder)}


class WorldModel(nn.Module):
    """W(history, actions) → future, in a code of frozen V-JEPA features (V-JEPA 2-AC, arXiv 2506.09985)."""

    def __init__(self, spec: EnvironmentSpec, config: WorldModelConfig) -> None:
        super().__init__()
        self.spec, self.config = spec, config
        encoder = config.encoder
        sizes = (spec.proprio_size, len(spec.action.low))
        self.encoder = build_encoder(encoder).requires_grad_(False)
        self.compression = Compression(config.compression, encoder.tokens_per_frame, encoder.width)
        self.scene = Scene(config.scene, encoder.grid, self.compression.channels, spec.proprio_size)
        self.scene.requires_grad_(False)  # trained before the predictor, in a training of its own
        self.normaliser = Normaliser(*sizes)
        self.predictor = Predictor(config.predictor, config.scene.size, *sizes)
        self.precision = torch.float32
        self._imagine: Callable[[Belief, Tensor], Belief] = self.predictor.rollout

    @property
    def history(self) -> int:
        """Frames that `encode` makes use of: the last one, and the one before it for what moves."""
        return 2

    # --- what planning calls ---------------------------------------------------------------------------------------

    @torch.no_grad()
    def tokens(self, pixels: Tensor) -> Tensor:
        """Compressed frozen tokens `[B, N, C]` of pictures, uint8 `[B, H, W, 3]`."""
        return self.compression(self.encoder.encode_frames(pixels))

    @torch.no_grad()
    def encode(self, pixels: Tensor, proprio: Tensor, actions: Tensor) -> Belief:
        """Latent of a history: pixels uint8 `[B, T, H, W, 3]`, proprio `[B, T, P]`, actions `[B, T-1, A]`.

        Proprioception counts as it is now, and actions that were taken are seen in what they did.
        """
        recent = pixels[:, -self.history :]
        codes = self.scene(self.tokens(recent.flatten(0, 1))).unflatten(0, recent.shape[:2])
        return Belief(codes[:, -1], codes[:, -1] - codes[:, 0], self.normaliser.proprio(proprio[:, -1]))

    @torch.no_grad()
    def encode_goal(self, pixels: Tensor) -> Belief:
        """Latent of goal pictures, uint8 `[B, H, W, 3]`: at rest, with the proprioception that the picture shows."""
        tokens = self.tokens(pixels)
        code = self.scene(tokens)
        return Belief(code, torch.zeros_like(code), self.scene.robot(tokens))

    def rollout(self, latent: Belief, actions: Tensor) -> Belief:
        """Imagined latents after each of `actions [B, S, H, A]` (physical units), over `[B, S, H, ...]`.

        Gradients flow to the actions unless the caller forbids it.
        """
        with torch.autocast(actions.device.type, self.precision, enabled=self.precision != torch.float32):
            return self._imagine(latent.repeat(actions.shape[1]), self.normaliser.actions(actions))

    def compile_rollout(self) -> None:
        """From now on imagine by fused kernels (torch.compile); the first rollout of every shape takes a while."""
        self._imagine = torch.compile(self.predictor.rollout)

    def distance(self, latent: Belief, goal: Belief) -> Tensor:
        """Distance `[B, S, H]` of imagined latents to goals `[B]`."""
        return self.between(latent, goal.map(lambda part: part[:, None, None]))

    def distance_now(self, latent: Belief, goal: Belief) -> Tensor:
        """Distance `[B]` of frames that were really seen to goals `[B]`."""
        return self.between(latent, goal)

    def between(self, latent: Belief, goal: Belief) -> Tensor:
        """Distance `[...]` of latents to a goal, shapes broadcast.

        How far the scene's keypoints are off, in half widths of the picture, how different it looks there, and a
        little of how far the robot is off:
        `sqrt(|keypoints - keypoints_goal|² + w_l² |look - look_goal|² + w_r² |r (proprio - proprio_goal)|²)`, where
        `r²` is the share of each part of proprioception that a picture shows. It grows linearly with the way to go.
        """
        weights = self.config.goal
        (places, look), (wanted_places, wanted_look) = (self.scene.parts(x.code.float()) for x in (latent, goal))
        robot = (latent.proprio.float() - goal.proprio.float()) * self.scene.robot_readable.sqrt()
        squared = (places - wanted_places).pow(2).sum(-1) + (weights.robot_weight * robot).pow(2).sum(-1)
        squared = squared + (weights.look_weight * (look - wanted_look)).pow(2).sum(-1)
        return squared.clamp_min(1e-12).sqrt()

    # --- checkpoints -----------------------------------------------------------------------------------------------

    def save(self, folder: Path, provenance: dict[str, Any]) -> None:
        """Write the inference-only model (no target encoder). `provenance` says how it came about."""
        config = {
            "environment": self.spec.to_dict(),
            "model": self.config.to_dict(),
            "encoder_hash": checkpoint.weights_hash(self.encoder),
            "provenance": provenance,
        }
        checkpoint.save(folder, "world_model", config, self, half=True)

    @classmethod
    def load(cls, name_or_path: str, device: torch.device) -> WorldModel:
        """A shipped checkpoint by name, or one from a folder.

        Raises:
            UserError: when it is not there, damaged, or made by a newer program.
        """
        folder = checkpoint.resolve(name_or_path)
        config = checkpoint.load_config(folder, "world_model")
        try:
            model = cls(EnvironmentSpec.from_dict(config["environment"]), WorldModelConfig.from_dict(config["model"]))
        except (KeyError, TypeError, ValueError) as error:
            raise UserError(f"{folder / 'config.json'} does not describe a world model: {error}") from error
        checkpoint.load_weights(folder, model)
        model.eval().requires_grad_(False).to(device)
        return model

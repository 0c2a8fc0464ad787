"""Frozen encoder + action-conditioned predictor: all that planning sees of learning.

Shapes: `B` plans, `S` sampled action sequences, `H` control steps ahead, `T` frames of history; `K` compressed
features of a frame, `P` proprioception, `W` the predictor's state.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from configs.command import UserError
from worldmodel import checkpoint
from worldmodel.compression import Compression, CompressionConfig
from worldmodel.data.spec import EnvironmentSpec
from worldmodel.features import Normaliser
from worldmodel.geodesic import GeodesicConfig, GeodesicEmbedding
from worldmodel.predictor import Belief, Predictor, PredictorConfig
from worldmodel.vit import EncoderConfig, VisionTransformer


@dataclasses.dataclass(frozen=True)
class Latent:
    """What the model knows of one or many moments.

    Attributes:
        belief: the predictor's belief `[..., W]`; None for a goal picture, which has no history.
        features: compressed features `[..., K]` of a frame that was really seen; None for an imagined moment.
    """

    belief: Belief | None = None
    features: Tensor | None = None


class WorldModel(nn.Module):
    """W(history, actions) → future, in the space of frozen V-JEPA features (V-JEPA 2-AC, arXiv 2506.09985)."""

    def __init__(
        self,
        spec: EnvironmentSpec,
        encoder: EncoderConfig,
        compression: CompressionConfig,
        geodesic: GeodesicConfig,
        predictor: PredictorConfig,
    ) -> None:
        super().__init__()
        self.spec, self.encoder_config = spec, encoder
        self.compression_config, self.geodesic_config, self.predictor_config = compression, geodesic, predictor
        self.encoder = VisionTransformer(encoder).requires_grad_(False)
        self.compression = Compression(compression, encoder.tokens_per_frame, encoder.width)
        sizes = (spec.proprio_size, len(spec.action_low))
        self.normaliser = Normaliser(*sizes)
        self.predictor = Predictor(predictor, self.compression.size, *sizes)
        self.geodesic = GeodesicEmbedding(geodesic, self.compression.size).requires_grad_(False)
        self.precision = torch.float32

    @property
    def history(self) -> int:
        """Frames of context that `encode` makes use of."""
        return self.predictor_config.history

    # --- what planning calls ---------------------------------------------------------------------------------------

    @torch.no_grad()
    def features(self, pixels: Tensor) -> Tensor:
        """Compressed frozen features `[B, K]` of pictures, uint8 `[B, H, W, 3]`."""
        return self.compression(self.encoder.encode_frames(pixels))

    @torch.no_grad()
    def encode(self, pixels: Tensor, proprio: Tensor, actions: Tensor) -> Latent:
        """Latent of a history: pixels uint8 `[B, T, H, W, 3]`, proprio `[B, T, P]`, actions `[B, T-1, A]`."""
        features = self.features(pixels.flatten(0, 1)).unflatten(0, pixels.shape[:2])
        observed = self.predictor.observe(features, self.normaliser.proprio(proprio), self.normaliser.actions(actions))
        return Latent(observed.now, features[:, -1])

    @torch.no_grad()
    def encode_goal(self, pixels: Tensor) -> Latent:
        """Latent of goal pictures, uint8 `[B, H, W, 3]`. A picture says nothing of proprioception or motion."""
        return Latent(features=self.features(pixels))

    def rollout(self, latent: Latent, actions: Tensor) -> Latent:
        """Imagined latents after each of `actions [B, S, H, A]` (physical units), over `[B, S, H, ...]`.

        Gradients flow to the actions unless the caller forbids it.
        """
        assert latent.belief is not None
        state, proprio = (x[:, None].expand(-1, actions.shape[1], -1) for x in _parts(latent.belief))
        with torch.autocast(actions.device.type, self.precision, enabled=self.precision != torch.float32):
            return Latent(self.predictor.rollout(Belief(state, proprio), self.normaliser.actions(actions)))

    def distance(self, latent: Latent, goal: Latent) -> Tensor:
        """Distance `[B, S, H]` between the frames that imagined latents stand for and the goal pictures.

        The distance between the tokens, which is exact about what is near, plus the length of the way, which still
        points somewhere when the goal is far (`worldmodel.geodesic`). For two unrelated frames each is about 2.
        """
        assert latent.belief is not None and goal.features is not None
        with torch.autocast(goal.features.device.type, self.precision, enabled=self.precision != torch.float32):
            features = self.predictor.read(latent.belief.state)
            return self._distance(features.float(), goal.features[:, None, None])

    def distance_now(self, latent: Latent, goal: Latent) -> Tensor:
        """The same distance `[B]` for frames that were really seen: `latent` of `encode`."""
        assert latent.features is not None and goal.features is not None
        return self._distance(latent.features, goal.features)

    def _distance(self, features: Tensor, goal: Tensor) -> Tensor:
        way = self.geodesic.distance(features, goal)
        return self.compression.distance(features, goal) + self.geodesic_config.weight * way

    # --- checkpoints -----------------------------------------------------------------------------------------------

    def save(self, folder: Path, provenance: dict[str, Any]) -> None:
        """Write the inference-only model (no target encoder). `provenance` says how it came about."""
        config = {
            "environment": self.spec.to_dict(),
            "encoder": dataclasses.asdict(self.encoder_config),
            "compression": dataclasses.asdict(self.compression_config),
            "geodesic": dataclasses.asdict(self.geodesic_config),
            "predictor": dataclasses.asdict(self.predictor_config),
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
            model = cls(
                EnvironmentSpec.from_dict(config["environment"]),
                EncoderConfig(**config["encoder"]),
                CompressionConfig(**config["compression"]),
                GeodesicConfig(**config["geodesic"]),
                PredictorConfig(**config["predictor"]),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise UserError(f"{folder / 'config.json'} does not describe a world model: {error}") from error
        checkpoint.load_weights(folder, model)
        model.eval().requires_grad_(False).to(device)
        return model


def _parts(belief: Belief) -> tuple[Tensor, Tensor]:
    return belief.state, belief.proprio

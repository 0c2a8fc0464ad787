"""The world model V-JEPA 2-AC (arXiv 2506.09985, sections 3 and 4).

A frame is encoded by repeating it over a tubelet, and its tokens are normalised each by itself. The distance to a goal
is the mean absolute difference of tokens. A rollout feeds predicted frames back, normalised again, with poses that the
actions alone determine.

Shapes: `B` robots, `S` sampled action sequences, `H` control steps ahead, `N` tokens of a frame, `C` numbers in each.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar, Final

import torch
import torch.nn.functional as F
from torch import Tensor

from worldmodel.core.errors import UserError
from worldmodel.core.goal import Goal
from worldmodel.core.observation import Observation
from worldmodel.core.options import from_config
from worldmodel.core.spec import CameraSpec, EnvironmentSpec
from worldmodel.core.tensor_record import TensorRecord
from worldmodel.encoders.base import PatchGrid
from worldmodel.encoders.registry import build_encoder, describe_encoder, read_encoder_config
from worldmodel.models.contract import Latent, WorldModel
from worldmodel.models.tokens.predictor import Cache
from worldmodel.models.vjepa2_ac.pose import POSE_SIZE, moved
from worldmodel.models.vjepa2_ac.predictor import AcConfig, AcPredictor

# Keys and values of the samples that are imagined at once. The official predictor has 50 MB of them for every frame.
_MOST_CACHED: Final = 2**31


@dataclasses.dataclass(frozen=True)
class AcModelConfig:
    """Shapes of all parts."""

    encoder: PatchGrid
    predictor: AcConfig

    @classmethod
    def from_dict(cls, content: Mapping[str, Any], cameras: tuple[CameraSpec, ...]) -> AcModelConfig:
        """Read back what `to_dict` wrote. Raises UserError, or KeyError for what is missing."""
        unknown = sorted(set(content) - {"encoder", "predictor"})
        if unknown:
            raise UserError(f"{unknown[0]!r:.40} is no part of a model of V-JEPA 2-AC")
        predictor = from_config(AcConfig, content["predictor"], "predictor")
        return cls(read_encoder_config(content["encoder"], cameras), predictor)

    def to_dict(self) -> dict[str, Any]:
        """The shapes as plain values, with the encoder's kind."""
        return {"encoder": describe_encoder(self.encoder), "predictor": dataclasses.asdict(self.predictor)}


@dataclasses.dataclass(frozen=True)
class AcLatent(TensorRecord):
    """The latent state of one or many control steps.

    Attributes:
        tokens: normalised tokens `[..., N, C]`.
        pose: pose of the end effector `[..., 7]`. It is zero in a goal.
    """

    tokens: Tensor
    pose: Tensor


def require_robot(spec: EnvironmentSpec) -> None:
    """Raises UserError for a robot that V-JEPA 2-AC was not made for."""
    if len(spec.cameras) != 1:
        raise UserError(f"V-JEPA 2-AC sees one camera: {spec.env} has {', '.join(spec.camera_names)}")
    if spec.action.size != POSE_SIZE or spec.proprio_size != POSE_SIZE:
        raise UserError(
            f"V-JEPA 2-AC moves an end effector by {POSE_SIZE} numbers and reads its pose of {POSE_SIZE}: {spec.env} "
            f"has actions of {spec.action.size} and proprioception of {spec.proprio_size}"
        )


class AcModel(WorldModel):
    """See the module's docstring."""

    family: ClassVar[str] = "vjepa2_ac"
    step_distance: Tensor

    def __init__(self, spec: EnvironmentSpec, config: AcModelConfig) -> None:
        super().__init__(spec)
        require_robot(spec)
        if config.predictor.action_size != POSE_SIZE or config.predictor.extrinsics:
            raise UserError(f"the predictor has actions of {config.predictor.action_size}, or knows the camera's pose")
        if config.predictor.token_width != config.encoder.width:
            raise UserError(
                f"the predictor reads tokens of {config.predictor.token_width} numbers, the encoder's have "
                f"{config.encoder.width}: expected the encoder that it was trained on"
            )
        self.config = config
        self.encoder = build_encoder(config.encoder).requires_grad_(False)
        self.predictor = AcPredictor(config.predictor, config.encoder.grid_of(spec.only_camera))
        self.register_buffer("step_distance", torch.zeros(()))

    def describe(self) -> dict[str, Any]:
        """See `WorldModel.describe`."""
        return self.config.to_dict()

    def check_weights(self) -> None:
        """See `WorldModel.check_weights`."""
        if bool(self.step_distance < 0):
            raise UserError("tensor 'step_distance' is below 0")

    # --- what planning calls -----------------------------------------------------------------------------------------

    @torch.no_grad()
    def observe(self, previous: Latent | None, observation: Observation, action: Tensor | None) -> AcLatent:
        """See `WorldModel.observe`. As in the paper, plans begin with the present frame alone."""
        images, readings = self.read_observation(observation)
        return AcLatent(self.tokens(images[self.spec.only_camera.name]), readings.clone())

    @torch.no_grad()
    def goal(self, goal: Goal) -> AcLatent:
        """See `WorldModel.goal`."""
        tokens = self.tokens(self.read_image_goal(goal)[self.spec.only_camera.name])
        return AcLatent(tokens, tokens.new_zeros(1, POSE_SIZE))

    def imagine(self, latent: Latent, actions: Tensor) -> AcLatent:
        """See `WorldModel.imagine`. Row by row, so that a plan does not depend on the number of robots."""
        known = _require_latent(latent)
        with torch.autocast(actions.device.type, self.precision, enabled=self.precision != torch.float32):
            # Cloned, because the rounding of a product also depends on where a matrix begins in memory.
            rows = [self._imagine_row(known.rows([b]), actions[b].clone()) for b in range(len(actions))]
        return AcLatent(torch.stack([row.tokens for row in rows]), torch.stack([row.pose for row in rows]))

    def distance(self, latents: Latent, goal: Latent) -> Tensor:
        """See `WorldModel.distance`. It is the paper's energy, `mean |token - token'|`."""
        tokens, wanted = _require_latent(latents).tokens, _require_latent(goal).tokens
        between = (1,) * (tokens.ndim - wanted.ndim)
        return (tokens - wanted.view(len(wanted), *between, *wanted.shape[1:])).abs().mean((-1, -2))

    @property
    def reached_distance(self) -> float:
        """See `WorldModel.reached_distance`. It is the mean distance between frames one control step apart."""
        return float(self.step_distance)

    # --- in between --------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def tokens(self, pixels: Tensor) -> Tensor:
        """Normalised tokens `[B, N, C]` of images, uint8 `[B, H, W, 3]`, encoded row by row for `imagine`'s reason."""
        return torch.cat([normalised(self.encoder.encode_frames(row)) for row in pixels.split(1)])

    def _imagine_row(self, latent: AcLatent, actions: Tensor) -> AcLatent:
        """Frames `[S, H, ·]` after each of `actions [S, H, 7]`, from one robot's `latent [1, ·]`."""
        together = max(1, _MOST_CACHED // self.predictor.cached_bytes(actions.shape[1]))
        return AcLatent.cat([self._imagine(latent, part) for part in actions.split(together)])

    def _imagine(self, latent: AcLatent, actions: Tensor) -> AcLatent:
        """The same for as many samples as fit into memory at once."""
        samples, cache = len(actions), None
        tokens, pose = latent.tokens.expand(samples, -1, -1), latent.pose.expand(samples, -1)
        frames = []
        for action in actions.unbind(1):
            tokens, cache = self.ahead(tokens, action, pose, cache)
            pose = moved(pose.float(), action.float())
            frames.append(AcLatent(tokens, pose))
        stacked = [torch.stack(parts, dim=1) for parts in zip(*((f.tokens, f.pose) for f in frames), strict=True)]
        return AcLatent(*stacked)

    def ahead(self, tokens: Tensor, action: Tensor, pose: Tensor, cache: Cache | None) -> tuple[Tensor, Cache]:
        """Tokens `[B, N, C]` one control step after `tokens [B, N, C]`, under `action [B, 7]` at `pose [B, 7]`."""
        predicted, cache = self.predictor(tokens[:, None], action[:, None], pose[:, None], cache)
        return normalised(predicted[:, 0]), cache


def normalised(tokens: Tensor) -> Tensor:
    """Tokens `[..., C]`, each with mean 0 and variance 1, in single precision."""
    return F.layer_norm(tokens.float(), tokens.shape[-1:])


def _require_latent(latent: Latent) -> AcLatent:
    """Raises UserError for a latent of another family."""
    if not isinstance(latent, AcLatent):
        raise UserError(f"a {type(latent).__name__} is no latent of family vjepa2_ac: it was made by another model")
    return latent

"""The world model of the tokens family, a transformer over the tokens of a frozen encoder (V-JEPA 2-AC).

Shapes: `B` robots, `S` sampled action sequences, `H` control steps ahead, `N` tokens of a frame over all cameras, `C`
numbers in each, `P` proprioception, `A` action, `k` control steps of a block of the transformer.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from worldmodel.core.errors import UserError
from worldmodel.core.goal import Goal
from worldmodel.core.observation import Observation
from worldmodel.core.options import from_config
from worldmodel.core.spec import CameraSpec, EnvironmentSpec
from worldmodel.encoders.base import PatchGrid
from worldmodel.encoders.registry import build_encoder, describe_encoder, read_encoder_config
from worldmodel.models.compression import Compression, CompressionConfig
from worldmodel.models.contract import Latent, WorldModel
from worldmodel.models.normaliser import Normaliser
from worldmodel.models.tokens.frames import channel_scale, join_cameras, token_distance
from worldmodel.models.tokens.latent import Past, TokenLatent
from worldmodel.models.tokens.predictor import Cache, Moments, TokenPredictor, TransformerConfig

UNIFORM, CHANGING = "uniform", "changing"


@dataclasses.dataclass(frozen=True)
class TokensConfig:
    """How the tokens of a frame are formed, and how frames are compared.

    Attributes:
        pool: side of the square of neighbouring patches that become one token, with all their channels.
        whiten: whether every channel of the compressed features has the same weight. Otherwise channels vary as in the
            features, where a few vary much more than the rest.
        weight: weight of the tokens in the distance to a goal. `uniform` gives all tokens the same weight, `changing`
            a weight in proportion to their change within the episodes of the recording.
    """

    pool: int = 2
    whiten: bool = False
    weight: str = UNIFORM

    def __post_init__(self) -> None:
        if self.pool < 1:
            raise ValueError(f"pool must be at least 1, got {self.pool}")
        if self.weight not in (CHANGING, UNIFORM):
            raise ValueError(f"weight '{self.weight}' is unknown: choose from {CHANGING}, {UNIFORM}")


@dataclasses.dataclass(frozen=True)
class TokenModelConfig:
    """Shapes of all parts."""

    encoder: PatchGrid
    compression: CompressionConfig
    tokens: TokensConfig
    transformer: TransformerConfig

    @classmethod
    def from_dict(cls, content: Mapping[str, Any], cameras: tuple[CameraSpec, ...]) -> TokenModelConfig:
        """Read back what `to_dict` wrote. Raises UserError, or KeyError for what is missing."""
        parts = {"compression": CompressionConfig, "tokens": TokensConfig, "transformer": TransformerConfig}
        unknown = sorted(set(content) - {"encoder", *parts})
        if unknown:
            raise UserError(f"{unknown[0]!r:.40} is no part of a tokens model")
        sections: dict[str, Any] = {name: from_config(part, content[name], name) for name, part in parts.items()}
        return cls(read_encoder_config(content["encoder"], cameras), **sections)

    def to_dict(self) -> dict[str, Any]:
        """The shapes as plain values, with the encoder's kind."""
        return {**dataclasses.asdict(self), "encoder": describe_encoder(self.encoder)}

    def grid_of(self, camera: CameraSpec) -> tuple[int, int]:
        """Rows and columns of a camera's patches. Raises UserError where `pool` does not divide them."""
        rows, columns = self.encoder.grid_of(camera)
        if rows % self.tokens.pool or columns % self.tokens.pool:
            raise UserError(
                f"tokens.pool is {self.tokens.pool}: it does not divide the {rows} x {columns} patches of camera "
                f"{camera.name}"
            )
        return rows, columns


class TokenModel(WorldModel):
    """W(frames, actions) → frames, each with all its tokens. The distance is L1 over tokens (arXiv 2506.09985)."""

    family: ClassVar[str] = "tokens"
    token_weight: Tensor
    step_distance: Tensor

    def __init__(self, spec: EnvironmentSpec, config: TokenModelConfig) -> None:
        super().__init__(spec)
        self.config = config
        self.grids = [config.grid_of(camera) for camera in spec.cameras]
        pool = config.tokens.pool
        folded = [(rows // pool, columns // pool) for rows, columns in self.grids]
        self.encoder = build_encoder(config.encoder).requires_grad_(False)
        self.compressions = nn.ModuleList(
            Compression(config.compression, rows * columns, config.encoder.width) for rows, columns in self.grids
        )
        self.normaliser = Normaliser(spec.proprio_size, spec.action.size)
        channels = min(config.compression.channels, config.encoder.width)
        self.predictor = TokenPredictor(
            config.transformer, folded, pool**2 * channels, spec.proprio_size, spec.action.size
        )
        self.register_buffer("step_distance", torch.zeros(()))
        self.register_buffer("token_weight", torch.ones(sum(rows * columns for rows, columns in folded)))

    def describe(self) -> dict[str, Any]:
        """See `WorldModel.describe`."""
        return self.config.to_dict()

    def check_weights(self) -> None:
        """See `WorldModel.check_weights`."""
        if bool(self.step_distance < 0):
            raise UserError("tensor 'step_distance' is below 0")
        if bool((self.token_weight < 0).any()):
            raise UserError("tensor 'token_weight' has numbers below 0")

    @property
    def memory(self) -> int:
        """Control steps of the past that the model uses, M."""
        return (self.config.transformer.window - 1) * self.config.transformer.prediction_steps

    @property
    def scales(self) -> list[Tensor]:
        """Factors of the compressed channels, `[C]` for every camera (`channel_scale`)."""
        whiten = self.config.tokens.whiten
        return [channel_scale(c.std, whiten) for c in self.compressions if isinstance(c, Compression)]

    # --- what planning calls ---------------------------------------------------------------------------------------

    @torch.no_grad()
    def observe(self, previous: Latent | None, observation: Observation, action: Tensor | None) -> TokenLatent:
        """See `WorldModel.observe`."""
        images, readings = self.read_observation(observation)
        tokens, proprio = self.tokens(images), self.normaliser.proprio(readings)
        size = self.spec.action.size
        if previous is None:
            return TokenLatent(tokens, proprio, Past.none(tokens, proprio, size, self.memory))
        known = _require_latent(previous)
        if action is None or action.shape != (len(tokens), size) or len(known.tokens) != len(tokens):
            given = "none" if action is None else list(action.shape)
            raise UserError(
                f"action is {given} after {len(known.tokens)} and before {len(tokens)} robots were seen: expected "
                f"[B, {size}], one row for each"
            )
        past = known.past
        if past is None:
            raise UserError("the previous latent was imagined, or is a goal: expected one that was observed")
        taken = self.normaliser.actions(action.to(self.device, torch.float32))
        return TokenLatent(tokens, proprio, past.followed_by(known.tokens, known.proprio, taken))

    @torch.no_grad()
    def goal(self, goal: Goal) -> TokenLatent:
        """See `WorldModel.goal`. Only the image of a goal is known, so its proprioception is set to the mean."""
        return self._as_goal(self.tokens(self.read_image_goal(goal)))

    def seen_as_goals(self, observation: Observation, latent: Latent) -> TokenLatent:
        """See `WorldModel.seen_as_goals`."""
        return self._as_goal(_require_latent(latent).tokens)

    def _as_goal(self, tokens: Tensor) -> TokenLatent:
        return TokenLatent(tokens, tokens.new_zeros(len(tokens), self.spec.proprio_size))

    def imagine(self, latent: Latent, actions: Tensor) -> TokenLatent:
        """See `WorldModel.imagine`.

        It imagines row by row. Products of matrices of other sizes round differently, so a robot's plan would depend on
        the number of robots in the batch. A larger product would not be faster either, if the samples fill the machine.
        """
        known, standardised = _require_latent(latent), self.normaliser.actions(actions)
        with torch.autocast(actions.device.type, self.precision, enabled=self.precision != torch.float32):
            # Cloned, because the rounding of a product also depends on where a matrix begins in memory.
            rows = [self._imagine_row(known.rows([b]), standardised[b].clone()) for b in range(len(actions))]
        return TokenLatent(torch.stack([r.tokens for r in rows]), torch.stack([r.proprio for r in rows]))

    def distance(self, latents: Latent, goal: Latent) -> Tensor:
        """See `WorldModel.distance`."""
        tokens, wanted = _require_latent(latents).tokens, _require_latent(goal).tokens
        between = (1,) * (tokens.ndim - wanted.ndim)
        return token_distance(tokens.float(), wanted.view(len(wanted), *between, *wanted.shape[1:]), self.token_weight)

    def compact(self, latent: Latent) -> TokenLatent:
        """See `WorldModel.compact`. The past only serves to imagine."""
        return dataclasses.replace(_require_latent(latent), past=None)

    def decodable(self, latents: Latent) -> Tensor:
        """See `Decodable`. It is all tokens and proprioception, `[..., N C + P]`."""
        known = _require_latent(latents)
        return torch.cat([known.tokens.flatten(-2), known.proprio], dim=-1)

    @property
    def reached_distance(self) -> float:
        """See `WorldModel.reached_distance`. It is the mean distance between frames one control step apart."""
        return float(self.step_distance)

    # --- in between --------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def tokens(self, images: Mapping[str, Tensor]) -> Tensor:
        """Tokens `[B, N, C]` of images by camera, uint8 `[B, H, W, 3]`, encoded row by row for `imagine`'s reason."""
        patches = []
        for camera, compression in zip(self.spec.camera_names, self.compressions, strict=True):
            rows = [compression(self.encoder.encode_frames(row)) for row in images[camera].split(1)]
            patches.append(torch.cat(rows))
        return join_cameras(patches, self.scales, self.grids, self.config.tokens.pool)

    def _imagine_row(self, latent: TokenLatent, actions: Tensor) -> Moments:
        """Frames `[S, H, ·]` after each of `actions [S, H, A]` (standardised), from one robot's `latent [1, ·]`."""
        samples = len(actions)
        start = Moments(latent.tokens.expand(samples, -1, -1), latent.proprio.expand(samples, -1))
        return self.predictor.rollout(start, actions, self._context(latent.past))

    def _context(self, past: Past | None) -> Cache | None:
        """The complete blocks of the past. The last one ends at the present frame."""
        block = self.config.transformer.prediction_steps
        blocks = 0 if past is None else min(int(past.seen), self.memory) // block
        if past is None or not blocks:
            return None
        recent = slice(self.memory - blocks * block, None)
        frames = Moments(past.tokens[:, recent][:, ::block], past.proprio[:, recent][:, ::block])
        _, cache = self.predictor(frames, past.actions[:, recent].unflatten(1, (blocks, block)))
        return cache


def _require_latent(latent: Latent) -> TokenLatent:
    """Raises UserError for a latent of another family."""
    if not isinstance(latent, TokenLatent):
        raise UserError(f"a {type(latent).__name__} is no latent of family tokens: it was made by another model")
    return latent

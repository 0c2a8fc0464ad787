"""The world model of the keypoint family: frozen encoder, keypoint state and action-conditioned predictor.

Shapes: `B` robots, `S` sampled action sequences, `H` control steps ahead, `N` tokens of a frame, `C` channels of each,
`Z` state, concatenated over all cameras, `P` proprioception.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from worldmodel.core.errors import UserError
from worldmodel.core.goal import Goal
from worldmodel.core.observation import Observation
from worldmodel.core.options import from_config
from worldmodel.core.spec import CameraSpec, EnvironmentSpec
from worldmodel.core.tensor_record import TensorRecord
from worldmodel.encoders.base import PatchGrid
from worldmodel.encoders.registry import build_encoder, describe_encoder, read_encoder_config
from worldmodel.models.compression import CompressionConfig
from worldmodel.models.contract import WorldModel
from worldmodel.models.keypoint.confidence import Confidence
from worldmodel.models.keypoint.exported import ExportedRollout
from worldmodel.models.keypoint.keypoints import StateConfig
from worldmodel.models.keypoint.predictor import Belief, Predictor, PredictorConfig
from worldmodel.models.keypoint.view import View
from worldmodel.models.normaliser import Normaliser


@dataclasses.dataclass(frozen=True)
class DistanceConfig:
    """The distance to a goal image.

    Attributes:
        robot_weight: weight of the difference in proprioception (in standard deviations, as far as the goal image
            shows it) beside the distance of the keypoints (in half widths of the image). It is small because the
            robot's position in the goal image should decide only when nothing else does.
        appearance_weight: weight of the appearance embedding, which is of unit length.
        reached: the largest distance at which a goal counts as reached. At 0.2, a keypoint is at most a tenth of the
            image away from its goal, since the unit is half a width. A task with finer tolerances needs less.
    """

    robot_weight: float = 0.1
    appearance_weight: float = 0.25
    reached: float = 0.2

    def __post_init__(self) -> None:
        if not all(0 <= weight < math.inf for weight in (self.robot_weight, self.appearance_weight)):
            raise ValueError(f"weights must be finite and not negative, got {self}")
        if not 0 < self.reached < math.inf:
            raise ValueError(f"reached {self.reached} must be finite and above 0")


@dataclasses.dataclass(frozen=True)
class KeypointConfig:
    """Shapes of all parts. All cameras have the same shapes."""

    encoder: PatchGrid
    compression: CompressionConfig
    state: StateConfig
    predictor: PredictorConfig
    distance: DistanceConfig

    @classmethod
    def from_dict(cls, content: Mapping[str, Any], cameras: tuple[CameraSpec, ...]) -> KeypointConfig:
        """Read back what `to_dict` wrote. Raises UserError, or KeyError for what is missing."""
        parts = {
            "compression": CompressionConfig,
            "state": StateConfig,
            "predictor": PredictorConfig,
            "distance": DistanceConfig,
        }
        unknown = sorted(set(content) - {"encoder", *parts})
        if unknown:
            raise UserError(f"{unknown[0]!r:.40} is no part of a keypoint model")
        # Older checkpoints have one head, no novelty and no alignment, and do not say so.
        older: dict[str, dict[str, Any]] = {"predictor": {"heads": 1}, "state": {"novelty": False, "alignment": False}}
        content = {**content, **{name: {**default, **content[name]} for name, default in older.items()}}
        sections: dict[str, Any] = {name: from_config(part, content[name], name) for name, part in parts.items()}
        return cls(read_encoder_config(content["encoder"], cameras), **sections)

    def to_dict(self) -> dict[str, Any]:
        """The shapes as plain values, with the encoder's kind."""
        return {**dataclasses.asdict(self), "encoder": describe_encoder(self.encoder)}


class KeypointModel(WorldModel):
    """W(latent, actions) → latents, in keypoints on frozen V-JEPA features (V-JEPA 2-AC, arXiv 2506.09985)."""

    family = "keypoint"
    largest_novelty: Tensor

    def __init__(self, spec: EnvironmentSpec, config: KeypointConfig) -> None:
        super().__init__(spec)
        self.config = config
        sizes = (spec.proprio_size, spec.action.size)
        self.encoder = build_encoder(config.encoder).requires_grad_(False)
        views = {
            _key(camera.name): View(camera, config.encoder, config.compression, config.state, spec.proprio_size)
            for camera in spec.cameras
        }
        self.views = nn.ModuleDict(views).requires_grad_(False)  # trained before the predictor, one by one
        self.normaliser = Normaliser(*sizes)
        self.predictor = Predictor(config.predictor, len(spec.cameras) * config.state.size, *sizes)
        self._rollout: Callable[[Belief, Tensor], Belief] = self.predictor.rollout
        self._cast: tuple[Any, Callable[[Belief, Tensor], Belief]] | None = None
        self.calibration = Confidence(config.predictor.calibrated_steps) if config.predictor.heads > 1 else None
        if config.state.novelty:
            self.register_buffer("largest_novelty", torch.ones(1))

    def view(self, camera: str) -> View:
        """The part of the model that is learned from one camera's images."""
        view = self.views[_key(camera)]
        assert isinstance(view, View)
        return view

    def describe(self) -> dict[str, Any]:
        """See `WorldModel.describe`."""
        return self.config.to_dict()

    def check_weights(self) -> None:
        """See `WorldModel.check_weights`."""
        for camera in self.spec.camera_names:
            readable = self.view(camera).robot_readable
            if not bool(((readable >= 0) & (readable <= 1)).all()):
                raise UserError(f"robot_readable of camera {camera} has numbers that are not from 0 to 1")
            weight = self.view(camera).keypoint_weight
            if weight is not None and not bool((weight >= 0).all()):
                raise UserError(f"keypoint_weight of camera {camera} has numbers that are not at least 0")

    # --- the contract ------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def tokens(self, camera: str, pixels: Tensor) -> Tensor:
        """Compressed frozen tokens `[B, N, C]` of a camera's images, uint8 `[B, H, W, 3]`, as the recording's are."""
        return self.view(camera).compression(self.encoder.encode_frames(pixels))

    def _read(self, images: Mapping[str, Tensor], hints: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Compressed tokens `[B, N, C]` of images of all cameras, and how these differ `[B, cameras, 8]`."""
        of_cameras = [None] * len(images) if hints is None else hints.unbind(1)
        seen = [
            self.view(camera).aligned(pixels, hint)
            for (camera, pixels), hint in zip(images.items(), of_cameras, strict=True)
        ]
        aligned, changes = zip(*seen, strict=True)
        alike = len({pixels.shape for pixels in aligned}) == 1
        # Cameras of one size share a pass, which takes three quarters of the time of one after the other.
        encode = self.encoder.encode_frames
        encoded = encode(torch.cat(aligned)).chunk(len(aligned)) if alike else [encode(each) for each in aligned]
        tokens = [self.view(camera).compression(part) for camera, part in zip(images, encoded, strict=True)]
        return torch.cat(tokens, dim=1), torch.stack(changes, dim=1)

    @torch.no_grad()
    def observe(self, previous: TensorRecord | None, observation: Observation, action: Tensor | None) -> Belief:
        """See `WorldModel.observe`. `action` is ignored, since the observations show its effect."""
        images, proprio = self.read_observation(observation)
        assert previous is None or isinstance(previous, Belief)
        tokens, cameras = self._read(images, None if previous is None else previous.cameras)
        if previous is None:
            state = self._state(tokens)
            motion = torch.zeros_like(state)
        else:
            assert previous.tokens is not None
            # Both states are computed in one batch. Rounding depends on the number of rows, and motion is small.
            pair = torch.stack([previous.tokens, tokens], dim=1).flatten(0, 1)
            before, state = self._state(pair).unflatten(0, (-1, 2)).unbind(1)
            motion = state - before
        return Belief(state, motion, self.normaliser.proprio(proprio), tokens, cameras=cameras)

    @torch.no_grad()
    def goal(self, goal: Goal) -> Belief:
        """See `WorldModel.goal`. It reads images of all cameras, estimates proprioception, and sets motion to zero."""
        tokens, cameras = self._read(self.read_image_goal(goal))
        return self._as_goal(self._state(tokens), tokens, cameras)

    @torch.no_grad()
    def seen_as_goals(self, observation: Observation, latent: TensorRecord) -> Belief:
        """See `WorldModel.seen_as_goals`. State and tokens of a goal are those of an observation without a past."""
        assert isinstance(latent, Belief) and latent.tokens is not None and latent.cameras is not None
        return self._as_goal(latent.state, latent.tokens, latent.cameras)

    def _as_goal(self, state: Tensor, together: Tensor, cameras: Tensor) -> Belief:
        """The goal with `state [B, Z]` of the tokens `together [B, N, C]`, in images that differ by `cameras`."""
        seen = self._of_cameras(together)
        read = torch.stack([self.view(camera).keypoints.robot(tokens) for camera, tokens in seen])
        # Every reading is estimated from the camera that shows it best.
        best = self._robot_readable().argmax(0, keepdim=True)[:, None].expand(-1, read.shape[1], -1)
        return Belief(state, torch.zeros_like(state), read.gather(0, best)[0], together, cameras=cameras)

    def imagine(self, latent: TensorRecord, actions: Tensor) -> Belief:
        """See `WorldModel.imagine`."""
        assert isinstance(latent, Belief)
        with torch.autocast(actions.device.type, self.precision, enabled=self.precision != torch.float32):
            start, standardised = latent.imagined().repeat(actions.shape[1]), self.normaliser.actions(actions)
            if self.with_confidence:
                return self.predictor.rollout(start, standardised, doubting=True)
            return self._fast_rollout()(start, standardised)

    def _fast_rollout(self) -> Callable[[Belief, Tensor], Belief]:
        """The rollout with weights that are cast, and heads that are averaged, once.

        Training and compiled rollouts use the predictor itself.
        """
        if self.training or self._rollout != self.predictor.rollout:
            return self._rollout
        # Weights that were moved or changed are other ones.
        weights = [(weight.data_ptr(), weight._version) for weight in self.predictor.parameters()]
        if self._cast is None or self._cast[0] != (weights, self.precision):
            # In a tuple, since a module would count as a part of this one.
            dtype = None if self.precision == torch.float32 else self.precision
            self._cast = ((weights, self.precision), self.predictor.cast(dtype).rollout)
        return self._cast[1]

    def compile_imagination(self) -> None:
        """See `WorldModel.compile_imagination`. The first rollout of every shape takes a while."""
        self._rollout = torch.compile(self.predictor.rollout)

    def export_imagination(self) -> None:
        """See `WorldModel.export_imagination`. The first rollout of every horizon takes seconds."""
        self._rollout = ExportedRollout(self.predictor)

    def distance(self, latents: TensorRecord, goal: TensorRecord) -> Tensor:
        """See `WorldModel.distance`. `between` has the equation."""
        assert isinstance(latents, Belief) and isinstance(goal, Belief)
        between = latents.state.ndim - goal.state.ndim  # dimensions of samples and steps, which a goal lacks
        return self.between(latents, goal.map(lambda part: part[(slice(None), *[None] * between)]))

    def compact(self, latent: TensorRecord) -> Belief:
        """See `WorldModel.compact`. Tokens only serve to encode the next frame."""
        assert isinstance(latent, Belief)
        return latent.imagined()

    def decodable(self, latents: TensorRecord) -> Tensor:
        """See `Decodable`. It is the state of all cameras and proprioception, `[..., Z + P]`."""
        assert isinstance(latents, Belief)
        return torch.cat([latents.state, latents.proprio], dim=-1)

    @property
    def has_confidence(self) -> bool:
        """See `WorldModel.has_confidence`."""
        return self.calibration is not None

    def confidence(self, latents: TensorRecord) -> Tensor:
        """See `SupportsConfidence.confidence`."""
        return self._calibration().probability(*self.doubts(latents), self.reached_distance)

    def error_bound(self, latents: TensorRecord, level: float = 0.9) -> Tensor:
        """See `SupportsConfidence.error_bound`."""
        return self._calibration().bound(*self.doubts(latents), level)

    def doubts(self, latents: TensorRecord) -> tuple[Tensor, Tensor]:
        """Disagreement of the heads in the unit of the distance, and strangeness, of latents `[..., H, ·]`: `[..., H]`.

        Raises:
            UserError: for latents that were imagined without `with_confidence`, or were not imagined.
        """
        assert isinstance(latents, Belief)
        if latents.variance is None or latents.strangeness is None:
            raise UserError("these latents know nothing of confidence: expected some imagined with with_confidence set")
        squared = torch.zeros_like(latents.strangeness)
        for camera, part in zip(
            self.spec.camera_names, latents.variance.float().split(self.config.state.size, -1), strict=True
        ):
            own = part * self.view(camera).state_std.pow(2)
            places, appearance = own.tensor_split([2 * self.config.state.keypoints], dim=-1)
            weight = self.config.distance.appearance_weight**2
            places = places * self.view(camera).places_weight
            squared = squared + places.sum(-1) + weight * appearance.sum(-1)
        return squared.sqrt(), latents.strangeness

    def _calibration(self) -> Confidence:
        if self.calibration is None:
            raise UserError(
                "this model has one head and no confidence: expected one trained with predictor.heads above 1"
            )
        return self.calibration

    def proprioception(self, latents: TensorRecord) -> Tensor:
        """See `SupportsProprioception.proprioception`."""
        assert isinstance(latents, Belief)
        return latents.proprio.float()

    @property
    def has_novelty(self) -> bool:
        """See `WorldModel.has_novelty`."""
        return self.config.state.novelty

    @property
    def novelty_limit(self) -> float:
        """See `SupportsNovelty.novelty_limit`."""
        return float(self.largest_novelty) if self.has_novelty else math.inf

    @torch.no_grad()
    def novelty(self, latents: TensorRecord) -> Tensor:
        """See `SupportsNovelty.novelty`. Of several cameras, the one with the largest counts.

        Raises:
            UserError: for latents that are imagined, and from a model that was trained without novelty.
        """
        assert isinstance(latents, Belief)
        if not self.has_novelty or latents.tokens is None:
            raise UserError(
                "nothing tells how new this is: expected an observation, and state.novelty=true in training"
            )
        each = [self.view(camera).novelty_of(tokens) for camera, tokens in self._of_cameras(latents.tokens)]
        return torch.stack(each).amax(0)

    @property
    def reached_distance(self) -> float:
        """See `WorldModel.reached_distance`."""
        return self.config.distance.reached

    def between(self, latents: Belief, goal: Belief) -> Tensor:
        """Distance `[...]` of latents to a goal, shapes broadcast.

        It combines the distance of the keypoints, in half widths of the image, the difference of the appearance
        embeddings, and the difference in proprioception:
        `sqrt(sum_c (|keypoints_c - keypoints_c'|² + w_a² |appearance_c - appearance_c'|²) + w_r² |r (p - p')|²)`
        over all cameras c, with proprioception p. The square of every keypoint has its weight, if `state.balanced`.
        `r²` is, for each reading, the share of its variance that the best camera shows. The distance grows linearly
        with the remaining way.
        """
        weights = self.config.distance
        readable = self._robot_readable().amax(0)
        robot = (latents.proprio.float() - goal.proprio.float()) * readable.sqrt()
        squared = (weights.robot_weight * robot).pow(2).sum(-1)
        size = self.config.state.size
        parts = (latents.state.float().split(size, dim=-1), goal.state.float().split(size, dim=-1))
        for camera, state, wanted in zip(self.spec.camera_names, *parts, strict=True):
            view = self.view(camera)
            (places, appearance), (wanted_places, wanted_appearance) = map(view.parts, (state, wanted))
            squared = squared + ((places - wanted_places).pow(2) * view.places_weight).sum(-1)
            squared = squared + (weights.appearance_weight * (appearance - wanted_appearance)).pow(2).sum(-1)
        return squared.clamp_min(1e-12).sqrt()

    def state_weight(self) -> Tensor:
        """Weights of the numbers of a state `[Z]`, which are 1 unless `state.balanced`."""
        parts = []
        for camera in self.spec.camera_names:
            view, weight = self.view(camera), torch.ones_like(self.view(camera).state_mean)
            weight[: 2 * self.config.state.keypoints] *= view.places_weight
            parts.append(weight)
        return torch.cat(parts)

    def _state(self, tokens: Tensor) -> Tensor:
        """Standardised states `[B, Z]` from the compressed tokens of all cameras, concatenated to `[B, N, C]`."""
        return torch.cat([self.view(camera)(seen) for camera, seen in self._of_cameras(tokens)], dim=-1)

    def _of_cameras(self, tokens: Tensor) -> list[tuple[str, Tensor]]:
        """The tokens `[B, N, C]` of every camera, of those that are concatenated."""
        names = self.spec.camera_names
        sizes = [self.view(camera).keypoints.grid.tokens for camera in names]
        return list(zip(names, tokens.split(sizes, dim=1), strict=True))

    def _robot_readable(self) -> Tensor:
        """The share of each reading's variance that every camera shows, `[cameras, P]`."""
        return torch.stack([self.view(camera).robot_readable for camera in self.spec.camera_names])


def _key(camera: str) -> str:
    """Name of a camera's module. Its prefix avoids the names of methods, such as `half`, which torch refuses."""
    return f"camera_{camera}"

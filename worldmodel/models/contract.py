"""The interface of every world model, whatever its family.

    latent = model.observe(None, observation, None)              # where an episode begins
    latent = model.observe(latent, observation, action)          # one control step later
    ahead = model.imagine(latent, actions)                       # [B, S, H, ...]
    cost = model.distance(ahead, model.goal(goal))               # [B, S, H]

Shapes: `B` robots, `S` sampled action sequences of each, `H` control steps ahead, `A` action dimensions, `P`
proprioceptive readings, `H, W` height and width of a camera's images.
"""

from __future__ import annotations

import abc
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor, nn

from worldmodel.core import checkpoint
from worldmodel.core.errors import UserError
from worldmodel.core.goal import Goal, ImageGoal
from worldmodel.core.observation import Observation
from worldmodel.core.spec import EnvironmentSpec
from worldmodel.core.tensor_record import TensorRecord
from worldmodel.encoders.base import Encoder

# Opaque to planning, which only selects and joins rows. Its tensors have one row per robot, `[B, ...]`.
Latent = TensorRecord


class WorldModel(nn.Module, abc.ABC):
    """W(latent, actions) → latents, on a frozen encoder (V-JEPA 2-AC, arXiv 2506.09985).

    All parameters and buffers are finite floating-point numbers. A buffer called `std` or `..._std` is a divisor and is
    above 0. Loading a checkpoint checks both rules.

    Attributes:
        family: its name in `worldmodel.models.registry`.
        spec: specification of the robot that it was trained on.
        encoder: the frozen encoder from images to tokens.
        precision: precision of imagined futures, float32 or bfloat16.
        with_confidence: whether imagined latents carry what `SupportsConfidence` needs. It costs some time.
        folder: the checkpoint's folder that it was loaded from; None for a model that was not loaded.
    """

    family: ClassVar[str]
    spec: EnvironmentSpec
    encoder: Encoder

    def __init__(self, spec: EnvironmentSpec) -> None:
        super().__init__()
        self.spec, self.precision, self.with_confidence = spec, torch.float32, False
        self.folder: Path | None = None

    @abc.abstractmethod
    def observe(self, previous: Latent | None, observation: Observation, action: Tensor | None) -> Latent:
        """Latent state `[B, ...]` after an observation. Every frame is encoded once, since `previous` holds the past.

        Args:
            previous: latent state `[B, ...]` one control step ago, None at the start of an episode.
            observation: observation of B robots, as numpy arrays or tensors on any device.
            action: the action between the two, `[B, A]` in physical units. None at the start of an episode.

        Raises:
            UserError: for an observation of other cameras or shapes than those of `spec`.
        """

    @abc.abstractmethod
    def goal(self, goal: Goal) -> Latent:
        """A goal as a latent `[1, ...]`. Raises UserError for one that this model cannot read."""

    def seen_as_goals(self, observation: Observation, latent: Latent) -> Latent:
        """The goals `[B, ...]` that show what `observation [B]` shows, of which `latent` was observed without a past.

        The images are read one by one. A family that finds the goals in `latent` is faster, and differs by rounding.
        """
        images, each = self.read_images(observation.images), []
        for row in range(len(next(iter(images.values())))):
            each.append(
                self.goal(ImageGoal({name: of_camera[row].cpu().numpy() for name, of_camera in images.items()}))
            )
        return type(each[0]).cat(each)

    @abc.abstractmethod
    def imagine(self, latent: Latent, actions: Tensor) -> Latent:
        """Latents `[B, S, H, ...]` after each of `actions [B, S, H, A]`, in physical units, from `latent [B, ...]`.

        Gradients flow to the actions unless the caller disables them.
        """

    @abc.abstractmethod
    def distance(self, latents: Latent, goal: Latent) -> Tensor:
        """Distance of latents `[B, ...]` or `[B, S, H, ...]` to goals `[B, ...]`: `[B]` or `[B, S, H]`, at least 0.

        Observed and imagined latents are measured on the same scale.
        """

    def compact(self, latent: Latent) -> Latent:
        """A latent without what only `observe` needs, for those that are kept in number and compared by `distance`."""
        return latent

    @property
    @abc.abstractmethod
    def reached_distance(self) -> float:
        """Largest distance at which a goal counts as reached, unless the user gives another. Scales differ by family.

        A distance that is not finite never counts as reached.
        """

    @abc.abstractmethod
    def describe(self) -> dict[str, Any]:
        """The sizes of all parts as plain values, from which the family's `build` rebuilds the model."""

    @property
    def has_confidence(self) -> bool:
        """Whether this very model has what `SupportsConfidence` asks for, and not only its family."""
        return False

    @property
    def has_novelty(self) -> bool:
        """Whether this very model has what `SupportsNovelty` asks for, and not only its family."""
        return False

    def compile_imagination(self) -> None:
        """Compile `imagine` with torch.compile, if the family supports it."""

    def export_imagination(self) -> None:
        """Let ONNX Runtime compute what `imagine` does, on a CPU and in float32.

        Raises:
            UserError: if the family does not support it, the extra `onnx` is missing, or the model is elsewhere.
        """
        raise UserError(f"compile=onnx with a world model of family {self.family}: expected auto, true or false")

    def check_weights(self) -> None:
        """Raises UserError for weights that break a further rule of the family."""

    def save(self, folder: Path, provenance: Mapping[str, Any]) -> None:
        """Write what inference needs. `provenance` describes the training, in plain values."""
        content = {
            "family": self.family,
            "environment": self.spec.to_dict(),
            "model": self.describe(),
            "provenance": dict(provenance),
        }
        checkpoint.save(folder, "world_model", content, self, half=True)

    def blank_latent(self) -> Latent:
        """The latent `[1, ...]` of black images and readings of 0, whose shapes are those of every observation."""
        black = {camera.name: np.zeros((1, *camera.shape), np.uint8) for camera in self.spec.cameras}
        return self.observe(None, Observation(black, np.zeros((1, self.spec.proprio_size), np.float32)), None)

    # --- for observe and goal ---------------------------------------------------------------------------------------

    @property
    def device(self) -> torch.device:
        """The device of the model."""
        return next(self.buffers()).device

    def read_images(self, images: Mapping[str, Any]) -> dict[str, Tensor]:
        """Images `[B, H, W, 3]` of all cameras, on the model's device, in the order of `spec`.

        Raises:
            UserError: for other cameras, shapes or types, naming both.
        """
        if set(images) != set(self.spec.camera_names):
            received = ", ".join(sorted(map(str, images))) or "none"
            raise UserError(f"pictures of the cameras {received}: expected {', '.join(self.spec.camera_names)}")
        read = {}
        for camera in self.spec.cameras:
            pixels = torch.as_tensor(images[camera.name])
            if pixels.dtype != torch.uint8 or pixels.ndim != 4 or tuple(pixels.shape[1:]) != camera.shape:
                raise UserError(
                    f"pictures of camera {camera.name} are {_described(pixels)}: expected uint8 "
                    f"[B, {camera.height}, {camera.width}, 3]"
                )
            read[camera.name] = pixels.to(self.device)
        return read

    def read_observation(self, observation: Observation) -> tuple[dict[str, Tensor], Tensor]:
        """Images by camera `[B, H, W, 3]` and proprioception `[B, P]`, on the model's device. Raises UserError."""
        images = self.read_images(observation.images)
        rows = {len(pixels) for pixels in images.values()}
        proprio = torch.as_tensor(observation.proprio)
        if proprio.ndim != 2 or proprio.shape[1] != self.spec.proprio_size or {len(proprio)} != rows:
            raise UserError(
                f"proprio is {_described(proprio)} beside pictures of {', '.join(map(str, sorted(rows)))} robots: "
                f"expected [B, {self.spec.proprio_size}], one row for each"
            )
        return images, proprio.to(self.device, torch.float32)

    def read_image_goal(self, goal: Goal) -> dict[str, Tensor]:
        """The images `[1, H, W, 3]` of an `ImageGoal`. Raises UserError for another kind of goal, and as above."""
        if not isinstance(goal, ImageGoal):
            raise UserError(
                f"a world model of family {self.family} cannot read a {type(goal).__name__}: expected ImageGoal"
            )
        return self.read_images({name: np.asarray(image)[None] for name, image in goal.images.items()})


def _described(values: Tensor) -> str:
    return f"{str(values.dtype).removeprefix('torch.')} {list(values.shape)}"


# --- what only some models can do ------------------------------------------------------------------------------------


@runtime_checkable
class SupportsConfidence(Protocol):
    """A model that estimates its confidence. Its latents must have been imagined with `with_confidence` set."""

    def confidence(self, latents: Any) -> Tensor:
        """The probability `[..., H]` that reality is within `reached_distance` of the imagined `latents [..., H]`."""

    def error_bound(self, latents: Any, level: float = 0.9) -> Tensor:
        """The distance between imagined and real latents, `[..., H]`, that `level` of them do not exceed."""


@runtime_checkable
class Decodable(Protocol):
    """A model for which a decoder can be trained. The decoder needs nothing else of a family."""

    def decodable(self, latents: Any) -> Tensor:
        """The part `[..., D]` of latents with the leading shape `[...]` on which an image depends.

        Observed and imagined latents have the same part. A decoder is trained on the former and renders the latter.
        """


@runtime_checkable
class SupportsNovelty(Protocol):
    """A model that tells images unlike those of its training from others. Latents are of `observe` or `goal`."""

    @property
    def novelty_limit(self) -> float:
        """The novelty that one in a thousand held-out images exceeds."""

    def novelty(self, latents: Any) -> Tensor:
        """How unlike the training the images of `latents [B, ...]` are, `[B]`, at least 0."""


@runtime_checkable
class SupportsProprioception(Protocol):
    """A model that imagines what the robot feels."""

    def proprioception(self, latents: Any) -> Tensor:
        """Readings `[..., P]`, in their standard deviations, of observed or imagined latents."""


@runtime_checkable
class SupportsDecoding(Protocol):
    """Renders latents. `worldmodel.models.decoder.decoder.Decoder` does so for every model that is `Decodable`.

    A decoder is an object with weights of its own, since no model needs it to act.
    """

    def decode(self, latents: Any) -> dict[str, Tensor]:
        """Images by camera, uint8 `[..., H, W, 3]`, of latents with the leading shape `[...]`."""


@runtime_checkable
class SupportsReward(Protocol):
    """A model that predicts a task's reward."""

    def reward(self, latents: Any, actions: Tensor) -> Tensor:
        """Reward `[...]` of `actions [..., A]` that led to latents `[..., ...]`."""

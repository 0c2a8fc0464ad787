"""V-JEPA pretraining as a `TrainingTask`, from clips to losses and to figures on the health of the features."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from worldmodel.core.spec import CameraSpec
from worldmodel.encoders.jepa.masks import LONG_RANGE, SHORT_RANGE, MaskFn, read_mask
from worldmodel.encoders.jepa.objective import Jepa
from worldmodel.encoders.probe import ProbeData, probe_encoder
from worldmodel.encoders.vit import EncoderConfig, VisionTransformer, to_unit_range
from worldmodel.training.trainer import TrainingStopped, TrainingTask, cosine

# `(step) -> uint8 [B, T, H, W, 3]`: the clips of a step, which depend only on its number. All clips of one step have
# the same size. Another step may have another size.
ClipSource = Callable[[int], NDArray[np.uint8]]


@dataclasses.dataclass(frozen=True)
class PretrainConfig:
    """Options of V-JEPA pretraining.

    Attributes:
        momentum: momentum of the target encoder at the start. It rises to `final_momentum` by a cosine.
        final_momentum: momentum of the target encoder at the end.
        masks: masks that are predicted at once, by default a short-range and a long-range one as in V-JEPA. Mappings
            become masks by `read_mask`.
        jitter: largest change of brightness and contrast of a whole clip, as a fraction.
        colour_jitter: largest change of each colour channel of a whole clip, as a fraction.
        two_lights: whether the clips of the context encoder and of the target encoder are jittered independently.
        canonical_share: share of clips for which the context encoder also sees the canonical recording, if there is
            one.
        flip: whether half of the clips are mirrored left to right.
        probe_frames: frames for the linear probe. Half of them are held out.
        smallest_spread: training stops as collapsed if the features' spread falls below this.
    """

    momentum: float = 0.99
    final_momentum: float = 1.0
    masks: tuple[MaskFn, ...] = (SHORT_RANGE, LONG_RANGE)
    jitter: float = 0.2
    colour_jitter: float = 0.0
    two_lights: bool = False
    canonical_share: float = 0.3
    flip: bool = True
    probe_frames: int = 2000
    smallest_spread: float = 0.01

    def __post_init__(self) -> None:
        masks = tuple(mask if callable(mask) else read_mask(mask) for mask in self.masks)
        if not masks:
            raise ValueError("masks is empty: expected at least one")
        object.__setattr__(self, "masks", masks)
        for name in ("momentum", "final_momentum", "canonical_share"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} {getattr(self, name)}: expected a number from 0 to 1")
        for name in ("jitter", "colour_jitter", "smallest_spread"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"{name} {getattr(self, name)}: expected a number of at least 0")
        if self.probe_frames < 4:
            raise ValueError(f"probe_frames {self.probe_frames}: expected at least 4, half of them held out")


def bytes_per_clip(encoder: EncoderConfig, camera: CameraSpec, frames: int) -> float:
    """Least memory that a clip of `frames` frames of `camera` takes in a training step [bytes].

    It is the sum of the pixels as float32, twice (for context and targets), and of what the blocks of the context
    encoder keep for the backward pass. The latter takes 34 bytes per token, feature and block in half precision
    (Korthikanti et al., arXiv 2205.05198).
    """
    tokens = frames // encoder.tubelet_frames * encoder.grid_of(camera).tokens
    return 8.0 * frames * camera.height * camera.width * 3 + 34.0 * tokens * encoder.width * encoder.depth


class PretrainTask(TrainingTask):
    """Masked latent prediction on clips.

    `canonical` are the same clips without distractors. If they are given, the target encoder sees them, and distractors
    are not part of the targets (randomised-to-canonical adaptation, arXiv 1812.07252, in feature space).

    Args:
        clips: the clips to learn from.
        probe: frames by camera for the probe.
        canonical: the same clips in their canonical appearance.
    """

    def __init__(
        self,
        module: Jepa,
        config: PretrainConfig,
        clips: ClipSource,
        probe: Mapping[str, ProbeData],
        seed: int,
        device: torch.device,
        canonical: ClipSource | None = None,
    ) -> None:
        self.module: Jepa = module
        self._config, self._clips, self._probe = config, clips, probe
        self._canonical = canonical
        self._seed, self._device = seed, device

    @property
    def kept(self) -> VisionTransformer:
        """The encoder that is kept after pretraining. It is the target encoder, as in V-JEPA.

        With a canonical recording it is the context encoder. The target encoder has never seen distractors then. It
        also changes so slowly that it still computes much of its initial features, which makes them worth predicting.
        """
        return self.module.target if self._canonical is None else self.module.encoder

    def _show(self, frames: NDArray[np.uint8], mirrored: NDArray[np.bool_]) -> Tensor:
        """Frames, uint8 `[B, T, H, W, 3]`, as floats in [-2, 2]. Clips in `mirrored [B]` are flipped left to right."""
        if self._config.flip:  # before the conversion to floats, which take four times the memory
            frames = np.where(mirrored[:, None, None, None, None], frames[:, :, :, ::-1], frames)
        return to_unit_range(torch.from_numpy(frames).to(self._device))

    def _light(self, pixels: Tensor, rng: np.random.Generator) -> Tensor:
        """Change brightness, contrast and tint at random, alike for all frames of a clip."""
        config, batch = self._config, len(pixels)
        if config.jitter:
            contrast, brightness = rng.uniform(-config.jitter, config.jitter, (2, batch, 1, 1, 1, 1)).astype(np.float32)
            pixels = (pixels * torch.from_numpy(1 + contrast).to(pixels)).add_(torch.from_numpy(brightness).to(pixels))
        if config.colour_jitter:
            tint = rng.uniform(-config.colour_jitter, config.colour_jitter, (batch, 1, 1, 1, 3)).astype(np.float32)
            # Black is -2. A factor on the distance to black changes a channel as a coloured light would.
            pixels = (pixels + 2) * torch.from_numpy(1 + tint).to(pixels) - 2
        return pixels

    def loss(self, step: int) -> dict[str, Tensor]:
        """One batch with all masks."""
        rng = np.random.default_rng([self._seed, step])
        shown, config = self._clips(step), self._config
        batch, (frames, height, width) = len(shown), shown.shape[1:4]
        mirrored = rng.random(batch) < 0.5
        seen_by_target = None
        if self._canonical is not None:
            canonical = self._canonical(step)
            as_canonical = rng.random(batch) < config.canonical_share
            shown = np.where(as_canonical[:, None, None, None, None], canonical, shown)
            seen_by_target = self._show(canonical, mirrored)
        clips = self._show(shown, mirrored)
        if config.two_lights:
            seen_by_target = self._light(clips if seen_by_target is None else seen_by_target, rng)
        clips = self._light(clips, rng)
        encoder = self.module.encoder.config
        layers, grid = frames // encoder.tubelet_frames, encoder.grid(height, width)
        masks = [mask(batch, layers, grid, rng).to(self._device) for mask in config.masks]
        values = self.module(clips, masks, seen_by_target)
        features = values.pop("features")
        values["target_spread"] = (features - features.mean(0)).pow(2).mean().sqrt()
        return values

    def after_step(self, step: int, total: int) -> None:
        """Move the target encoder toward the context encoder, more slowly with every step."""
        self.module.update_target(cosine(self._config.momentum, self._config.final_momentum, step / total))

    def evaluate(self, step: int) -> dict[str, float]:
        """Probe the encoder that is kept. Raises TrainingStopped on collapse."""
        measured: dict[str, float] = {}
        for camera, data in self._probe.items():
            of_camera = probe_encoder(self.kept, data, self._device)
            if of_camera["spread"] < self._config.smallest_spread:
                where = f" of camera {camera}" if len(self._probe) > 1 else ""
                raise TrainingStopped(
                    f"the features{where} have collapsed: spread {of_camera['spread']:.4f} at step {step} is under "
                    f"{self._config.smallest_spread}; the last good checkpoint is kept. A lower learning rate, or "
                    "jepa.variance_weight=1 jepa.covariance_weight=0.04, usually helps, in another folder (out=...)"
                )
            prefix = f"{camera}/" if len(self._probe) > 1 else ""
            measured |= {f"{prefix}{name}": value for name, value in of_camera.items()}
        return measured

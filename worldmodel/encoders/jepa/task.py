"""V-JEPA pretraining as a `TrainingTask`, from clips to losses and to figures on the health of the features."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh

from worldmodel.core.errors import UserError
from worldmodel.core.ranks import ALONE, Rank
from worldmodel.core.seeds import seed_of_step
from worldmodel.core.spec import CameraSpec
from worldmodel.encoders.attention import repeatable
from worldmodel.encoders.jepa.batches import Batch, Light, as_images
from worldmodel.encoders.jepa.losses import PIXELS
from worldmodel.encoders.jepa.masks import LONG_RANGE, SHORT_RANGE, MaskFn, MultiBlock, read_mask
from worldmodel.encoders.jepa.objective import Jepa
from worldmodel.encoders.probe import ProbeData, probe_encoder
from worldmodel.encoders.vit import EncoderConfig, VisionTransformer
from worldmodel.training.collectives import mean
from worldmodel.training.schedules import cosine, linear
from worldmodel.training.trainer import TrainingStopped, TrainingTask

# `(step) -> uint8 [B, T, H, W, 3]`: this rank's clips of a step, which depend only on the step's number and the rank.
# All clips of one step have the same size. Another step may have another size.
ClipSource = Callable[[int], NDArray[np.uint8]]


@dataclasses.dataclass(frozen=True)
class PretrainConfig:
    """Options of V-JEPA pretraining.

    Attributes:
        momentum: momentum of the target encoder at the start. It goes to `final_momentum` by `momentum_schedule`.
        final_momentum: momentum of the target encoder at the end.
        momentum_schedule: `cosine`, or `linear` as in V-JEPA's code.
        masks: masks that are predicted at once, by default a short-range and a long-range one as in V-JEPA. Mappings
            become masks by `read_mask`.
        image_share: share of the steps whose clips are single images, each repeated over one tubelet or in the
            encoder's tubelet for single images (V-JEPA 2.1 trains on images and videos at once).
        image_masks: masks of these steps, by default those of V-JEPA 2.1.
        lengths: frames of the clips in consecutive stretches of the training, for example 8, 16 and 32. Clips are cut
            to their first frames. None are cut without it.
        lengths_from: where each stretch begins, as a fraction of the training, beginning with 0.
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
    momentum_schedule: str = "cosine"
    masks: tuple[MaskFn, ...] = (SHORT_RANGE, LONG_RANGE)
    image_share: float = 0.0
    image_masks: tuple[MaskFn, ...] = (MultiBlock(blocks=10, spatial_scale=0.15),)
    lengths: tuple[int, ...] = ()
    lengths_from: tuple[float, ...] = ()
    jitter: float = 0.2
    colour_jitter: float = 0.0
    two_lights: bool = False
    canonical_share: float = 0.3
    flip: bool = True
    probe_frames: int = 2000
    smallest_spread: float = 0.01

    def __post_init__(self) -> None:
        for name in ("masks", "image_masks"):
            masks = tuple(mask if callable(mask) else read_mask(mask) for mask in getattr(self, name))
            if not masks:
                raise ValueError(f"{name} is empty: expected at least one")
            object.__setattr__(self, name, masks)
        if self.momentum_schedule not in ("cosine", "linear"):
            raise ValueError(f"momentum_schedule '{self.momentum_schedule}' is unknown: choose from cosine, linear")
        self._check_lengths()
        for name in ("momentum", "final_momentum", "canonical_share", "image_share"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} {getattr(self, name)}: expected a number from 0 to 1")
        for name in ("jitter", "colour_jitter", "smallest_spread"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"{name} {getattr(self, name)}: expected a number of at least 0")
        if self.probe_frames < 4:
            raise ValueError(f"probe_frames {self.probe_frames}: expected at least 4, half of them held out")

    def _check_lengths(self) -> None:
        begins = list(self.lengths_from)
        ascending = (
            begins == sorted(set(begins)) and begins[:1] in ([], [0]) and all(0 <= begin < 1 for begin in begins)
        )
        if len(self.lengths) != len(begins) or not ascending or min(self.lengths, default=1) < 1:
            raise ValueError(
                f"lengths {list(self.lengths)} and lengths_from {begins}: expected as many frame counts as fractions, "
                "which begin with 0, ascend and are below 1"
            )

    def length_at(self, progress: float) -> int | None:
        """Frames of a clip at `progress` of the training, from 0 to 1. None for all that the clips have."""
        begun = [frames for frames, begin in zip(self.lengths, self.lengths_from, strict=True) if begin <= progress]
        return begun[-1] if begun else None

    def is_image(self, rng: np.random.Generator) -> bool:
        """Whether a step shows single images, by the first draw of its generator."""
        return bool(self.image_share) and rng.random() < self.image_share

    def frames_at(self, step: int, total: int, seed: int, frames: int) -> int:
        """Frames that a step of `total` takes of clips of `frames` frames."""
        if self.is_image(generator_of(seed, step)):
            return 1
        return self.length_at(step / total) or frames

    def require_fit(self, encoder: EncoderConfig, cameras: Iterable[CameraSpec], frames: int) -> None:
        """Raises UserError if clips of `frames` frames cannot be cut to all lengths, or not be hidden by all masks.

        It also does if no step would train the tubelet of single images.
        """
        rng, tubelet = np.random.default_rng(0), encoder.tubelet_frames
        if encoder.still_tubelet and not self.image_share:
            raise UserError(
                "encoder.still_tubelet=true with pretrain.image_share=0: the tubelet of single images learns from "
                "single images, so give pretrain.image_share=0.5, for example"
            )
        for length in (frames, *self.lengths):
            if length % tubelet or length > frames:
                raise UserError(
                    f"pretrain.lengths has {length}, of clips of {frames} frames: expected multiples of {tubelet} "
                    "tubelet frames that are not above clips.frames"
                )
        shapes = [(self.masks, length // tubelet) for length in self.lengths or (frames,)]
        for masks, layers in [*shapes, *([(self.image_masks, 1)] if self.image_share else [])]:
            for mask in masks:
                for camera in cameras:
                    mask(1, layers, encoder.grid_of(camera), rng)


def generator_of(seed: int, step: int) -> np.random.Generator:
    """The generator of everything that a step draws beside its clips."""
    return np.random.default_rng([seed, step])


def bytes_per_clip(encoder: EncoderConfig, camera: CameraSpec, frames: int) -> float:
    """Least memory that a clip of `frames` frames of `camera` takes in a training step [bytes].

    It is the sum of the pixels as float32, twice (for context and targets), and of what the blocks of the context
    encoder keep for the backward pass. The latter takes 34 bytes per token, feature and block in half precision
    (Korthikanti et al., arXiv 2205.05198). With checkpointing it is 2 bytes, and 34 for one block.
    """
    tokens = frames // encoder.tubelet_frames * encoder.grid_of(camera).tokens
    kept = 2.0 * encoder.blocks + 34.0 if encoder.checkpointing else 34.0 * encoder.blocks
    return 8.0 * frames * camera.height * camera.width * 3 + kept * tokens * encoder.width


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
        self._seed, self._device, self._rank = seed, device, ALONE
        self._drawing: ThreadPoolExecutor | None = None
        self._ahead: tuple[int, Future[Batch]] | None = None
        self._waited_s, self._since = 0.0, time.monotonic()

    @property
    def kept(self) -> VisionTransformer:
        """The encoder that is kept after pretraining. It is the target encoder, as in V-JEPA.

        With a canonical recording it is the context encoder. The target encoder has never seen distractors then. It
        also changes so slowly that it still computes much of its initial features, which makes them worth predicting.
        With pixels as targets, only the context encoder is trained.
        """
        is_target = self._canonical is None and self.module.config.targets != PIXELS
        return self.module.target if is_target else self.module.encoder

    def _draw(self, step: int, progress: float) -> Batch:
        """This rank's share of the batch of a step. The order of the draws is fixed, since (seed, step) decides on all.

        Every rank draws for the clips of all ranks, so that nothing depends on their number.
        """
        rng = generator_of(self._seed, step)
        config, length = self._config, self._config.length_at(progress)
        is_image = config.is_image(rng)
        shown = self._cut(self._clips(step), length, is_image)
        (frames, height, width), own = shown.shape[1:4], self._rank.rows
        batch = len(shown) * self._rank.count
        mirrored = rng.random(batch) < 0.5
        for_target = target_light = None
        if self._canonical is not None:
            for_target = self._cut(self._canonical(step), length, is_image)
            as_canonical = rng.random(batch)[own] < config.canonical_share
            shown = np.where(as_canonical[:, None, None, None, None], for_target, shown)
        if config.two_lights:
            target_light = Light.draw(batch, config.jitter, config.colour_jitter, rng).rows(own)
        light = Light.draw(batch, config.jitter, config.colour_jitter, rng).rows(own)
        encoder = self.module.encoder.config
        layers, grid = encoder.layers(frames), encoder.grid(height, width)
        kinds = config.image_masks if is_image else config.masks
        masks = tuple(mask(batch, layers, grid, rng).rows(own) for mask in kinds)
        return Batch(shown, for_target, mirrored[own] if config.flip else None, light, target_light, masks)

    def _drawn(self, step: int, total: int) -> Batch:
        """The batch of `step`. On several ranks, a thread draws the next one meanwhile.

        Every rank draws the masks of all ranks, which takes a noticeable part of a step for some thousand clips.
        """
        began, ahead, self._ahead = time.monotonic(), self._ahead, None
        is_ready = ahead is not None and ahead[0] == step
        batch = ahead[1].result() if ahead and is_ready else self._draw(step, step / total if total else 1.0)
        self._waited_s += time.monotonic() - began
        if self._drawing is not None and step + 1 < total:
            self._ahead = step + 1, self._drawing.submit(self._draw, step + 1, (step + 1) / total)
        return batch

    def _cut(self, clips: NDArray[np.uint8], length: int | None, is_image: bool) -> NDArray[np.uint8]:
        """Clips of this stretch of the training, or single images."""
        return as_images(clips, self.module.encoder.config.image_frames) if is_image else clips[:, :length]

    def loss(self, step: int) -> dict[str, Tensor]:
        """One batch with all masks, as at the end of the training."""
        return next(self.losses(step, step, 1))

    def losses(self, step: int, total: int, parts: int) -> Iterator[dict[str, Tensor]]:
        """This rank's share of one batch with all masks, in `parts` parts."""
        progress = step / total if total else 1.0
        for number, part in enumerate(self._drawn(step, total).parts(parts)):
            clips, for_target, masks = part.on(self._device)
            with repeatable(seed_of_step(self._seed + number, step), self._rank, len(clips)):
                values = self.module(clips, masks, for_target, progress)
            features = values.pop("features")
            values["target_spread"] = mean((features - mean(features.mean(0))).pow(2).mean()).sqrt()
            yield values

    def compile(self, backend: str) -> None:
        """Compile the blocks of both encoders and of the mask predictor, whose number of tokens differs by step.

        Raises:
            UserError: for several levels, which are read off between the blocks.
        """
        if self.module.config.levels > 1:
            raise UserError(
                f"compile '{backend}' with jepa.levels {self.module.config.levels}: expected null, or 1 level"
            )
        for part in (self.module.encoder, self.module.target, self.module.predictor):
            for block in part.blocks:
                block.compile(backend=backend, dynamic=True)

    def share(self, rank: Rank) -> None:
        """See `TrainingTask.share`."""
        self._rank = rank
        self._drawing = ThreadPoolExecutor(1, "batches")

    def shard(self, mesh: DeviceMesh) -> None:
        """Divide the weights of both encoders and of the mask predictor among the ranks, block by block."""
        # A second to import, which a rank that is alone does not need.
        from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method

        for part in (self.module.encoder, self.module.target, self.module.predictor):
            for block in part.blocks:
                fully_shard(block, mesh=mesh)
            fully_shard(part, mesh=mesh)
        register_fsdp_forward_method(self.module.predictor, "predict_all")
        fully_shard(self.module, mesh=mesh)

    def figures(self) -> dict[str, float]:
        """The figures of a clip source that has some."""
        figures: Callable[[], dict[str, float]] = getattr(self._clips, "figures", dict)
        found, now = figures(), time.monotonic()
        if self._drawing is not None and "clips_waited" in found:  # the source says how long the thread has waited
            found["clips_waited"] = self._waited_s / max(now - self._since, 1e-9)
        self._waited_s, self._since = 0.0, now
        return found

    def after_step(self, step: int, total: int) -> None:
        """Move the target encoder toward the context encoder, by default more slowly with every step."""
        schedule = cosine if self._config.momentum_schedule == "cosine" else linear
        self.module.update_target(schedule(self._config.momentum, self._config.final_momentum, step / total))

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

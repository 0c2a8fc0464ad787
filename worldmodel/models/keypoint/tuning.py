"""Keypoints that are trained together with the encoder.

The state is computed from images that the tuned encoder reads. What it has to reconstruct are the compressed features
of the frozen encoder, as without tuning (`keypoint_training`). The encoder can therefore learn to show what the state
needs, and cannot make the task easier by showing less. Afterwards all frames are encoded again, with the tuned encoder.

Shapes: `R` rows of the recording, `B` images, `H, W` their height and width, `N` tokens of a frame, `C` channels.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from worldmodel.core.errors import UserError
from worldmodel.core.ranks import here
from worldmodel.data.clips import Split
from worldmodel.data.store.reader import TrajectoryStore
from worldmodel.encoders.base import Encoder
from worldmodel.encoders.variation import VariationConfig, vary
from worldmodel.models.features import FeatureStage
from worldmodel.models.keypoint.keypoint_training import KeypointAutoencoder, KeypointTask
from worldmodel.models.keypoint.stages import KeypointOptions, KeypointStage, Samplers, make_stages, model_of
from worldmodel.models.keypoint.view import View
from worldmodel.models.stages import Stage, TrainingContext
from worldmodel.models.tuning import TuningConfig

_VARIATIONS = 0x7E5  # keeps the draws of variations apart from those of the pairs


def make_tuned_stages(
    options: KeypointOptions, store: TrajectoryStore, split: Split, tuning: TuningConfig
) -> Sequence[Stage]:
    """All stages, in their order.

    Raises:
        UserError: when no episode is long enough, for several cameras or ranks, and for an image of the robot alone.
    """
    cameras, ranks = store.spec.camera_names, here().count
    if ranks > 1:
        raise UserError(
            f"tuning.encoder={tuning.encoder} on {ranks} ranks: expected 1, since its batches are not divided"
        )
    if len(cameras) > 1:
        raise UserError(
            f"tuning.encoder={tuning.encoder} with the cameras {', '.join(cameras)}: expected one camera, since their "
            "keypoints are trained one after the other on the same encoder"
        )
    if options.state.robot_width:
        raise UserError(
            f"tuning.encoder={tuning.encoder} with state.robot_width={options.state.robot_width}: expected 0, since "
            "the image of the robot alone is one of the frozen encoder's features"
        )
    return make_stages(options, store, split, functools.partial(TunedKeypointStage, tuning))


class TunedAutoencoder(KeypointAutoencoder):
    """What `KeypointAutoencoder` has, and the encoder of images before it."""

    def __init__(self, view: View, proprio_size: int, images: Encoder) -> None:
        super().__init__(view.keypoints, view.compression.channels, proprio_size)
        self.images, self.compression = images, view.compression

    def tokens(self, pixels: Tensor) -> Tensor:
        """Compressed tokens `[B, N, C]` of images, uint8 `[B, H, W, 3]`."""
        compressed: Tensor = self.compression(self.images.encode_frames(pixels))
        return compressed


class TunedKeypointTask(KeypointTask):
    """See the module's docstring. Varied images are drawn anew in every step.

    Args:
        module: the networks.
        given: the further arguments of `KeypointTask`.
        learning: the parameters of the encoder of images that learn.
        rate: their learning rate, as a fraction of that of the others.
        frames: images of the recording, uint8 `[R, H, W, 3]`.
        variation: how images are varied.
    """

    module: TunedAutoencoder

    def __init__(
        self,
        module: TunedAutoencoder,
        *given: Any,
        learning: Sequence[nn.Parameter],
        rate: float,
        frames: NDArray[np.uint8],
        variation: VariationConfig,
    ) -> None:
        super().__init__(module, *given)
        self._learning, self._rate, self._frames, self._variation = learning, rate, frames, variation

    def slower(self) -> tuple[Sequence[nn.Parameter], float]:
        """See `TrainingTask.slower`."""
        return self._learning, self._rate

    def _seen(self, rows: NDArray[np.int64], tokens: Tensor) -> Tensor:
        return self._tokens_of(self._frames[rows])

    def _with_varied(self, tokens: Tensor, rows: NDArray[np.int64], step: int) -> Tensor:
        there = self._varied.are_there(rows)
        rng = np.random.default_rng([self._seed, step, _VARIATIONS])
        varied = self._tokens_of(vary(self._frames[rows[there]], self._variation, rng))
        return tokens.masked_scatter(torch.from_numpy(there).to(self._device)[:, None, None], varied.to(tokens.dtype))

    def _tokens_of(self, images: NDArray[np.uint8]) -> Tensor:
        return self.module.tokens(torch.from_numpy(images).to(self._device))


class TunedKeypointStage(KeypointStage):
    """Trains the keypoints of the only camera together with the encoder, and encodes all frames again."""

    def __init__(
        self, tuning: TuningConfig, camera: str, options: KeypointOptions, samplers: Samplers, features: FeatureStage
    ) -> None:
        super().__init__(camera, options, samplers, features)
        self.name, self._tuning = f"{self.name}, tuned encoder", tuning

    def _task(self, context: TrainingContext, *given: Any) -> TunedKeypointTask:
        model = model_of(context)
        module = TunedAutoencoder(model.view(self._camera), context.store.spec.proprio_size, model.encoder)
        return TunedKeypointTask(
            module,
            *given,
            learning=self._tuning.unfreeze(model.encoder),
            rate=self._tuning.rate,
            frames=context.frames[self._camera],
            variation=self._features.variation(model),
        )

    def _finish(self, context: TrainingContext) -> None:
        encoder = model_of(context).encoder.requires_grad_(False)
        encoder_hash = encoder.identity()
        context.say(f"the encoder was tuned ({self._tuning.encoder}), and encodes all frames again")
        self._features.encode(context, encoder.to(context.device), encoder_hash, "tuned.")
        model_of(context).cpu()

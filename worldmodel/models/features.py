"""The first stages of every family that learns from compressed frozen features.

Shapes: `R` rows of the recording, `N` tokens of a frame, `C` channels.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from worldmodel.core.checkpoint import weights_hash
from worldmodel.core.ranks import in_turn
from worldmodel.data.clips import ClipSampler, rows_of
from worldmodel.encoders.base import Encoder
from worldmodel.encoders.features import FeatureCacheKey, Frames, encode_frames, encode_store
from worldmodel.encoders.variation import VariationConfig, VariedFrames
from worldmodel.models.compression import Compression, CompressionConfig
from worldmodel.models.normaliser import Normaliser
from worldmodel.models.stages import Stage, TrainingContext
from worldmodel.training.collectives import make_alike


def camera_folder(context: TrainingContext, camera: str) -> Path:
    """The folder where the stages of one camera keep what they need to resume."""
    folder = context.folder / "cameras" / camera
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _no_variation(_: Any) -> VariationConfig:
    return VariationConfig(every=0)


@dataclasses.dataclass(frozen=True)
class VariedTokens:
    """Compressed features of varied images of some frames of a recording.

    Attributes:
        tokens: float16 `[V, N, C]`.
        every: row `v` of them is of row `v * every` of the recording; 0 where there are none.
    """

    tokens: NDArray[np.float16]
    every: int

    @classmethod
    def none(cls, shape: tuple[int, int, int]) -> VariedTokens:
        """None of those `shape`, (R, N, C), speaks of."""
        return cls(np.zeros((0, *shape[1:]), np.float16), 0)

    def are_there(self, rows: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Which of `rows [...]` of the recording have a varied image, `[...]`."""
        return rows % self.every == 0 if self.every else np.zeros(rows.shape, bool)

    def at(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Which of the varied images are of `rows [...]`; only for rows that have one."""
        return rows // self.every


class StatisticsStage(Stage):
    """Mean and spread of proprioception and actions.

    Args:
        normaliser: a function that returns the normaliser of a model.
    """

    name = "statistics"

    def __init__(self, normaliser: Callable[[Any], Normaliser]) -> None:
        self._normaliser = normaliser

    def run(self, context: TrainingContext) -> None:
        """See `Stage.run`."""
        self._normaliser(context.model).fit(context.store, context.split.train)


class FeatureStage(Stage):
    """Fits the compression of one camera's features, unless it is fitted already, and encodes all of its frames.

    Args:
        camera: name of the camera.
        config: options of the compression.
        compression: a function that returns this camera's compression in a model.
        variation: a function that returns how varied images of some frames are made. By default, there are none.
        is_fitted: whether the compression is fitted already, and stays as it is.
        aligned: a function from a model and the recording's frames to the frames that are encoded, or None for the
            same ones.

    Attributes:
        tokens: compressed features, float16 `[R, N, C]`. They exist once the stage has run.
        varied: compressed features of varied images of some of the frames. They exist once the stage has run.
    """

    tokens: NDArray[np.float16]
    varied: VariedTokens

    def __init__(
        self,
        camera: str,
        config: CompressionConfig,
        compression: Callable[[Any], Compression],
        variation: Callable[[Any], VariationConfig] = _no_variation,
        is_fitted: bool = False,
        aligned: Callable[[Any, Frames], Frames] | None = None,
    ) -> None:
        self.name, self._camera, self._config = f"features of {camera}", camera, config
        self._compression, self._variation = compression, variation
        self._is_fitted, self._aligned = is_fitted, aligned

    def run(self, context: TrainingContext) -> None:
        """See `Stage.run`."""
        if not self._is_fitted:
            self._fit(context, self._compression(context.model))
        self.encode(context, context.encoder, context.encoder_hash)

    def variation(self, model: Any) -> VariationConfig:
        """How varied images are made for `model`."""
        return self._variation(model)

    def encode(self, context: TrainingContext, encoder: Encoder, encoder_hash: str, prefix: str = "") -> None:
        """Encode all frames, and varied images of some of them.

        Args:
            context: what all stages share.
            encoder: the encoder, on the device of the training.
            encoder_hash: its hash.
            prefix: begins the names of the files that keep the features.
        """
        store, compression = context.store, self._compression(context.model)
        frames: Frames = context.frames[self._camera]
        aligned = frames if self._aligned is None else self._aligned(context.model, frames)
        grid = context.encoder.config.grid_of(store.spec.camera(self._camera))
        shape = (store.num_rows, grid.tokens, compression.channels)
        key = FeatureCacheKey(store.identity, encoder_hash, weights_hash(compression), *shape)
        if aligned is not frames:
            key = dataclasses.replace(key, variation="aligned")
        folder = camera_folder(context, self._camera)
        self.tokens = _encode(
            context, "encode frames", encoder, compression, aligned, key, folder / f"{prefix}features.npy"
        )
        self.varied = self._vary(context, encoder, key, compression, folder / f"{prefix}varied.npy")

    def _fit(self, context: TrainingContext, compression: Compression) -> None:
        """Fit the compression to some frames of the training episodes."""
        store, frames = context.store, context.frames[self._camera]
        together, train = self._config.frames_per_episode, context.split.train
        available = len(rows_of(store.episode_ends, train))
        count = max(1, min(self._config.fit_frames, available) // together) * together
        rows = ClipSampler(store.episode_ends, 1, (1,), context.seed, train).sample(0, count, together).rows.ravel()
        tokens = encode_frames(context.encoder, frames, rows, context.device).unflatten(0, (-1, together))
        kept = compression.fit(tokens)
        make_alike(compression)  # its hash is in the key of the features
        context.say(f"{compression.channels} channels per token keep {kept:.1%} of what changes in the features")

    def _vary(
        self, context: TrainingContext, encoder: Encoder, key: FeatureCacheKey, compression: Compression, path: Path
    ) -> VariedTokens:
        """Encode varied images of every so many frames."""
        config = self._variation(context.model)
        if not config.every:
            return VariedTokens.none(key.shape)
        rows = np.arange(0, key.rows, config.every)
        varied = VariedFrames(context.frames[self._camera], rows, config, context.seed)
        described = json.dumps([dataclasses.asdict(config), context.seed])
        key = dataclasses.replace(key, rows=len(rows), variation=described)
        tokens = _encode(context, "encode varied frames", encoder, compression, varied, key, path)
        return VariedTokens(tokens, config.every)


def _encode(
    context: TrainingContext,
    title: str,
    encoder: Encoder,
    compression: Compression,
    frames: Frames,
    key: FeatureCacheKey,
    path: Path,
) -> NDArray[np.float16]:
    """Compressed tokens `[R, N, C]` of `frames`. One rank of a machine, or of all machines, encodes them."""

    def encode() -> NDArray[np.float16]:
        path.parent.mkdir(parents=True, exist_ok=True)
        with context.counting(title) as progress:
            return encode_store(encoder, compression, frames, key, path, context.device, progress)

    return in_turn(encode)

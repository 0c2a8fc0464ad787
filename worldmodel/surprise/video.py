"""The surprise of V-JEPA's mask predictor, which sees some frames and predicts features of those that follow.

Shapes: `B` clips, `T` frames, `F` windows of a clip, `W` frames of a window, `N` tokens of a window, `M` predicted
ones, `D` features of a token.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from worldmodel.core.errors import UserError
from worldmodel.encoders.jepa.inference import JepaInference
from worldmodel.encoders.jepa.levels import encode_levels
from worldmodel.encoders.jepa.losses import layer_normed
from worldmodel.encoders.vit import VisionTransformer
from worldmodel.surprise.clips import COPY, MODEL, Clips
from worldmodel.surprise.targets import TargetScale, require_known


@dataclasses.dataclass(frozen=True)
class WindowConfig:
    """The windows that slide over a clip.

    Attributes:
        frames: frames of a window, W.
        stride: frames of the clip from one frame of a window to the next.
        every: frames of the clip from the start of one window to that of the next.
        contexts: numbers of frames that the predictor sees, of which it predicts the others. The surprise of a window
            is the mean over them.
    """

    frames: int = 8
    stride: int = 2
    every: int = 1
    contexts: tuple[int, ...] = (2, 4, 6)

    def __post_init__(self) -> None:
        for name in ("frames", "stride", "every"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} {getattr(self, name)}: expected a whole number of at least 1")
        if not self.contexts or not all(1 <= context < self.frames for context in self.contexts):
            raise ValueError(
                f"contexts {list(self.contexts)}: expected numbers of frames from 1 to {self.frames - 1}, since "
                f"windows have {self.frames}"
            )

    def require_fit(self, tubelet: int) -> None:
        """Raises UserError for windows or contexts that are not whole tubelets of `tubelet` frames."""
        if any(count % tubelet for count in (self.frames, *self.contexts)):
            raise UserError(
                f"frames {self.frames} and contexts {list(self.contexts)}: expected multiples of {tubelet} tubelet "
                "frames"
            )

    def rows(self, length: int) -> NDArray[np.int64]:
        """Rows of a clip of `length` frames that every window shows, `[F, W]`. Raises UserError if none fits."""
        span = (self.frames - 1) * self.stride
        starts = np.arange(0, length - span, self.every)
        if not len(starts):
            raise UserError(
                f"clips have {length} frames, and windows of {self.frames} frames with stride {self.stride} span "
                f"{span + 1}: give smaller frames or stride"
            )
        return starts[:, None] + self.stride * np.arange(self.frames)


class VideoSurprise:
    """Surprise = mean |P(context) - y| over the tokens of the hidden frames (arXiv 2502.11831).

    y are the layer-normed features that the target encoder has of the whole window, normalised as in the training. P is
    the mask predictor, which sees the first frames of the window through the context encoder. The control that copies
    takes, for every hidden token, the features y of the last seen layer at the same place.

    Args:
        predictor: context encoder and mask predictor.
        target: the target encoder, of the same shape as the context encoder.
        config: the windows.
        device: where the networks are.

    Raises:
        UserError: for a predictor whose targets cannot be repeated, and for windows that it cannot see.
    """

    def __init__(
        self, predictor: JepaInference, target: VisionTransformer, config: WindowConfig, device: torch.device
    ) -> None:
        require_known(predictor.config.targets)
        config.require_fit(predictor.encoder.config.tubelet_frames)
        self._predictor, self._target = predictor.to(device), target.to(device)
        self._config, self._device, self._scale = config, device, TargetScale()

    @torch.no_grad()
    def prepare(self, sample: Iterable[Clips]) -> None:
        """Take the statistics of the targets from clips, which have possible and impossible ones alike."""
        images = (torch.from_numpy(images) for clips in sample for images in clips.images.values())
        features = (self._features(self._windows(each)) for each in images)
        self._scale = TargetScale.fit(self._predictor.config.targets, features)

    @torch.no_grad()
    def __call__(self, clips: Clips) -> dict[str, NDArray[np.float64]]:
        """Errors `[B, F]` of the predictor and of the control, averaged over cameras."""
        of_cameras = [self._measure(torch.from_numpy(images)) for images in clips.images.values()]
        return {
            name: torch.stack([errors[name] for errors in of_cameras]).mean(0).double().cpu().numpy()
            for name in (MODEL, COPY)
        }

    def _measure(self, images: Tensor) -> dict[str, Tensor]:
        """Errors `[B, F]` of images `[B, T, H, W, 3]`."""
        windows = self._windows(images)
        by_layer = self._scale(self._features(windows))
        tubelet, (layers, positions) = self._predictor.encoder.config.tubelet_frames, by_layer.shape[1:3]
        errors: dict[str, list[Tensor]] = {MODEL: [], COPY: []}
        for context in self._config.contexts:
            first = context // tubelet
            wanted, copied = by_layer[:, first:], by_layer[:, first - 1 : first]
            hidden = torch.arange(first * positions, layers * positions, device=self._device)
            predicted = self._predictor.predict(windows, hidden).float()
            errors[MODEL].append((predicted - wanted.flatten(1, 2)).abs().mean((1, 2)))
            errors[COPY].append((copied - wanted).abs().mean((1, 2, 3)))
        return {name: torch.stack(values).mean(0).unflatten(0, (len(images), -1)) for name, values in errors.items()}

    def _windows(self, images: Tensor) -> Tensor:
        """Windows `[B F, W, H, W', 3]` of images `[B, T, H, W', 3]`."""
        rows = torch.from_numpy(self._config.rows(images.shape[1]))
        return images[:, rows].flatten(0, 1).to(self._device)

    def _features(self, windows: Tensor) -> Tensor:
        """Layer-normed features of windows by the target encoder, `[B F, layers, positions, D]`."""
        levels, tubelet = self._predictor.config.levels, self._predictor.encoder.config.tubelet_frames
        features = layer_normed(encode_levels(self._target, windows, None, levels).float(), levels)
        return features.unflatten(1, (windows.shape[1] // tubelet, -1))

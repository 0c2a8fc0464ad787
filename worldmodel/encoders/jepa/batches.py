"""The batches of V-JEPA pretraining: which frames of the clips are shown, in which light, and under which masks.

Everything random about a batch is drawn for the whole batch first. A batch can then be divided into parts, whose mean
loss is that of the whole.

Shapes: `B` clips, `T` frames of a clip, `H, W` height and width.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from worldmodel.encoders.jepa.masks import Mask
from worldmodel.encoders.vit import to_unit_range


@dataclasses.dataclass(frozen=True)
class Light:
    """Changes of brightness, contrast and tint, alike for all frames of a clip.

    Attributes:
        contrast: factor on the pixels minus one, float32 `[B, 1, 1, 1, 1]`; None to leave contrast and brightness.
        brightness: what is added to the pixels, of the same shape.
        tint: factor on each channel minus one, float32 `[B, 1, 1, 1, 3]`; None to leave the colours.
    """

    contrast: NDArray[np.float32] | None
    brightness: NDArray[np.float32] | None
    tint: NDArray[np.float32] | None

    @classmethod
    def draw(cls, batch: int, jitter: float, colour_jitter: float, rng: np.random.Generator) -> Light:
        """Changes of up to `jitter` and, for each channel, up to `colour_jitter`, uniform. 0 switches one off."""
        contrast = brightness = tint = None
        if jitter:
            contrast, brightness = rng.uniform(-jitter, jitter, (2, batch, 1, 1, 1, 1)).astype(np.float32)
        if colour_jitter:
            tint = rng.uniform(-colour_jitter, colour_jitter, (batch, 1, 1, 1, 3)).astype(np.float32)
        return cls(contrast, brightness, tint)

    def rows(self, rows: slice) -> Light:
        """The light of some of the clips."""
        values = (self.contrast, self.brightness, self.tint)
        return Light(*(None if value is None else value[rows] for value in values))

    def apply(self, pixels: Tensor) -> Tensor:
        """`pixels [B, T, H, W, 3]` in [-2, 2] in this light."""
        if self.contrast is not None and self.brightness is not None:
            contrast, brightness = torch.from_numpy(1 + self.contrast), torch.from_numpy(self.brightness)
            pixels = (pixels * contrast.to(pixels)).add_(brightness.to(pixels))
        if self.tint is not None:
            # Black is -2. A factor on the distance to black changes a channel as a coloured light would.
            pixels = (pixels + 2) * torch.from_numpy(1 + self.tint).to(pixels) - 2
        return pixels


@dataclasses.dataclass(frozen=True)
class Batch:
    """One batch before it is brought to the device.

    Attributes:
        shown: frames that the context encoder sees, uint8 `[B, T, H, W, 3]`.
        for_target: frames that the target encoder sees, if it sees others.
        mirrored: clips that are flipped left to right, bool `[B]`; None for none.
        light: light of the context encoder's clips.
        target_light: light of the target encoder's clips; None if it sees those of the context encoder, or plain ones.
        masks: the masks that are predicted at once.
    """

    shown: NDArray[np.uint8]
    for_target: NDArray[np.uint8] | None
    mirrored: NDArray[np.bool_] | None
    light: Light
    target_light: Light | None
    masks: tuple[Mask, ...]

    def parts(self, count: int) -> Iterator[Batch]:
        """The batch in `count` equal parts. `count` divides B."""
        size = len(self.shown) // count
        for rows in (slice(part * size, (part + 1) * size) for part in range(count)):
            yield Batch(
                self.shown[rows],
                None if self.for_target is None else self.for_target[rows],
                None if self.mirrored is None else self.mirrored[rows],
                self.light.rows(rows),
                None if self.target_light is None else self.target_light.rows(rows),
                tuple(mask.rows(rows) for mask in self.masks),
            )

    def on(self, device: torch.device) -> tuple[Tensor, Tensor | None, list[Mask]]:
        """Clips of the context encoder, those of the target encoder if it sees others, and the masks."""
        clips = show(self.shown, self.mirrored, device)
        for_target = None if self.for_target is None else show(self.for_target, self.mirrored, device)
        if self.target_light is not None:
            for_target = self.target_light.apply(clips if for_target is None else for_target)
        return self.light.apply(clips), for_target, [mask.to(device) for mask in self.masks]


def show(frames: NDArray[np.uint8], mirrored: NDArray[np.bool_] | None, device: torch.device) -> Tensor:
    """Frames, uint8 `[B, T, H, W, 3]`, as floats in [-2, 2]. Clips in `mirrored [B]` are flipped left to right."""
    if mirrored is not None:  # before the conversion to floats, which take four times the memory
        frames = np.where(mirrored[:, None, None, None, None], frames[:, :, :, ::-1], frames)
    return to_unit_range(torch.from_numpy(frames).to(device))


def as_images(clips: NDArray[np.uint8], frames: int) -> NDArray[np.uint8]:
    """The first frame of every clip, `frames` times, as V-JEPA 2 shows images: uint8 `[B, frames, H, W, 3]`."""
    return np.repeat(clips[:, :1], frames, axis=1)

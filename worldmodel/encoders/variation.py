"""Random variations of camera and light, as a photo differs from a recording.

A model that has only seen one camera in one light takes any difference of camera or light for a difference of the
scene. These variations are made in the image: a warp for a camera that was moved, turned or has another lens, an object
that is not part of the task, gains for the light and its colour, other hues, blur and noise. What is trained on varied
images toward the *original* ones learns to read the scene and to ignore the rest (domain randomisation, arXiv
1703.06907, with clean targets as in randomised-to-canonical adaptation, arXiv 1812.07252).

Shapes: `B` images, `H, W` their height and width.
"""

from __future__ import annotations

import dataclasses
import io
import math
from typing import Final

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from worldmodel.data.augmentation import adjust_hue

# Across an edge of the pasted object, so many pixels are a mixture of both sides, as anti-aliasing leaves them.
_SOFT_EDGE: Final = 1.0
# Above this quality, a JPEG only grows larger.
_BEST_JPEG: Final = 95


@dataclasses.dataclass(frozen=True)
class VariationConfig:
    """How far images are varied. Every image draws each of its values anew, uniformly up to these.

    Attributes:
        every: one of so many frames of a recording is varied; 0 for none.
        move: how far the camera is moved, as a fraction of the image.
        turn: how far it is turned about its axis [degrees].
        zoom: by which fraction things look larger or smaller.
        light: by which fraction all colours become brighter or darker.
        tint: by which fraction each colour channel does.
        hue: by which fraction of the circle of colours all hues turn, at most 0.5. Things of another colour count as
            the same things then.
        offset: what is added to all colours, as a fraction of white.
        blur: how much of the image is replaced by its blurred copy, from 0 to 1.
        noise: standard deviation of each pixel's noise, as a fraction of white.
        bystander: probability that there is an object that does not belong to the task.
        bystander_size: its largest radius, as a fraction of the image.
        jpeg: probability that the image is compressed as JPEG.
        jpeg_quality: its lowest quality.
        aligned: factor of movement, turn, light, tint and offset where images are aligned with the recording before
            the encoder sees them. Little of these changes is left then. Zoom is as large as ever, because not every
            background shows it.
    """

    every: int = 3
    move: float = 0.05
    turn: float = 5.0
    zoom: float = 0.05
    light: float = 0.2
    tint: float = 0.12
    hue: float = 0.0
    offset: float = 0.04
    blur: float = 1.0
    noise: float = 0.03
    bystander: float = 0.3
    bystander_size: float = 0.08
    jpeg: float = 0.3
    jpeg_quality: int = 50
    aligned: float = 0.25

    def __post_init__(self) -> None:
        if self.every < 0:
            raise ValueError(f"every {self.every}: expected a whole number of at least 0")
        for name, most in (
            ("move", 0.5),
            ("turn", 180),
            ("hue", 0.5),
            ("blur", 1),
            ("bystander", 1),
            ("bystander_size", 0.5),
            ("jpeg", 1),
            ("aligned", 1),
        ):
            if not 0 <= getattr(self, name) <= most:
                raise ValueError(f"{name} {getattr(self, name)}: expected a number from 0 to {most}")
        for name in ("zoom", "light", "tint", "offset", "noise"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} {getattr(self, name)}: expected a number of at least 0 and below 1")
        if not 1 <= self.jpeg_quality <= 95:
            raise ValueError(f"jpeg_quality {self.jpeg_quality}: expected a whole number from 1 to 95")

    def of_aligned(self) -> VariationConfig:
        """What is left to learn where images are aligned."""
        shrunk = {name: self.aligned * getattr(self, name) for name in ("move", "turn", "light", "tint", "offset")}
        return dataclasses.replace(self, **shrunk)


def vary(images: NDArray[np.uint8], config: VariationConfig, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Varied copies of `images [B, H, W, 3]`, likewise."""
    images = _in_other_hues(images, config, rng)
    pixels = torch.from_numpy(np.ascontiguousarray(images)).permute(0, 3, 1, 2).float()
    pixels = _seen_by_another_camera(pixels, config, rng)
    pixels = _with_bystander(pixels, config, rng)
    pixels = _in_another_light(pixels, config, rng)
    varied: NDArray[np.uint8] = pixels.round_().clamp_(0, 255).byte().permute(0, 2, 3, 1).numpy()
    return _compressed(varied, config, rng)


def _compressed(images: NDArray[np.uint8], config: VariationConfig, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Some of `images [B, H, W, 3]` as JPEG leaves them."""
    chosen = np.flatnonzero(rng.random(len(images)) < config.jpeg)
    if not len(chosen):
        return images
    images = np.ascontiguousarray(images)
    for index, quality in zip(chosen, rng.integers(config.jpeg_quality, _BEST_JPEG + 1, len(chosen)), strict=True):
        file = io.BytesIO()
        Image.fromarray(images[index]).save(file, "JPEG", quality=int(quality))
        with Image.open(file) as read:
            images[index] = np.asarray(read)
    return images


def _in_other_hues(images: NDArray[np.uint8], config: VariationConfig, rng: np.random.Generator) -> NDArray[np.uint8]:
    """`images [B, H, W, 3]` with the hues of each turned."""
    if not config.hue:
        return images
    turns = rng.uniform(-config.hue, config.hue, len(images))
    return np.stack([adjust_hue(image, turn) for image, turn in zip(images, turns, strict=True)])


def _draw(rng: np.random.Generator, low: float, high: float, *shape: int) -> Tensor:
    return torch.from_numpy(rng.uniform(low, high, shape).astype(np.float32))


def _seen_by_another_camera(pixels: Tensor, config: VariationConfig, rng: np.random.Generator) -> Tensor:
    """Warp of `pixels [B, 3, H, W]`; what the camera did not see continues the edge."""
    batch, (height, width) = len(pixels), pixels.shape[2:]
    angle = torch.deg2rad(_draw(rng, -config.turn, config.turn, batch))
    scale = torch.exp(_draw(rng, -1, 1, batch) * math.log1p(config.zoom))
    # In torch's coordinates both sides of an image reach from -1 to 1, whatever its proportions.
    cos, sin, ratio = scale * angle.cos(), scale * angle.sin(), height / width
    move = 2 * _draw(rng, -config.move, config.move, batch, 2)
    rows = (torch.stack([cos, -sin * ratio, move[:, 0]], 1), torch.stack([sin / ratio, cos, move[:, 1]], 1))
    grid = F.affine_grid(torch.stack(rows, 1), list(pixels.shape), align_corners=False)
    warped = F.grid_sample(pixels, grid, padding_mode="border", align_corners=False)
    return warped.contiguous(memory_format=torch.channels_last)  # in which blurring takes less than half of the time


def _with_bystander(pixels: Tensor, config: VariationConfig, rng: np.random.Generator) -> Tensor:
    """Some of `pixels [B, 3, H, W]` get an ellipse or a rectangle of one colour, at a random place."""
    chosen = torch.from_numpy(rng.random(len(pixels)) < config.bystander)
    count, (height, width) = int(chosen.sum()), pixels.shape[2:]
    if not count:
        return pixels
    radius = _draw(rng, 0.3, 1, count, 2, 1, 1) * config.bystander_size * min(height, width)
    place = _draw(rng, 0, 1, count, 2, 1, 1) * torch.tensor([height, width])[:, None, None]
    angle = _draw(rng, 0, torch.pi, count, 1, 1)
    # The exponent of a superellipse: 2 for an ellipse, large for a rectangle.
    power = torch.where(torch.from_numpy(rng.random((count, 1, 1)) < 0.5), 2.0, 8.0)
    y = torch.arange(height)[:, None] + 0.5 - place[:, 0]
    x = torch.arange(width) + 0.5 - place[:, 1]
    across, along = angle.cos() * x + angle.sin() * y, angle.cos() * y - angle.sin() * x
    size = radius.clamp_min(1e-3)
    reach = ((across / size[:, 0]).abs() ** power + (along / size[:, 1]).abs() ** power) ** (1 / power)
    cover = (0.5 - (reach - 1) * size.amin(1) / _SOFT_EDGE).clamp(0, 1)
    colour = 255 * _draw(rng, 0, 1, count, 3, 1, 1)
    pixels = pixels.clone()
    pixels[chosen] = torch.lerp(pixels[chosen], colour, cover[:, None])
    return pixels


def _in_another_light(pixels: Tensor, config: VariationConfig, rng: np.random.Generator) -> Tensor:
    """Gain, tint, offset, blur and noise, as a camera has them, of `pixels [B, 3, H, W]`."""
    batch = len(pixels)
    gain = torch.exp(_draw(rng, -1, 1, batch, 1, 1, 1) * math.log1p(config.light))
    tint = torch.exp(_draw(rng, -1, 1, batch, 3, 1, 1) * math.log1p(config.tint))
    offset = 255 * _draw(rng, -config.offset, config.offset, batch, 1, 1, 1)
    pixels = pixels * (gain * tint) + offset
    weights = torch.tensor([1.0, 2.0, 1.0]) / 4
    kernel = torch.outer(weights, weights).expand(3, 1, 3, 3)
    blurred = F.conv2d(F.pad(pixels, (1, 1, 1, 1), mode="replicate"), kernel, groups=3)
    pixels = torch.lerp(pixels, blurred, _draw(rng, 0, config.blur, batch, 1, 1, 1))
    strength = 255 * _draw(rng, 0, config.noise, batch, 1, 1, 1)
    generator = torch.Generator().manual_seed(int(rng.integers(2**63)))  # several times as fast as numpy's
    return pixels + strength * torch.randn(pixels.shape, generator=generator)


@dataclasses.dataclass(frozen=True)
class VariedFrames:
    """Frames `[V, H, W, 3]` of a recording, varied when they are asked for.

    Attributes:
        frames: of the recording, uint8 `[R, H, W, 3]`.
        rows: which of them, `[V]`.
        config: how they are varied.
        seed: of the variations. The same indices give the same images.
    """

    frames: NDArray[np.uint8]
    rows: NDArray[np.int64]
    config: VariationConfig
    seed: int

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, indices: NDArray[np.int64]) -> NDArray[np.uint8]:
        rng = np.random.default_rng([self.seed, len(indices), *map(int, indices[:1])])
        return vary(self.frames[self.rows[indices]], self.config, rng)

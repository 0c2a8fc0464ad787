"""Random crops and colours of clips, as torchvision's transforms (version 2) define them.

A clip is changed alike in all its frames, as in V-JEPA (arXiv 2404.08471, appendix C). Values of pixels are integers
from 0 to 255. torchvision rounds them down after every change of colour, and so does this module.

Shapes: `T` frames, `H, W` height and width of the source, `h, w` those of the clip.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

_WHITE = 255.0
_LUMA = np.array([0.2989, 0.587, 0.114], np.float32)  # ITU-R BT.601, with torchvision's digits
_ATTEMPTS = 10  # torchvision draws a crop so often until one fits into the image
# torchvision converts x from 0 to 1 to the whole number below this factor times x, so that 1 becomes 255.
_TO_BYTE = 256 - 1e-3


@dataclasses.dataclass(frozen=True)
class AugmentationConfig:
    """Options of the augmentation.

    Attributes:
        crop_scale: smallest and largest area of a crop, as fractions of the image's. [1, 1] takes all of it.
        crop_ratio: smallest and largest ratio of width to height of a crop.
        brightness: brightness is multiplied by a factor from 1 - brightness to 1 + brightness.
        contrast: the same for the contrast.
        saturation: the same for the saturation.
        hue: the hue is turned by up to this fraction of the circle of colours, 0.5 at most.
    """

    crop_scale: tuple[float, float] = (0.3, 1.0)
    crop_ratio: tuple[float, float] = (0.75, 1.35)
    brightness: float = 0.0
    contrast: float = 0.0
    saturation: float = 0.0
    hue: float = 0.0

    def __post_init__(self) -> None:
        for name, most in (("crop_scale", 1.0), ("crop_ratio", 100.0)):
            value = getattr(self, name)
            if len(value) != 2 or not 0 < value[0] <= value[1] <= most:
                raise ValueError(f"{name} {list(value)}: expected two numbers above 0, at most {most:g}, ascending")
        for name, most in (("brightness", 10.0), ("contrast", 10.0), ("saturation", 10.0), ("hue", 0.5)):
            if not 0 <= getattr(self, name) <= most:
                raise ValueError(f"{name} {getattr(self, name)}: expected a number from 0 to {most:g}")


@dataclasses.dataclass(frozen=True)
class Crop:
    """A part of an image [pixels]."""

    top: int
    left: int
    height: int
    width: int

    def resized(self, picture: NDArray[np.uint8], height: int, width: int) -> NDArray[np.uint8]:
        """This part of `picture [H, W, 3]`, resized to `[height, width, 3]` bilinearly with antialiasing."""
        part = picture[self.top : self.top + self.height, self.left : self.left + self.width]
        if part.shape[:2] == (height, width):
            return part
        image = Image.fromarray(np.ascontiguousarray(part)).resize((width, height), Image.Resampling.BILINEAR)
        return np.asarray(image, np.uint8)


def draw_crop(height: int, width: int, config: AugmentationConfig, rng: np.random.Generator) -> Crop:
    """The crop of `RandomResizedCrop` in an image of `height` and `width`.

    With the image's area A, a ~ A * U(crop_scale) and log r ~ U(log crop_ratio), the crop is round(sqrt(a r)) wide and
    round(sqrt(a / r)) high, at a uniform place. If none of ten draws fits, it is the largest one in the middle whose
    ratio is in crop_ratio.
    """
    low, high = config.crop_ratio
    for _ in range(_ATTEMPTS):
        area = height * width * rng.uniform(*config.crop_scale)
        ratio = math.exp(rng.uniform(math.log(low), math.log(high)))
        wide, tall = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < wide <= width and 0 < tall <= height:
            return Crop(int(rng.integers(height - tall + 1)), int(rng.integers(width - wide + 1)), tall, wide)
    return middle_crop(height, width, low, high)


def middle_crop(height: int, width: int, low: float, high: float) -> Crop:
    """The largest crop in the middle whose ratio of width to height is at least `low` and at most `high`."""
    tall, wide = height, width
    if width / height < low:
        tall = max(1, min(height, round(width / low)))
    elif width / height > high:
        wide = max(1, min(width, round(height * high)))
    return Crop((height - tall) // 2, (width - wide) // 2, tall, wide)


def jitter(clip: NDArray[np.uint8], config: AugmentationConfig, rng: np.random.Generator) -> NDArray[np.uint8]:
    """`ColorJitter` of a clip `[T, h, w, 3]`. The four changes come in random order, and those of 0 are left out."""
    changes = {
        "brightness": (adjust_brightness, config.brightness, 1.0),
        "contrast": (adjust_contrast, config.contrast, 1.0),
        "saturation": (adjust_saturation, config.saturation, 1.0),
        "hue": (adjust_hue, config.hue, 0.0),
    }
    for index in rng.permutation(len(changes)):
        change, most, middle = list(changes.values())[index]
        low = middle - most if middle == 0 else max(0.0, middle - most)
        amount = rng.uniform(low, middle + most)
        if most > 0:
            clip = change(clip, amount)
    return clip


def adjust_brightness(clip: NDArray[np.uint8], factor: float) -> NDArray[np.uint8]:
    """x -> factor * x."""
    return _to_bytes(clip * np.float32(factor))


def adjust_contrast(clip: NDArray[np.uint8], factor: float) -> NDArray[np.uint8]:
    """x -> factor * x + (1 - factor) * m, with the mean m of a frame's grey values."""
    mean = np.floor(_grey(clip)).mean((-3, -2, -1), keepdims=True, dtype=np.float32)
    return _blend(clip, mean, factor)


def adjust_saturation(clip: NDArray[np.uint8], factor: float) -> NDArray[np.uint8]:
    """x -> factor * x + (1 - factor) * g, with the pixel's grey value g."""
    return _blend(clip, np.floor(_grey(clip)), factor)


def adjust_hue(clip: NDArray[np.uint8], turn: float) -> NDArray[np.uint8]:
    """Turns the hue of every pixel by `turn` of the circle, at the same saturation and value (HSV)."""
    rgb = clip / np.float32(_WHITE)
    value, least = rgb.max(-1), rgb.min(-1)
    chroma = value - least
    safe = np.where(chroma == 0, np.float32(1), chroma)
    red, green, blue = np.moveaxis((value[..., None] - rgb) / safe[..., None], -1, 0)
    is_red = value == rgb[..., 0]
    is_green = ~is_red & (value == rgb[..., 1])
    sector = np.where(is_red, blue - green, np.where(is_green, 2 + red - blue, 4 + green - red))
    hue = (np.where(chroma == 0, np.float32(0), sector) / np.float32(6) + np.float32(1 + turn)) % np.float32(1)
    saturation = chroma / np.where(value == 0, np.float32(1), value)
    # The channel n of HSV to RGB is v - v s max(0, min(k, 4 - k, 1)), with k = (n + 6 h) mod 6 and n = 5, 3, 1.
    shifts = (np.array([5, 3, 1], np.float32) + hue[..., None] * 6) % 6
    weights = np.clip(np.minimum(shifts, 4 - shifts), 0, 1)
    turned = value[..., None] - (value * saturation)[..., None] * weights
    return np.floor(np.clip(turned, 0, 1) * np.float32(_TO_BYTE)).astype(np.uint8)


def _grey(clip: NDArray[np.uint8]) -> NDArray[np.floating[Any]]:
    """Grey values `[T, h, w, 1]`."""
    return (clip.astype(np.float32) @ _LUMA)[..., None]


def _blend(clip: NDArray[np.uint8], other: NDArray[np.floating[Any]], factor: float) -> NDArray[np.uint8]:
    return _to_bytes(clip * np.float32(factor) + other * np.float32(1 - factor))


def _to_bytes(values: NDArray[np.floating[Any]]) -> NDArray[np.uint8]:
    return np.clip(values, 0, _WHITE).astype(np.uint8)  # rounds down

"""What a camera does to an image between the scene and the file, one step in each function.

Shapes, here and in `planning.evaluation.shifts`: `H, W` height and width of the camera's images [pixels], `K` how many
times finer than these a rendering is. Colours are floating-point numbers from 0 to 255, which may leave that range
until `quantised`.
"""

from __future__ import annotations

import io
from typing import Final

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image

Pixels = NDArray[np.uint8]
Colours = NDArray[np.float64]
# Taps of the blur on each side of the middle, in standard deviations, and at least so many: what lies beyond them is
# below a thousandth of a grey level.
_REACH, _LEAST_REACH = 6, 4
WHOLE_QUALITY: Final = 100  # of JPEG: stands for an image that is not compressed at all


def looked_at(fine: Pixels, factor: int, moved: tuple[float, float], turned_deg: float, zoom: float) -> Colours:
    """The scene in `fine [K·H, K·W, 3]` as a camera `[H, W, 3]` at another place sees it.

    Every pixel is the average of the part of the scene that it covers. What lies outside of `fine` repeats its edge.

    Args:
        fine: a rendering of the camera at its usual place.
        factor: K.
        moved: by how much the scene moves in the image, to the right and down, as fractions of its width.
        turned_deg: by how much it turns about the image's centre, clockwise [degrees].
        zoom: by how much it becomes larger about the image's centre.
    """
    height, width = fine.shape[:2]
    angle = np.radians(turned_deg)
    # From a place in the result to its place in `fine`, both from the centre [pixels of `fine`], y down.
    back = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]]) / zoom
    offset = -back @ (np.array(moved) * width)
    # torch counts from -1 to 1 along each side.
    half = np.array([width, height]) / 2
    affine = np.concatenate([back * half[None, :] / half[:, None], (offset / half)[:, None]], axis=1)
    scene = torch.from_numpy(np.array(fine)).permute(2, 0, 1)[None].double()
    grid = F.affine_grid(torch.from_numpy(affine)[None], list(scene.shape), align_corners=False)
    seen = F.grid_sample(scene, grid, mode="bilinear", padding_mode="border", align_corners=False)
    return np.ascontiguousarray(F.avg_pool2d(seen, factor)[0].permute(1, 2, 0).numpy())


def blurred(image: Colours, std_px: float) -> Colours:
    """`image [H, W, 3]` through a lens out of focus; its edge is repeated.

    The kernel is the discrete Gaussian `exp(-t) I_n(t)` with `t = std²` (Lindeberg 1990), whose variance is exact for
    blurs of less than a pixel too. Its transform is `exp(t (cos w - 1))`.
    """
    if std_px == 0:
        return image
    reach = max(_LEAST_REACH, int(np.ceil(_REACH * std_px)))
    waves = np.cos(2 * np.pi * np.fft.rfftfreq(2 * reach + 1))
    kernel = np.fft.fftshift(np.fft.irfft(np.exp(std_px**2 * (waves - 1)), 2 * reach + 1))
    for axis in (0, 1):
        around = [(reach, reach) if each == axis else (0, 0) for each in range(3)]
        windows = np.lib.stride_tricks.sliding_window_view(np.pad(image, around, mode="edge"), len(kernel), axis=axis)
        image = windows @ kernel
    return image


def quantised(image: Colours) -> Pixels:
    """`image [H, W, 3]` in whole numbers. What is too bright is white, and what is too dark is black."""
    return np.clip(np.rint(image), 0, 255).astype(np.uint8)


def compressed(image: Pixels, quality: int) -> Pixels:
    """`image [H, W, 3]` written as JPEG of `quality`, and read again."""
    if quality >= WHOLE_QUALITY:
        return image
    file = io.BytesIO()
    Image.fromarray(image).save(file, "JPEG", quality=quality)
    with Image.open(file) as read:
        return np.array(read)

"""Converts images of any camera to the store's form, which is RGB with 8 bits and one size per camera.

Shapes: `H, W` height and width of an image.
"""

from __future__ import annotations

import dataclasses
import io
import math
import struct
import warnings
import zlib
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from worldmodel.core.errors import UserError, choices_message
from worldmodel.data.formats.limits import MOST_IMAGE_BYTES, MOST_PIXELS, require
from worldmodel.data.formats.source import FormatError, refusing

KEEP: Final = "keep"
FITS: Final = ("crop", "letterbox", KEEP)
KEEP_MULTIPLE: Final = 8  # pixels: the usual patch size of encoders
_SMALLEST = 8  # pixels; a smaller array is no image
# Pillow raises any of these for broken data.
_BROKEN = (OSError, SyntaxError, ValueError, TypeError, LookupError, EOFError, struct.error, zlib.error)


@dataclasses.dataclass(frozen=True)
class Layout:
    """How an array represents an image.

    Attributes:
        height: height of the image [pixels].
        width: width of the image [pixels].
        channels: 1 (grey) or 3.
        channels_first: whether the array is `[C, H, W]`.
    """

    height: int
    width: int
    channels: int
    channels_first: bool

    @classmethod
    def of(cls, shape: tuple[int, ...]) -> Layout | None:
        """The layout of an array of `shape`; None if it cannot be an image."""
        if len(shape) == 2:
            found = cls(*shape, 1, False)
        elif len(shape) == 3 and shape[2] in (1, 3):
            found = cls(*shape, False)
        elif len(shape) == 3 and shape[0] in (1, 3):
            found = cls(shape[1], shape[2], shape[0], True)
        else:
            return None
        return found if min(found.height, found.width) >= _SMALLEST else None


def holds_pictures(shape: tuple[int, ...], dtype: np.dtype[Any]) -> bool:
    """Whether rows of a column of numbers are images, either of bytes or of floating-point RGB."""
    layout = Layout.of(shape)
    if layout is None:
        return False
    return dtype == np.uint8 or (dtype.kind == "f" and len(shape) == 3 and layout.channels == 3)


@dataclasses.dataclass(frozen=True)
class Fit:
    """Brings images to a size. They are never stretched.

    Attributes:
        height: height of images in the store [pixels].
        width: width of images in the store [pixels].
        how: `letterbox` shows the whole image, with black above and below or left and right. `crop` and `keep` cut the
            largest part with the right aspect ratio out of the middle.
        white: the value of white in floating-point images, 1 or 255.
    """

    height: int
    width: int
    how: str = "crop"
    white: float = 255.0

    def __post_init__(self) -> None:
        if self.how not in FITS:
            raise UserError(choices_message("fit", self.how, FITS))

    def describe(self, height: int, width: int) -> str:
        """What is done to an image of this size, in words."""
        if (height, width) == (self.height, self.width):
            return f"{width} x {height} as they are"
        done, between = [f"{width} x {height}"], self._between(height, width)
        if between != (height, width):
            way = "with black borders" if self.how == "letterbox" else "cut"
            done.append(f"{way} to {between[1]} x {between[0]}")
        if between != (self.height, self.width):
            done.append(f"resized to {self.width} x {self.height}")
        return ", ".join(done)

    def __call__(self, picture: NDArray[Any], where: str) -> NDArray[np.uint8]:
        """Convert an image as the data set stores it, uint8 or float, to uint8 `[height, width, 3]`.

        Raises:
            FormatError: when the array is not an image. The message names its origin `where`.
        """
        rgb = _to_rgb(picture, self.white, where)
        height, width = rgb.shape[:2]
        if self.how != "letterbox":
            high, wide = self._between(height, width)
            top, left = (height - high) // 2, (width - wide) // 2
            return _resized(rgb[top : top + high, left : left + wide], self.height, self.width)
        scale = min(self.height / height, self.width / width)
        inner = _resized(rgb, max(1, round(height * scale)), max(1, round(width * scale)))
        boxed = np.zeros((self.height, self.width, 3), np.uint8)
        top, left = (self.height - inner.shape[0]) // 2, (self.width - inner.shape[1]) // 2
        boxed[top : top + inner.shape[0], left : left + inner.shape[1]] = inner
        return boxed

    def _between(self, height: int, width: int) -> tuple[int, int]:
        """Size after cutting or adding borders. It has the store's aspect ratio and one side of the original image."""
        high, wide = round(width * self.height / self.width), round(height * self.width / self.height)
        if (high <= height) == (self.how != "letterbox"):
            return max(1, high), width
        return height, max(1, wide)


def kept_size(height: int, width: int, shorter: int) -> tuple[int, int]:
    """Height and width of an image whose shorter side becomes `shorter`, cut to multiples of 8 [pixels]."""
    scale = shorter / min(height, width)
    high, wide = (round(side * scale) // KEEP_MULTIPLE * KEEP_MULTIPLE for side in (height, width))
    return max(high, KEEP_MULTIPLE), max(wide, KEEP_MULTIPLE)


def white_of(picture: NDArray[Any]) -> float:
    """The value of white in floating-point images, 1 or 255, from the maximum of a data set's first image."""
    return 1.0 if picture.dtype.kind == "f" and float(np.max(picture, initial=0.0)) <= 1.0 else 255.0


def decode_picture(coded: bytes, where: str) -> NDArray[np.uint8]:
    """Decode a PNG or JPEG in RGB or grey, 8 bits per channel, to uint8 `[H, W, 3]`.

    EXIF rotation is not applied, since cameras on robots do not write it. An alpha channel must be opaque everywhere.

    Raises:
        FormatError: when the image is too large, broken or of another kind. The message names its origin `where`.
    """
    require(len(coded) <= MOST_IMAGE_BYTES, f"{where} has {len(coded):,} bytes: at most {MOST_IMAGE_BYTES:,} accepted")
    with (
        refusing((*_BROKEN, Image.DecompressionBombError), f"{where} is not a PNG or JPEG that can be decoded"),
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("ignore")  # large images are refused below, and odd EXIF is not read
        with Image.open(io.BytesIO(coded), formats=("PNG", "JPEG")) as image:
            width, height = image.size  # from the header; nothing is decoded yet
            require(
                width * height <= MOST_PIXELS,
                f"{where} has {width} x {height} pixels: at most {MOST_PIXELS:,} are accepted",
            )
            require(image.mode in ("RGB", "RGBA", "L"), f"{where} is a picture of mode {image.mode}: expected RGB or L")
            image.load()
            if image.mode == "RGBA":
                opaque = np.asarray(image.getchannel("A")).min(initial=255) == 255
                require(bool(opaque), f"{where} is transparent: expected an opaque picture")
            return np.array(image.convert("RGB"))


def encode_png(picture: NDArray[np.uint8]) -> bytes:
    """Encode an image uint8 `[H, W, 3]` as PNG, which is lossless."""
    file = io.BytesIO()
    Image.fromarray(picture).save(file, format="PNG")
    return file.getvalue()


def _to_rgb(picture: NDArray[Any], white: float, where: str) -> NDArray[np.uint8]:
    layout = Layout.of(picture.shape)
    if layout is None or math.prod(picture.shape[:2]) > 3 * MOST_PIXELS:
        raise FormatError(f"{where} has shape {list(picture.shape)}: expected a picture of 1 or 3 channels")
    if layout.channels_first:
        picture = np.moveaxis(picture, 0, 2)
    if picture.ndim == 2:
        picture = picture[:, :, None]
    if picture.dtype != np.uint8:
        low, high = float(picture.min()), float(picture.max())
        if not (picture.dtype.kind == "f" and low >= 0 and high <= white):
            raise FormatError(f"{where} has {picture.dtype} numbers from {low:g} to {high:g}: expected 0 to {white:g}")
        picture = np.rint(picture * (255.0 / white)).astype(np.uint8)
    return np.ascontiguousarray(np.broadcast_to(picture, (*picture.shape[:2], 3)))


def _resized(rgb: NDArray[np.uint8], height: int, width: int) -> NDArray[np.uint8]:
    """The image in another size. Pillow's bilinear filter widens for smaller sizes, which avoids flicker."""
    if rgb.shape[:2] == (height, width):
        return np.ascontiguousarray(rgb)
    return np.array(Image.fromarray(np.ascontiguousarray(rgb)).resize((width, height), Image.Resampling.BILINEAR))

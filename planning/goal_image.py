"""Goal pictures from anybody: read with care, brought to the size that a model sees."""

from __future__ import annotations

import dataclasses
import json
import struct
import warnings
import zlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, UnidentifiedImageError

from worldmodel.core.errors import UserError

MAX_BYTES = 20_000_000
MAX_PIXELS = 40_000_000
_WANTED = "a goal image is a square PNG or JPEG in RGB, opaque"
# Pillow's many ways to say that the data is broken.
_BROKEN = (OSError, SyntaxError, ValueError, TypeError, LookupError, EOFError, struct.error, zlib.error)
# By EXIF orientation. Pillow's `exif_transpose` also rewrites the EXIF, and fails on odd ones.
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


@dataclasses.dataclass(frozen=True)
class GoalImage:
    """A goal as a picture, and what its file tells of the simulator (nothing, for a photo).

    Attributes:
        pixels: uint8 `[size, size, 3]`.
        goal_state: simulator state `[N]` that the picture shows, from the PNG text chunk `goal_state`.
        start_state: simulator state `[N]` to start from, from the chunk `start_state`.
    """

    pixels: NDArray[np.uint8]
    goal_state: NDArray[np.float64] | None = None
    start_state: NDArray[np.float64] | None = None


def read_goal(path: str | Path, size: int) -> GoalImage:
    """The picture in `path`, averaged down (or up) to `size` pixels.

    Accepted are PNG and JPEG of at most 20 MB and 40 million pixels, at least a quarter of `size` wide, square to
    within one pixel after the EXIF rotation (which is applied), in RGB. An alpha channel must be opaque everywhere;
    16-bit PNGs lose the lower byte. Greyscale, palette, CMYK and transparent pictures are refused: no camera that a
    model was trained on makes them, and a silent conversion would be a goal that nobody meant.

    Raises:
        UserError: one line that names the file, what it is, and what is accepted.
    """
    path = Path(path)
    _check_file(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of large pictures, which we refuse, and of odd EXIF, which is unimportant
            with Image.open(path, formats=("PNG", "JPEG")) as image:
                width, height = image.size  # from the header: nothing is decoded yet
                if width * height > MAX_PIXELS:
                    raise UserError(f"{path} has {width} x {height} pixels: at most {MAX_PIXELS:,} are accepted")
                texts = {str(k): str(v) for k, v in image.info.items() if isinstance(v, str)}
                image.load()
                picture = _to_rgb(path, _upright(image))
    except UserError:
        raise
    except UnidentifiedImageError as error:
        raise UserError(f"{path} is not a PNG or JPEG picture: {_WANTED}") from error
    except Image.DecompressionBombError as error:
        raise UserError(f"{path} has too many pixels: at most {MAX_PIXELS:,} are accepted") from error
    except _BROKEN as error:
        raise UserError(f"{path} is corrupt ({error}): {_WANTED}") from error
    width, height = picture.size
    if min(width, height) < size // 4:
        least = f"at least {size // 4} x {size // 4}, the model sees {size} x {size}"
        raise UserError(f"{path} is {width} x {height} pixels: expected {least}")
    resized = picture.resize((size, size), Image.Resampling.BOX)
    return GoalImage(np.asarray(resized), _state(texts, "goal_state"), _state(texts, "start_state"))


def _check_file(path: Path) -> None:
    if not path.exists():
        raise UserError(f"goal image {path} does not exist: make one with 'python -m envs.goal', or give a PNG or JPEG")
    if not path.is_file():
        raise UserError(f"goal image {path} is not a file: {_WANTED}")
    if path.stat().st_size > MAX_BYTES:
        raise UserError(f"{path} has {path.stat().st_size:,} bytes: at most {MAX_BYTES:,} are accepted")


def _upright(image: Image.Image) -> Image.Image:
    turn = _UPRIGHT.get(image.getexif().get(ExifTags.Base.Orientation, 1))
    return image if turn is None else image.transpose(turn)


def _to_rgb(path: Path, image: Image.Image) -> Image.Image:
    width, height = image.size
    if abs(width - height) > 1:
        raise UserError(f"{path} is {width} x {height} pixels: {_WANTED}; crop it to a square")
    if image.mode not in ("RGB", "RGBA"):
        raise UserError(f"{path} has colour mode {image.mode}: {_WANTED}; convert it to RGB")
    if image.has_transparency_data and image.convert("RGBA").getchannel("A").getextrema()[0] != 255:
        raise UserError(f"{path} is transparent in places: {_WANTED}; flatten it first")
    return image.convert("RGB")


def _state(texts: dict[str, str], key: str) -> NDArray[np.float64] | None:
    """A state `[N]` from a text chunk; None where there is none that can be read, since pictures do not owe us one."""
    try:
        state = np.array(json.loads(texts.get(key, "null")), np.float64)
    except (ValueError, TypeError, RecursionError):
        return None
    return state if state.ndim == 1 and len(state) and np.isfinite(state).all() else None

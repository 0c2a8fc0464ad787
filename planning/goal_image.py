"""Goal images from untrusted files. They are validated and brought to the size of a camera of the model."""

from __future__ import annotations

import dataclasses
import json
import struct
import warnings
import zlib
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, UnidentifiedImageError

from worldmodel.core.errors import UserError, choices_message
from worldmodel.core.spec import CameraSpec

MAX_BYTES = 20_000_000
MAX_PIXELS = 40_000_000
# Ways to bring an image of another aspect ratio to that of the camera.
CROP, LETTERBOX = "crop", "letterbox"
# Larger numbers are not in any simulator state of this project, and would overflow inside a simulator.
_LARGEST_STATE: Final = 1e6
_WANTED = "a goal image is a PNG or JPEG in RGB, opaque"
# Exceptions that Pillow raises for broken data.
_BROKEN = (OSError, SyntaxError, ValueError, TypeError, LookupError, EOFError, struct.error, zlib.error)
# Keyed by EXIF orientation. Pillow's `exif_transpose` also rewrites the EXIF data, and fails on odd data.
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
    """A goal image, and the simulator's states in its file. A photo has none.

    Attributes:
        pixels: uint8 `[H, W, 3]`, of the camera's size.
        goal_state: simulator state `[N]` that the image shows, from the PNG text chunk `goal_state`.
        start_state: simulator state `[N]` to start from, from the chunk `start_state`.
        environment: name of the environment that made the image, from the chunk `environment`.
    """

    pixels: NDArray[np.uint8]
    goal_state: NDArray[np.float64] | None = None
    start_state: NDArray[np.float64] | None = None
    environment: str | None = None


def require_fit(fit: str) -> None:
    """Raises UserError for an unknown `goal_fit`."""
    if fit not in (CROP, LETTERBOX):
        raise UserError(choices_message("goal_fit", fit, (CROP, LETTERBOX)))


def read_goal(path: str | Path, camera: CameraSpec, fit: str = CROP) -> GoalImage:
    """The image in `path`, at the size of `camera`.

    PNG and JPEG files in RGB are accepted, of at most 20 MB and 40 million pixels, and at least a quarter of the
    camera's height and width. The EXIF rotation is applied. An alpha channel must be opaque everywhere. 16-bit PNGs
    lose the lower byte. Greyscale, palette, CMYK and transparent images are refused. No camera that a model was trained
    on makes them, and a silent conversion could give a goal that the user did not mean.

    If the aspect ratio is not the camera's, `crop` keeps the largest centred part with the camera's aspect ratio, and
    `letterbox` keeps the whole image between two black bars of equal size. The result is averaged to the camera's size.

    Raises:
        UserError: one line that names the file, what it is, and what is accepted.
    """
    require_fit(fit)
    path = Path(path)
    _check_file(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about large images, which are refused, and about odd EXIF data
            with Image.open(path, formats=("PNG", "JPEG")) as image:
                width, height = image.size  # from the header, before anything is decoded
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
    if width < camera.width // 4 or height < camera.height // 4:
        raise UserError(
            f"{path} is {width} x {height} pixels: expected at least {camera.width // 4} x {camera.height // 4}, the "
            f"model sees {camera.width} x {camera.height}"
        )
    pixels = np.array(_fitted(picture, camera, fit))
    return GoalImage(pixels, _state(texts, "goal_state"), _state(texts, "start_state"), texts.get("environment"))


def _check_file(path: Path) -> None:
    try:
        exists, is_file = path.exists(), path.is_file()
    except OSError as error:  # no file can have this name
        raise UserError(f"goal image {str(path)[:80]}... cannot be opened ({error.strerror}): {_WANTED}") from error
    if not exists:
        raise UserError(f"goal image {path} does not exist: make one with 'python -m envs.goal', or give a PNG or JPEG")
    if not is_file:
        raise UserError(f"goal image {path} is not a file: {_WANTED}")
    if path.stat().st_size > MAX_BYTES:
        raise UserError(f"{path} has {path.stat().st_size:,} bytes: at most {MAX_BYTES:,} are accepted")


def _upright(image: Image.Image) -> Image.Image:
    turn = _UPRIGHT.get(image.getexif().get(ExifTags.Base.Orientation, 1))
    return image if turn is None else image.transpose(turn)


def _to_rgb(path: Path, image: Image.Image) -> Image.Image:
    if image.mode not in ("RGB", "RGBA"):
        raise UserError(f"{path} has colour mode {image.mode}: {_WANTED}; convert it to RGB")
    if image.has_transparency_data and image.convert("RGBA").getchannel("A").getextrema()[0] != 255:
        raise UserError(f"{path} is transparent in places: {_WANTED}; flatten it first")
    return image.convert("RGB")


def _fitted(picture: Image.Image, camera: CameraSpec, fit: str) -> Image.Image:
    """`picture` at the camera's size, by the rules in `read_goal`."""
    width, height = picture.size
    if fit == CROP:
        scale = min(width / camera.width, height / camera.height)
        kept_width, kept_height = camera.width * scale, camera.height * scale
        left, upper = (width - kept_width) / 2, (height - kept_height) / 2
        box = (left, upper, left + kept_width, upper + kept_height)
        return picture.resize((camera.width, camera.height), Image.Resampling.BOX, box)
    scale = min(camera.width / width, camera.height / height)
    inner = (max(1, round(width * scale)), max(1, round(height * scale)))
    framed = Image.new("RGB", (camera.width, camera.height))
    place = ((camera.width - inner[0]) // 2, (camera.height - inner[1]) // 2)
    framed.paste(picture.resize(inner, Image.Resampling.BOX), place)
    return framed


def _state(texts: dict[str, str], key: str) -> NDArray[np.float64] | None:
    """A state `[N]` from a text chunk. None if there is no readable one, since an image need not have one."""
    try:
        state = np.array(json.loads(texts.get(key, "null")), np.float64)
    except (ValueError, TypeError, OverflowError, RecursionError):
        return None
    return state if state.ndim == 1 and len(state) and (np.abs(state) <= _LARGEST_STATE).all() else None

"""Videos of episodes."""

from __future__ import annotations

import errno
from collections.abc import Generator, Iterable, Iterator, Sequence
from pathlib import Path

import imageio_ffmpeg
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from planning.environment import Environment
from planning.evaluation.imagination import Comparison, Images, pixel_error
from planning.rows import Heading
from worldmodel.core.files import appearing

FRAME_SIZE = 256  # pixels
_CAPTION = 32  # height of a strip with captions [pixels], a multiple of 16 for video codecs
_FONT_SIZE = 15
_GAP = 16  # keeps the width a multiple of 16 for video codecs


def write_video(path: Path, frames: Iterable[NDArray[np.uint8]], frames_per_s: float) -> None:
    """Write uint8 frames `[H, W, 3]`, with H and W multiples of 16, as an H.264 mp4 that every browser plays.

    The file appears complete or not at all. Raises OSError if it cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with appearing(path) as partial:
        writer, sent = None, 0
        options = {"fps": frames_per_s, "quality": 8, "macro_block_size": 16, "output_params": ["-f", "mp4"]}
        try:
            for frame in frames:
                if writer is None:
                    size = (frame.shape[1], frame.shape[0])
                    writer = imageio_ffmpeg.write_frames(str(partial), size, **options)
                    writer.send(None)  # starts ffmpeg
                sent += _send(writer, frame)
        finally:
            if writer is not None:
                writer.close()
        _require_whole(partial, sent)


def _send(writer: Generator[None, NDArray[np.uint8] | None], frame: NDArray[np.uint8]) -> int:
    try:
        writer.send(np.ascontiguousarray(frame))
    except OSError as error:  # it has no number, and a page about ffmpeg's command
        raise OSError(errno.EIO, "ffmpeg ended before the video did") from error
    return 1


def _require_whole(video: Path, num_frames: int) -> None:
    """Raises OSError for a video that is cut short. If the disk is full, ffmpeg cuts it without an error."""
    try:
        written, _ = imageio_ffmpeg.count_frames_and_secs(str(video))
    except RuntimeError:
        written = 0
    if written != num_frames:
        raise OSError(errno.EIO, f"{written} of {num_frames} frames of the video could be written")


def side_by_side(
    env: Environment, states: NDArray[np.float64], goal: NDArray[np.uint8], hold_frames: int = 10
) -> Iterator[NDArray[np.uint8]]:
    """Frames of the episode `states [T, N]` beside its goal image `[H, W, 3]`. The last frame is held for a while."""
    size = (FRAME_SIZE, FRAME_SIZE)
    picture = np.asarray(Image.fromarray(goal).resize(size, Image.Resampling.LANCZOS))
    gap = np.full((FRAME_SIZE, _GAP, 3), 255, np.uint8)
    frame = np.concatenate([picture, gap, picture], axis=1)
    for state in states:
        frame = np.concatenate([env.render_state(state, size=FRAME_SIZE), gap, picture], axis=1)
        yield frame
    for _ in range(hold_frames):
        yield frame


def sub_goal_frames(
    env: Environment,
    states: NDArray[np.float64],
    headings: Sequence[Heading],
    pictures: NDArray[np.uint8],
    goal: NDArray[np.uint8],
) -> Iterator[NDArray[np.uint8]]:
    """Frames of the episode `states [T, N]` beside the sub-goal of every control step and the goal image.

    Args:
        env: renders the states.
        states: simulator states, `[T, N]`.
        headings: the sub-goal of each, `[T]`.
        pictures: images of the landmarks, uint8 `[L, H, W, 3]`.
        goal: the goal image, uint8 `[H, W, 3]`.
    """
    for step, (state, heading) in enumerate(zip(states, headings, strict=False)):
        known = heading.landmark is not None and heading.landmark < len(pictures)
        chosen = pictures[heading.landmark] if known else goal
        left = f", {heading.steps:.0f} steps to go" if np.isfinite(heading.steps) else ""
        captions = (f"step {step}", f"sub-goal: {heading.reason}{left}", "goal")
        yield _captioned(captions, [(env.render_state(state, size=FRAME_SIZE), chosen, goal)])


def imagined_frames(comparison: Comparison, ahead: int) -> Iterator[NDArray[np.uint8]]:
    """For every control step the observed image, the image that was imagined `ahead` steps before, and the difference.

    Cameras are stacked. In the image of the difference, white means none.
    """
    for step in range(len(comparison)):
        happened = {name: images[step] for name, images in comparison.seen.items()}
        shown = comparison.shown(step, ahead)
        if shown is None:
            captions = (f"step {step}: happened", "no plan", "")
            yield _captioned(captions, [(one, _blank(one), _blank(one)) for one in happened.values()])
            continue
        before, imagined = shown
        captions = (
            f"step {step}: happened",
            f"imagined {before} steps before" if before else "seen, and decoded",
            f"difference: RMS {_error(happened, imagined):.1f} of 255",
        )
        rows = [(one, imagined[name], _away_from_white(one, imagined[name])) for name, one in happened.items()]
        yield _captioned(captions, rows)


def _error(images: Images, others: Images) -> float:
    rows = [{name: one[None] for name, one in each.items()} for each in (images, others)]
    return float(pixel_error(*rows)[0])


def _blank(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return np.full_like(image, 200)


def _away_from_white(image: NDArray[np.uint8], other: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return (255 - np.abs(image.astype(np.int16) - other)).astype(np.uint8)


def _captioned(captions: tuple[str, ...], rows: Sequence[tuple[NDArray[np.uint8], ...]]) -> NDArray[np.uint8]:
    """Rows of images `[H, W, 3]`, enlarged to the height `FRAME_SIZE`, below a strip of captions."""
    lines = [np.concatenate([_enlarged(image) for image in row], axis=1) for row in rows]
    width = max(line.shape[1] for line in lines)
    padded = [np.pad(line, ((0, 0), (0, width - line.shape[1]), (0, 0)), constant_values=255) for line in lines]
    strip = Image.new("RGB", (width, _CAPTION), "white")
    font, drawing = ImageFont.load_default(_FONT_SIZE), ImageDraw.Draw(strip)
    for index, caption in enumerate(captions):
        drawing.text((index * width // len(captions) + 4, 6), caption, fill="black", font=font)
    return np.concatenate([np.asarray(strip), *padded])


def _enlarged(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The image without interpolation, so that single pixels are visible, with a gap on its right."""
    height, width = image.shape[:2]
    wide = max(16, 16 * round(FRAME_SIZE * width / height / 16))
    large = np.asarray(Image.fromarray(image).resize((wide, FRAME_SIZE), Image.Resampling.NEAREST))
    return np.pad(large, ((0, 0), (0, _GAP), (0, 0)), constant_values=255)

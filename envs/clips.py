"""Labelled clips of moving objects: `python -m envs.clips task=direction`.

The clips are MP4 files without loss, in folders that are named like their classes. With loss, a frame would show traces
of earlier frames, and a single frame the motion.
"""

from __future__ import annotations

import csv
import dataclasses
import io
import json
from fractions import Fraction
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from envs.motion.motions import TASKS, draw_motion
from envs.motion.scene import ClipScene
from worldmodel.cli.command import Config, command, plain_options
from worldmodel.cli.console import console
from worldmodel.cli.programs import as_typed
from worldmodel.cli.progress import counting
from worldmodel.core.errors import UserError, choices_message
from worldmodel.core.files import PARTIAL, naming, output_folder, replacing, write_json
from worldmodel.core.options import from_config
from worldmodel.core.spec import MOST_PIXELS
from worldmodel.data.videos.workers import require_av

SPLITS: Final = ("train", "val", "test")
# Fast settings. `qp` 0 makes H.264 lossless.
_CODEC, _OPTIONS = "libx264rgb", {"qp": "0", "preset": "veryfast"}
_ABOUT: Final = "clips.json"


@dataclasses.dataclass(frozen=True)
class ClipsConfig:
    """Options of a set of labelled clips.

    Attributes:
        task: what the labels are about, a name in `envs.motion.motions.TASKS`.
        train: number of clips to train on.
        val: number of clips to choose by.
        test: number of clips to report on.
        frames: frames of a clip.
        rate_hz: frames per second that the files claim.
        size: height and width [pixels].
        distractors: random light, floor, background objects and place of the camera in every clip.
        seed: seed of the set. Clip i of a split depends on (seed, split, i) alone.
        out: the folder to write.
    """

    task: str = "direction"
    train: int = 2000
    val: int = 400
    test: int = 1000
    frames: int = 8
    rate_hz: int = 8
    size: int = 64
    distractors: bool = True
    seed: int = 0
    out: str = "runs/clips/direction"

    def __post_init__(self) -> None:
        if self.task not in TASKS:
            raise ValueError(choices_message("task", self.task, TASKS))
        for name, low, high in (
            ("train", 1, 10**7), ("val", 1, 10**7), ("test", 1, 10**7), ("frames", 4, 1024), ("rate_hz", 1, 240),
            ("size", 16, min(MOST_PIXELS, 1024)), ("seed", 0, 2**32 - 1),
        ):  # fmt: skip
            if not low <= getattr(self, name) <= high:
                raise ValueError(f"{name} {getattr(self, name)}: expected a whole number from {low} to {high}")
        if self.size % 2:
            raise ValueError(f"size {self.size}: expected an even number, which video codecs need")
        if not self.out:
            raise ValueError("out is empty: expected a path")

    def count(self, split: str) -> int:
        """Number of clips of `train`, `val` or `test`."""
        return int(getattr(self, split))


def write_clip(path: Path, frames: NDArray[np.uint8], rate_hz: int) -> None:
    """Write `frames [T, S, S, 3]` as an MP4 in which every pixel keeps its value. Raises OSError if writing fails."""
    import av
    from av.video.stream import VideoStream

    # The file is whole as soon as it has its name. It is not forced to the disk, which would take most of the time for
    # thousands of small files that can be made again.
    partial = path.with_name(path.name + PARTIAL)
    with naming(path), av.open(str(partial), "w", format="mp4") as container:
        stream = container.add_stream(_CODEC, rate=rate_hz, options=_OPTIONS)
        assert isinstance(stream, VideoStream)
        stream.height, stream.width, stream.pix_fmt = *frames.shape[1:3], "rgb24"
        stream.codec_context.thread_count = 1
        for number, picture in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts, frame.time_base = number, Fraction(1, rate_hz)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    partial.replace(path)


def begin(config: ClipsConfig) -> Path:
    """Make the folder of the set, or find it begun with the same options. Sets may grow.

    Raises:
        UserError: for a folder with clips of other options, or with more clips.
    """
    folder = output_folder(config.out)
    about = folder / _ABOUT
    wanted = {key: value for key, value in dataclasses.asdict(config).items() if key != "out"}
    if about.exists():
        try:
            present = dict(json.loads(about.read_text()))
        except (OSError, ValueError, TypeError) as error:
            raise UserError(f"{about} cannot be read ({error}); remove {folder} to start over") from error
        for key, value in wanted.items():
            grows = key in SPLITS and isinstance(present.get(key), int) and present[key] <= value
            if present.get(key) != value and not grows:
                raise UserError(
                    f"{folder} holds clips with {key}={present.get(key)}, this command asks for {value}: give another "
                    "out=, or remove the folder"
                )
    elif any((folder / split).exists() for split in SPLITS):
        raise UserError(f"{folder} has other files in {', '.join(SPLITS)}: give another out=")
    write_json(wanted, about)
    return folder


def make_split(config: ClipsConfig, split: str, folder: Path, scene: ClipScene) -> None:
    """Write the clips of one split that are missing, and the places of their points in `points.csv`."""
    rows: list[tuple[Any, ...]] = []
    total = config.count(split)
    with counting(f"{split} clips", "clips") as progress:
        for number in range(total):
            rng = np.random.default_rng([config.seed, SPLITS.index(split), number])
            motion = draw_motion(config.task, number, config.frames, rng)
            scenery = int(rng.integers(1, 2**31)) if config.distractors else 0
            name = f"{motion.label}/{number:06d}.mp4"
            if not (folder / name).exists():
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                write_clip(folder / name, scene.render(motion, scenery), config.rate_hz)
            if motion.has_point:
                seen = motion.visible()[:, 0]
                points = scene.points(motion, scenery) / config.size
                rows += [(name, t, *np.round(points[t], 4).tolist(), int(seen[t])) for t in range(config.frames)]
            progress(number + 1, total)
    if rows:
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerows([("path", "frame", "x", "y", "visible"), *rows])
        with replacing(folder / "points.csv") as file:
            file.write(text.getvalue().encode())


@command("clips")
def main(config: Config) -> None:
    """Write what is missing of the set."""
    options = from_config(ClipsConfig, plain_options(config), "clips")
    require_av()
    folder, scene = begin(options), ClipScene(options.size)
    try:
        for split in SPLITS:
            make_split(options, split, folder / split, scene)
    finally:
        scene.close()
    labels = ", ".join(TASKS[options.task].labels)
    counts = ", ".join(f"{options.count(split)} {split}" for split in SPLITS)
    console.print(f"clips: {folder} · {TASKS[options.task].question} {labels} · {counts}", markup=False)
    console.print(as_typed(f"next: python -m worldmodel.probe data={folder} encoder_from=..."), markup=False)


if __name__ == "__main__":
    main()

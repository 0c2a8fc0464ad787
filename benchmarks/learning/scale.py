"""The parts of a large pretraining that a machine without GPUs can measure: `python -m benchmarks.learning.scale`.

docs/scale.md computes with them. Times are processor time of one core, since the machine may be busy.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
from numpy.typing import NDArray

from worldmodel.cli.console import console
from worldmodel.data.videos.draws import Request
from worldmodel.data.videos.worker import _clip
from worldmodel.encoders.base import Grid
from worldmodel.encoders.jepa.masks import read_mask

HEIGHT, WIDTH, RATE, SECONDS = 256, 340, 30, 10  # of a video of Kinetics, as it is usually resized
FRAMES, STRIDE, SIZE = 16, 4, 224
BATCH, LAYERS, PATCHES = 3072, FRAMES // 2, SIZE // 16
MASKS = ({"blocks": 8, "spatial_scale": 0.15}, {"blocks": 2, "spatial_scale": 0.7})


def cpu_ms(work: Callable[[int], object], repeats: int) -> list[float]:
    """Processor time of each call [ms]."""
    times = []
    for number in range(repeats):
        began = time.process_time()
        work(number)
        times.append(1e3 * (time.process_time() - began))
    return times


def frame(number: int, blocks: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.uint8]:
    """Blocks of colour that move, with a little noise."""
    moved = np.roll(blocks, (number, 2 * number), (0, 1)).astype(np.int16)
    return np.clip(moved + rng.integers(-6, 7, moved.shape), 0, 255).astype(np.uint8)


def write(path: Path) -> None:
    """A video in H.264."""
    rng = np.random.default_rng(0)
    blocks = rng.integers(0, 256, (HEIGHT // 8, WIDTH // 8 + 1, 3), dtype=np.uint8)
    blocks = blocks.repeat(8, 0).repeat(8, 1)[:HEIGHT, :WIDTH]
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=RATE)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        for number in range(SECONDS * RATE):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame(number, blocks, rng), format="rgb24")))
        container.mux(stream.encode())


def request(path: Path, number: int) -> Request:
    """A random clip, cropped and resized."""
    first = np.random.default_rng(number).integers(SECONDS * RATE - FRAMES * STRIDE)
    times = [(first + 0.5 + STRIDE * ahead) / RATE for ahead in range(FRAMES)]
    return {"path": str(path), "times": times, "size": [SIZE, SIZE], "augmentation": {}, "seed": number}


def main() -> None:
    """Print the time of decoding a clip, and that of drawing the masks of a batch."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "video.mp4"
        write(path)
        decoding = cpu_ms(lambda number: _clip(request(path, number)), 24)
    masks = [read_mask({"kind": "multiblock_official", **options}) for options in MASKS]
    grid = Grid(PATCHES, PATCHES)

    def draw(number: int) -> object:
        rng = np.random.default_rng([0, number])
        return [mask(BATCH, LAYERS, grid, rng) for mask in masks]

    drawing = cpu_ms(draw, 5)
    shape = f"{FRAMES} x {SIZE} x {SIZE}, every {STRIDE}th frame of {WIDTH} x {HEIGHT} in H.264"
    console.print(
        f"decode, crop and resize a clip ({shape}): {statistics.median(decoding):.0f} ms (n = {len(decoding)})"
    )
    console.print(f"draw the masks of {BATCH} clips: {statistics.median(drawing):.0f} ms (n = {len(drawing)})")


if __name__ == "__main__":
    main()

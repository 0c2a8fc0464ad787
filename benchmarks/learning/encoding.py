"""Frames per second of a frozen encoder: each of torch's threads at other frames, and all of them at the same ones.

python -m benchmarks.learning.encoding                    # the encoder of the shipped arm_drawer, random frames
python -m benchmarks.learning.encoding checkpoint=push frames=2048
"""

from __future__ import annotations

import dataclasses
import sys
import time
from unittest.mock import patch

import numpy as np
import torch

from benchmarks.options import read_all
from planning.loading import choose_checkpoint, read_model
from worldmodel.cli.command import fail
from worldmodel.cli.console import console
from worldmodel.core.errors import UserError
from worldmodel.encoders import features

REPEATS = 5
CPU = torch.device("cpu")


@dataclasses.dataclass(frozen=True)
class Options:
    """A shipped checkpoint, and the frames of a pass."""

    checkpoint: str = "arm_drawer"
    frames: int = 1024


def main(options: Options) -> None:
    """Print both rates, medians of passes that take turns, and their ratio."""
    model = read_model(choose_checkpoint(options.checkpoint, options.checkpoint), CPU, "fp32", False)
    side = model.spec.cameras[0].shape
    frames = np.random.default_rng(0).integers(0, 256, (options.frames, *side), np.uint8)
    rows = np.arange(len(frames))

    def seconds() -> float:
        began = time.perf_counter()
        features.encode_frames(model.encoder, frames, rows, CPU)
        return time.perf_counter() - began

    apart, together = [], []
    for _ in range(REPEATS + 1):
        apart.append(seconds())
        with patch.object(features, "map_in_threads", lambda work, parts, device: [work(part) for part in parts]):
            together.append(seconds())
    rates = [options.frames / float(np.median(times[1:])) for times in (apart, together)]
    console.print(
        f"{torch.get_num_threads()} threads side by side: {rates[0]:.0f} frames/s, together: {rates[1]:.0f} frames/s, "
        f"ratio {rates[0] / rates[1]:.2f}"
    )


if __name__ == "__main__":
    try:
        main(read_all(Options, sys.argv[1:]))
    except UserError as error:
        fail(str(error))

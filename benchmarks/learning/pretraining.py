"""Clips per second of pretraining, compared with the machine's matrix product.

    python -m benchmarks.learning.pretraining          # the options of configs/pretrain.yaml, 20 steps
    python -m benchmarks.learning.pretraining steps=5 trainer.batch_size=16 encoder.depth=2

The clips are noise, which costs as much as images do, in a memory map like that of `worldmodel.data.load_frames`. Torch
counts the operations of one step. The training process reads clips between steps, and the model waits for it, so the
share of reading in a step is printed too.
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.machine import CPU, matrix_product_gflops
from worldmodel.cli.command import Config, as_plain, composed, fail
from worldmodel.cli.console import console
from worldmodel.core.device import DTYPES, pick_precision
from worldmodel.core.errors import UserError
from worldmodel.core.options import from_config
from worldmodel.encoders.jepa.objective import Jepa, JepaConfig
from worldmodel.encoders.jepa.task import PretrainConfig, PretrainTask
from worldmodel.encoders.vit import EncoderConfig
from worldmodel.training.trainer import Trainer, TrainerConfig

_NUM_CLIPS = 2048  # number of different clips


class Clips:
    """Random clips of noise in a memory map, and the time of reading them. Indexing is timed.

    Attributes:
        length: frames of a clip.
        seconds: time of all reads so far [s].
    """

    def __init__(self, folder: Path, length: int, size: int) -> None:
        self.length, self.seconds = length, 0.0
        noise = np.random.default_rng(0).integers(0, 256, (_NUM_CLIPS * length, size, size, 3), np.uint8)
        np.save(folder / "frames.npy", noise)
        self._frames = np.load(folder / "frames.npy", mmap_mode="r")

    def rows(self, step: int, count: int) -> NDArray[np.int64]:
        """Rows `[count, length]` of the clips of `step`."""
        starts = np.random.default_rng([0, step]).integers(0, len(self._frames) - self.length, count)
        return starts[:, None] + np.arange(self.length)

    def __getitem__(self, rows: NDArray[np.int64]) -> NDArray[np.uint8]:
        began = time.perf_counter()
        clips = np.asarray(self._frames[rows])
        self.seconds += time.perf_counter() - began
        return clips


def make_task(config: Config, clips: Clips, batch_size: int) -> PretrainTask:
    """Pretraining on noise, with the options of `config`."""
    encoder = from_config(EncoderConfig, config["encoder"], "encoder")
    module = Jepa(encoder, from_config(JepaConfig, config["jepa"], "jepa"))
    options = from_config(PretrainConfig, config["pretrain"], "pretrain")
    return PretrainTask(module, options, lambda step: clips[clips.rows(step, batch_size)], {}, 0, CPU)


def gflop_per_step(task: PretrainTask) -> float:
    """Billions of operations in the matrix products and attention of one step, forward and backward."""
    with FlopCounterMode(display=False) as counter:
        task.loss(0)["loss"].backward()
    return counter.get_total_flops() / 1e9


def _made(folder: Path) -> Path:
    folder.mkdir()
    return folder


def main(overrides: list[str], steps: int) -> None:
    """Print the table."""
    config = as_plain(composed("pretrain", overrides))
    given = from_config(TrainerConfig, config["trainer"], "trainer")
    plan = {**given.__dict__, "steps": steps, "log_every": steps, "evaluate_every": steps}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        clips = Clips(folder, int(config["clips"]["frames"]), int(config["env"]["image_size"]))
        task = make_task(config, clips, given.batch_size)
        operations = gflop_per_step(task)
        precision = pick_precision(given.precision, CPU)
        dtype = DTYPES[precision]
        before = matrix_product_gflops(dtype)
        Trainer(task, TrainerConfig(**{**plan, "steps": 2}), _made(folder / "warm"), CPU).run("warm up")
        trainer = Trainer(task, TrainerConfig(**plan), _made(folder / "measured"), CPU)
        clips.seconds, began = 0.0, time.perf_counter()
        trainer.run("measure")
        seconds = time.perf_counter() - began
        after = matrix_product_gflops(dtype)
    achieved, peak = operations * steps / seconds, (before + after) / 2
    console.print(
        f"{steps} steps of {given.batch_size} clips of {config['clips']['frames']} frames at "
        f"{config['env']['image_size']}², {precision}, {torch.get_num_threads()} threads\n"
        f"{steps * given.batch_size / seconds:.1f} clips/s, {operations / given.batch_size:.2f} GFLOP per clip\n"
        f"{clips.seconds / steps * 1e3:.1f} ms of a step's {seconds / steps * 1e3:.0f} ms wait for clips "
        f"({clips.seconds / seconds:.1%})\n"
        f"{achieved:.0f} GFLOP/s, {achieved / peak:.0%} of the {peak:.0f} GFLOP/s of a matrix product in the same run"
    )


if __name__ == "__main__":
    options = dict(argument.split("=", 1) for argument in sys.argv[1:] if argument.startswith("steps="))
    try:
        main([a for a in sys.argv[1:] if not a.startswith("steps=")], int(options.get("steps", 20)))
    except (UserError, ValueError) as error:
        fail(str(error))

"""Clips per second of pretraining, beside the machine's own matrix product: `python -m benchmarks.pretraining`.

    python -m benchmarks.pretraining                                  # the options of configs/pretrain.yaml, 20 steps
    python -m benchmarks.pretraining steps=5 trainer.batch_size=16 encoder.depth=2

The clips are noise, which costs as much as pictures do. Operations are counted by torch while one step runs.
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from omegaconf import DictConfig
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.machine import CPU, matrix_product_gflops
from configs.command import UserError, composed, console, fail, from_config
from worldmodel.jepa import Jepa, JepaConfig
from worldmodel.pretraining import PretrainConfig, PretrainTask
from worldmodel.trainer import Trainer, TrainerConfig
from worldmodel.vit import EncoderConfig


def make_task(config: DictConfig, batch_size: int) -> PretrainTask:
    """Pretraining on noise, with the options of `config`."""
    encoder = from_config(EncoderConfig, {**config.encoder, "image_size": config.env.image_size}, "encoder")
    rng, size, length = np.random.default_rng(0), encoder.image_size, int(config.clips.frames)
    frames = rng.integers(0, 256, (batch_size * length, size, size, 3), dtype=np.uint8)
    rows = np.arange(len(frames)).reshape(batch_size, length)
    module = Jepa(encoder, from_config(JepaConfig, config.jepa, "jepa"))
    options = from_config(PretrainConfig, config.pretrain, "pretrain")
    return PretrainTask(module, options, frames, lambda step: rows, None, 0, CPU)


def gflop_per_step(task: PretrainTask) -> float:
    """Billions of operations in the matrix products and attention of one step, forward and backward."""
    with FlopCounterMode(display=False) as counter:
        task.loss(0)["loss"].backward()
    return counter.get_total_flops() / 1e9


def main(overrides: list[str], steps: int) -> None:
    """Print the table."""
    config = composed("pretrain", overrides)
    given = from_config(TrainerConfig, config.trainer, "trainer")
    plan = {**given.__dict__, "steps": steps, "log_every": steps, "evaluate_every": steps}
    task = make_task(config, given.batch_size)
    operations = gflop_per_step(task)
    dtype = torch.bfloat16 if given.precision == "bf16" else torch.float32
    before = matrix_product_gflops(dtype)
    with tempfile.TemporaryDirectory() as folder:
        Trainer(task, TrainerConfig(**{**plan, "steps": 2}), Path(folder), CPU).run("warm up")
    with tempfile.TemporaryDirectory() as folder:
        trainer, began = Trainer(task, TrainerConfig(**plan), Path(folder), CPU), time.perf_counter()
        trainer.run("measure")
        seconds = time.perf_counter() - began
    after = matrix_product_gflops(dtype)
    achieved, peak = operations * steps / seconds, (before + after) / 2
    console.print(
        f"{steps} steps of {given.batch_size} clips of {config.clips.frames} frames at {config.env.image_size}², "
        f"{given.precision}, {torch.get_num_threads()} threads\n"
        f"{steps * given.batch_size / seconds:.1f} clips/s, {operations / given.batch_size:.2f} GFLOP per clip\n"
        f"{achieved:.0f} GFLOP/s, {achieved / peak:.0%} of the {peak:.0f} GFLOP/s of a matrix product in the same run"
    )


if __name__ == "__main__":
    options = dict(argument.split("=", 1) for argument in sys.argv[1:] if argument.startswith("steps="))
    try:
        main([a for a in sys.argv[1:] if not a.startswith("steps=")], int(options.get("steps", 20)))
    except (UserError, ValueError) as error:
        fail(str(error))

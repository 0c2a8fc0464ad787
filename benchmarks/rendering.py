"""Frames per second of every environment on one core: `python -m benchmarks.rendering [env ...]`.

A matrix product timed in the same run says how fast, and how busy, the machine is.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable

import numpy as np
import torch
from rich.table import Table

from configs.command import UserError, console, fail
from envs.registry import env_names, make_named

SIZES = (64, 128, 224)
_REPEATS = 5
_SECONDS_PER_REPEAT = 0.15


def rate(function: Callable[[], object]) -> float:
    """Calls per second: the best of several short stretches, which other programs disturb least."""
    function()
    best = 0.0
    for _ in range(_REPEATS):
        calls, began = 0, time.perf_counter()
        while (elapsed := time.perf_counter() - began) < _SECONDS_PER_REPEAT:
            function()
            calls += 1
        best = max(best, calls / elapsed)
    return best


def matrix_product_gflops(width: int = 512) -> float:
    """Billions of float32 operations per second in a product of two square matrices, on one thread."""
    torch.set_num_threads(1)
    matrix = torch.randn(width, width, generator=torch.Generator().manual_seed(0))
    return rate(lambda: matrix @ matrix) * 2 * width**3 / 1e9


def frames_and_steps(name: str, size: int) -> tuple[float, float]:
    """Frames per second, and control steps with a frame each per second, of environment `name` at `size` pixels."""
    env = make_named(name, image_size=size)
    try:
        env.reset(seed=0)
        still = np.zeros(env.action_space.shape, np.float32)
        return rate(env.observe), rate(lambda: env.step(still))
    finally:
        env.close()


def main(names: list[str]) -> None:
    """Print the table for `names`, or for every environment."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    table = Table(title=f"rendering on one core beside {matrix_product_gflops():.0f} GFLOP/s (float32 matrix product)")
    table.add_column("environment")
    for size in SIZES:
        table.add_column(f"frames/s at {size}²", justify="right")
    table.add_column(f"steps/s with frames at {SIZES[0]}²", justify="right")
    for name in names or env_names():
        measured = [frames_and_steps(name, size) for size in SIZES]
        table.add_row(name, *(f"{frames:,.0f}" for frames, _ in measured), f"{measured[0][1]:,.0f}")
    console.print(table)


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except UserError as error:
        fail(str(error))

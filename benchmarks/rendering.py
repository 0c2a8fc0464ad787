"""Frames per second of every environment on one core: `python -m benchmarks.rendering [env ...]`.

The time of a matrix product in the same run shows how fast and how busy the machine is.
"""

from __future__ import annotations

import os
import sys

import numpy as np
import torch
from rich.table import Table

from benchmarks.machine import matrix_product_gflops, rate
from envs.registry import env_names, make_named
from worldmodel.cli.command import fail
from worldmodel.cli.console import console
from worldmodel.core.errors import UserError

SIZES = (64, 128, 224)


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
    torch.set_num_threads(1)
    gflops = matrix_product_gflops(torch.float32)
    table = Table(title=f"rendering on one core beside {gflops:.0f} GFLOP/s (float32 matrix product)")
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

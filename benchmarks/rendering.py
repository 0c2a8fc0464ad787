"""Frames and control steps per second of every environment on one core.

python -m benchmarks.rendering
python -m benchmarks.rendering arm_push arm_push:body=jaco sizes=64,96

An option of an environment follows its name. Seconds are processor time, because the machine may be busy. The speed of
a matrix product in the same run shows how fast it is, and the last column compares with `push` in the same run.
"""

from __future__ import annotations

import os
import sys
import time

import numpy as np
import torch
from rich.table import Table

from benchmarks.machine import matrix_product_gflops, rate
from envs.protocol import GoalEnv
from envs.registry import env_names, make_named
from worldmodel.cli.command import fail
from worldmodel.cli.console import console
from worldmodel.core.errors import UserError

SIZES = (64, 96, 128, 224)
REFERENCE = "push"
CLOCK = time.process_time
SEQUENCES, STEPS = 4, 5  # of simulated actions


def open_env(text: str, size: int) -> GoalEnv:
    """An environment, `name` or `name:option=value`, at `size` pixels."""
    name, _, option = text.partition(":")
    key, _, value = option.partition("=")
    return make_named(name, image_size=size, **({key: value} if key else {}))


def frames_per_second(text: str, size: int) -> float:
    """Observations by all cameras per second."""
    env = open_env(text, size)
    try:
        env.reset(seed=0)
        return rate(env.observe, CLOCK)
    finally:
        env.close()


def steps_per_second(text: str, size: int) -> tuple[float, float]:
    """Control steps per second, with a frame each, and as the oracle simulates them, without frames."""
    env = open_env(text, size)
    try:
        state = env.reset(seed=0)[1]["state"]
        bounds = env.action_space.low, env.action_space.high
        actions = np.random.default_rng(0).uniform(*bounds, (SEQUENCES, STEPS, *env.action_space.shape))
        still = np.zeros(env.action_space.shape, np.float32)
        simulated = SEQUENCES * STEPS * rate(lambda: env.simulate(state, actions), CLOCK)
        return rate(lambda: env.step(still), CLOCK), simulated
    finally:
        env.close()


def main(arguments: list[str]) -> None:
    """Print the table for the environments that are named, or for all of them."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    torch.set_num_threads(1)
    names = [argument for argument in arguments if not argument.startswith("sizes=")]
    chosen = [argument.removeprefix("sizes=") for argument in arguments if argument.startswith("sizes=")]
    sizes = [int(size) for size in chosen[-1].split(",")] if chosen else list(SIZES)
    gflops = matrix_product_gflops(torch.float32)
    table = Table(title=f"rendering on one core beside {gflops:.0f} GFLOP/s (float32 matrix product)")
    table.add_column("environment")
    frames = [f"frames/s at {size}²" for size in sizes]
    for title in (*frames, f"steps/s with frames at {sizes[0]}²", "simulated steps/s", f"frames of {REFERENCE}"):
        table.add_column(title, justify="right")
    reference = frames_per_second(REFERENCE, sizes[0])
    for name in names or env_names():
        speeds = [frames_per_second(name, size) for size in sizes]
        rates = [*speeds, *steps_per_second(name, sizes[0])]
        table.add_row(name, *(f"{speed:,.0f}" for speed in rates), f"{speeds[0] / reference:.0%}")
    console.print(table)


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except UserError as error:
        fail(str(error))

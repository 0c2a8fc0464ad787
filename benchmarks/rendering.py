"""Frames and control steps per second of every environment on one core: `python -m benchmarks.rendering [env ...]`.

An option follows the name, as in `arm_push:body=jaco`. The time of a matrix product in the same run shows how fast and
how busy the machine is, and the last column compares with `push` in the same run.
"""

from __future__ import annotations

import dataclasses
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

SIZES = (64, 96, 128, 224)
REFERENCE = "push"
SEQUENCES, STEPS = 4, 5  # of simulated actions


@dataclasses.dataclass(frozen=True)
class Speed:
    """How fast an environment is, per second.

    Attributes:
        frames: frames, which are observations by all its cameras.
        steps: control steps with a frame each.
        simulated: control steps without frames, as the oracle simulates them.
    """

    frames: float
    steps: float
    simulated: float


def speed_of(text: str, size: int) -> Speed:
    """The speed of an environment, `name` or `name:option=value`, at `size` pixels, under random actions."""
    name, _, option = text.partition(":")
    key, _, value = option.partition("=")
    env = make_named(name, image_size=size, **({key: value} if key else {}))
    try:
        state = env.reset(seed=0)[1]["state"]
        rng, bounds = np.random.default_rng(0), (env.action_space.low, env.action_space.high)
        actions = rng.uniform(*bounds, (SEQUENCES, STEPS, *env.action_space.shape))
        still = np.zeros(env.action_space.shape, np.float32)
        frames, steps = rate(env.observe), rate(lambda: env.step(still))
        return Speed(frames, steps, SEQUENCES * STEPS * rate(lambda: env.simulate(state, actions)))
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
    for title in (f"steps/s with frames at {SIZES[0]}²", "simulated steps/s", f"frames of {REFERENCE}"):
        table.add_column(title, justify="right")
    reference = speed_of(REFERENCE, SIZES[0]).frames
    for name in names or env_names():
        measured = [speed_of(name, size) for size in SIZES]
        first = measured[0]
        table.add_row(
            name,
            *(f"{speed.frames:,.0f}" for speed in measured),
            f"{first.steps:,.0f}",
            f"{first.simulated:,.0f}",
            f"{first.frames / reference:.0%}",
        )
    console.print(table)


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except UserError as error:
        fail(str(error))

"""Planning time against the number of samples and environments.

python -m benchmarks.planning              # the optimiser alone, on a cost that is nearly free
python -m benchmarks.planning push         # with a checkpoint: a shipped name or a folder
"""

from __future__ import annotations

import statistics
import sys
import time

import numpy as np
import torch

from benchmarks.machine import matrix_product_gflops
from planning.cem import CEM, CEMConfig
from planning.mpc import Controller, ControllerConfig, Observations
from planning.objectives import ObjectiveConfig
from planning.types import Bounds
from worldmodel.world_model import WorldModel

HORIZON, REPEATS = 8, 10


def optimiser_ms(samples: int, batch: int) -> float:
    """Median time of a CEM plan on a quadratic [ms]."""
    bounds = Bounds(-torch.ones(2), torch.ones(2))
    start, optimiser, times = torch.zeros(batch, HORIZON, 2), CEM(CEMConfig(samples=samples)), []
    for seed in range(REPEATS):
        begun = time.perf_counter()
        optimiser.plan(lambda a: a.square().sum((-1, -2)), start, bounds, torch.Generator().manual_seed(seed))
        times.append((time.perf_counter() - begun) * 1e3)
    return statistics.median(times)


def controller_ms(model: WorldModel, samples: int, batch: int) -> float:
    """Median time from observations to actions with a world model and a full history [ms]."""
    spec, rng = model.spec, np.random.default_rng(0)
    bounds = Bounds(torch.tensor(spec.action_low), torch.tensor(spec.action_high))
    shape = (batch, spec.image_size, spec.image_size, 3)
    config = ControllerConfig(HORIZON, history=model.history)
    goals = rng.integers(0, 256, shape, dtype=np.uint8)
    optimiser = CEM(CEMConfig(samples=samples))
    controller = Controller(model, optimiser, ObjectiveConfig(), bounds, config, goals, torch.device("cpu"))
    times = []
    for _ in range(REPEATS + model.history):
        pixels = rng.integers(0, 256, shape, dtype=np.uint8)
        times.append(controller.act(Observations(pixels, np.zeros((batch, spec.proprio_size), np.float32))).plan_ms)
    return statistics.median(times[model.history :])


def main() -> None:
    model = WorldModel.load(sys.argv[1], torch.device("cpu")) if len(sys.argv) > 1 else None
    gflops = matrix_product_gflops(torch.float32)
    print(
        f"horizon {HORIZON}, 4 iterations; median ms of {REPEATS} plans with {torch.get_num_threads()} threads "
        f"beside {gflops:.0f} GFLOP/s (float32 matrix product)"
    )
    print("samples  batch  " + ("controller" if model else "optimiser"))
    for samples in (64, 128, 256):
        for batch in (1, 10):
            took = controller_ms(model, samples, batch) if model else optimiser_ms(samples, batch)
            print(f"{samples:7d}  {batch:5d}  {took:10.1f}")


if __name__ == "__main__":
    main()

"""Measures how fast and how busy the machine is at present, as a reference for all other figures."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence

import torch

_REPEATS = 5
_SECONDS_PER_REPEAT = 0.15


CPU = torch.device("cpu")


def rate(function: Callable[[], object], clock: Callable[[], float] = time.perf_counter) -> float:
    """Calls per second of `clock` in the best of several short periods, which other programs disturb least.

    `time.process_time` as the clock counts processor time. On a busy machine, this is fair to work on one core.
    """
    function()
    best = 0.0
    for _ in range(_REPEATS):
        calls, began = 0, clock()
        while (elapsed := clock() - began) < _SECONDS_PER_REPEAT:
            function()
            calls += 1
        best = max(best, calls / elapsed)
    return best


def matrix_product_gflops(dtype: torch.dtype, device: torch.device = CPU) -> float:
    """Billions of operations per second in a product of two square matrices, on as many threads as torch has."""
    width = 8192 if device.type == "cuda" else 512
    matrix = torch.randn(width, width, generator=torch.Generator().manual_seed(0)).to(device, dtype)

    def multiply() -> None:
        matrix @ matrix
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    return rate(multiply) * 2 * width**3 / 1e9


def median_ms(
    functions: Sequence[Callable[[], object]], repeats: int, warm_up: int, device: torch.device = CPU
) -> list[float]:
    """Median time of `repeats` calls of each function, after `warm_up` others [ms].

    They take turns, so that a slow period affects all alike.
    """
    times: list[list[float]] = [[] for _ in functions]
    for _ in range(warm_up + repeats):
        for function, taken in zip(functions, times, strict=True):
            begun = time.perf_counter()
            function()
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            taken.append((time.perf_counter() - begun) * 1e3)
    return [statistics.median(taken[warm_up:]) for taken in times]

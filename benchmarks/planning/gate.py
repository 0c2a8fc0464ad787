"""The gate under attack, beside a busy process, and over time.

python -m benchmarks.planning.gate                                   # 10^6 hostile commands; deadlines of `push`
python -m benchmarks.planning.gate commands=10000 steps=100 minutes=5    # and memory, over 5 minutes of faults

Options: `commands` of the vectorised check, `steps` of each measured controller, `minutes` of the soak (0: none),
`checkpoint`, and `deadlines_ms` as 40,80. Frames are noise, which costs as much as a scene does.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.planning.hostile import live, sweep
from planning.flight import FlightConfig
from planning.gate import GateConfig
from planning.loading import choose_checkpoint, read_model
from planning.robot import RobotController, RobotDecision
from worldmodel.cli.command import fail
from worldmodel.cli.console import console
from worldmodel.cli.tables import table
from worldmodel.core.errors import UserError

HOSTILE_LIVES, STEPS_OF_A_LIFE = 10, 1_000
WARM_UP = 5


@dataclasses.dataclass(frozen=True)
class Options:
    """As typed; the module says what each means."""

    commands: int = 1_000_000
    steps: int = 200
    minutes: float = 0.0
    checkpoint: str = "push"
    deadlines_ms: tuple[float, ...] = (40.0, 80.0)


def attack(commands: int) -> None:
    """Print the violations of hostile commands and of whole hostile lives."""
    found = table("hostile commands", "what", "commands", "rest", "violations")
    count = sweep(commands)
    found.add_row("vectorised", f"{count.commands:,}", f"{count.rested:,}", str(count.violations))
    lives = [live(STEPS_OF_A_LIFE, seed) for seed in range(HOSTILE_LIVES)]
    total, rested, violations = (
        sum(getattr(life, name) for life, _ in lives) for name in ("commands", "rested", "violations")
    )
    found.add_row("clock, frames, model", f"{total:,}", f"{rested:,}", str(violations))
    console.print(found)


class Rig:
    """A checkpoint, and noise in place of its cameras."""

    def __init__(self, checkpoint: str) -> None:
        self._checkpoint, self._rng = checkpoint, np.random.default_rng(0)
        self.spec = read_model(choose_checkpoint(checkpoint, checkpoint), torch.device("cpu"), "fp32").spec

    def frames(self) -> dict[str, np.ndarray]:
        """A new frame of every camera."""
        return {camera.name: self._rng.integers(0, 256, camera.shape, np.uint8) for camera in self.spec.cameras}

    def controller(self, gate: GateConfig, **options: Any) -> RobotController:
        """One on the processor with a single thread, for a robot that holds nothing."""
        return RobotController(self._checkpoint, self.frames(), device="cpu", threads=1, gate=gate, **options)

    def act(self, controller: RobotController) -> RobotDecision:
        """One control step, with frames of this moment."""
        return controller.act(self.frames(), np.zeros(self.spec.proprio_size), stamp=time.monotonic())


@contextlib.contextmanager
def busy() -> Iterator[None]:
    """In here, another process uses a processor."""
    process = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        yield
    finally:
        process.kill()
        process.wait()


def deadlines(options: Options) -> None:
    """Print how long commands take under deadlines, and how many are late, beside an idle and a busy process."""
    rig = Rig(options.checkpoint)
    columns = (
        "deadline [ms]",
        "other process",
        "p50 [ms]",
        "p99 [ms]",
        "late",
        "iterations p50",
        "over p50",
        "over p99",
    )
    found = table(f"{options.checkpoint}: {options.steps} commands each, 1 thread", *columns)
    for deadline in (None, *options.deadlines_ms):
        for is_busy in (False, True):
            controller = rig.controller(GateConfig(deadline_s=None if deadline is None else deadline / 1e3))
            with busy() if is_busy else contextlib.nullcontext():
                made = [rig.act(controller) for _ in range(WARM_UP + options.steps)][WARM_UP:]
            taken = np.array([decision.plan_ms for decision in made])
            late = [decision.late for decision in made]
            over = [f"{np.percentile(taken[late] - deadline, q):.1f}" if any(late) else "" for q in (50, 99)]
            iterations = [int(np.isfinite(decision.details.trace).sum()) for decision in made if not decision.late]
            found.add_row(
                "none" if deadline is None else f"{deadline:g}",
                "busy" if is_busy else "none",
                *(f"{np.percentile(taken, q):.1f}" for q in (50, 99)),
                f"{sum(late)}",
                f"{np.median(iterations):g}" if iterations else "",
                *over,
            )
    console.print(found)


def memory_mib() -> float:
    """Resident memory of this process [MiB]."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def soak(options: Options) -> None:
    """Print the memory of a controller that records, flies, stops and resumes all the time, ten times on the way."""
    rig, ends = Rig(options.checkpoint), time.monotonic() + 60 * options.minutes
    found = table(f"memory over {options.minutes:g} minutes", "minutes", "control steps", "stops", "MiB")
    begun, shown, steps, stops = time.monotonic(), 0, 0, 0
    with tempfile.TemporaryDirectory() as folder:
        gate = GateConfig(deadline_s=0.5, frozen_after=3, most_age_s=1.0)
        flight = FlightConfig(Path(folder) / "flight", seconds=5.0)
        options_ = {"planner": "random_shooting", "horizon": 3, "options.samples": 8, "options.action_repeat": 1}
        with rig.controller(gate, options=options_, record=Path(folder) / "data.zarr", flight=flight) as controller:
            while (now := time.monotonic()) < ends:
                if (now - begun) / (ends - begun) * 10 >= shown:
                    found.add_row(f"{(now - begun) / 60:.1f}", f"{steps:,}", str(stops), f"{memory_mib():.1f}")
                    shown += 1
                # After every 500 steps, a camera's clock goes back by a minute.
                stamp = now - 60 * (steps % 500 == 499)
                controller.act(rig.frames(), np.zeros(rig.spec.proprio_size), stamp=stamp)
                steps += 1
                if controller.stopped is not None:
                    stops += 1
                    controller.resume()
        found.add_row(f"{(now - begun) / 60:.1f}", f"{steps:,}", str(stops), f"{memory_mib():.1f}")
    console.print(found)


def main(options: Options) -> None:
    """Print all tables."""
    logging.disable(logging.WARNING)  # one line for each stop
    attack(options.commands)
    if options.steps:
        deadlines(options)
    if options.minutes:
        soak(options)


def read(arguments: list[str]) -> Options:
    """The options as typed. Raises UserError for one that is unknown or no number."""
    kinds: dict[str, Callable[[str], Any]] = {
        "commands": int,
        "steps": int,
        "minutes": float,
        "checkpoint": str,
        "deadlines_ms": lambda text: tuple(float(part) for part in text.split(",")),
    }
    values = {}
    for argument in arguments:
        name, _, value = argument.partition("=")
        try:
            values[name] = kinds[name](value)
        except (KeyError, ValueError):
            raise UserError(f"option {argument}: expected numbers for {', '.join(kinds)}") from None
    return Options(**values)


if __name__ == "__main__":
    try:
        main(read(sys.argv[1:]))
    except UserError as error:
        fail(str(error))

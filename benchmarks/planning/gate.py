"""The gate under attack, beside a busy process, and over time.

python -m benchmarks.planning.gate                                   # 10^6 hostile commands; deadlines of `push`
python -m benchmarks.planning.gate commands=10000 steps=100 minutes=5    # and memory, over 5 minutes of faults
python -m benchmarks.planning.gate commands=0 steps=0 minutes=60 hz=10   # an hour in real time, with a light planner

Options: `commands` of the vectorised check, `steps` of each measured controller, `minutes` of the soak (0: none) and
its control steps per second, `hz` (0: as many as there can be), `checkpoint`, and `deadlines_ms` as 40,80. The soak's
deadline is the last of these. Frames are noise, which costs as much as a scene does.
"""

from __future__ import annotations

import array
import contextlib
import dataclasses
import logging
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.options import read_all
from benchmarks.planning.hostile import live, sweep
from benchmarks.planning.memory import growth, memory_mib
from planning.flight import FlightConfig
from planning.gate import GateConfig
from planning.loading import choose_checkpoint, read_model
from planning.robot import RobotController, RobotDecision
from worldmodel.cli.command import fail
from worldmodel.cli.console import console
from worldmodel.cli.tables import table
from worldmodel.core.errors import UserError
from worldmodel.core.spec import EnvironmentSpec

HOSTILE_LIVES, STEPS_OF_A_LIFE = 10, 1_000
WARM_UP = 5


@dataclasses.dataclass(frozen=True)
class Options:
    """As typed; the module says what each means."""

    commands: int = 1_000_000
    steps: int = 200
    minutes: float = 0.0
    hz: float = 0.0
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


@dataclasses.dataclass
class Soaked:
    """What a soak has seen so far."""

    steps: int = 0
    stops: int = 0
    violations: int = 0
    late: int = 0
    taken_ms: array.array[float] = dataclasses.field(default_factory=lambda: array.array("d"))  # 8 bytes each
    hours: list[float] = dataclasses.field(default_factory=list)
    mib: list[float] = dataclasses.field(default_factory=list)

    def add(self, spec: EnvironmentSpec, decision: RobotDecision) -> None:
        """Count a decision, and whether it is outside of the action's bounds, or moves a robot that has to rest."""
        action, bounds = decision.action.astype(np.float64), spec.action
        inside = bool(((action >= np.array(bounds.low)) & (action <= np.array(bounds.high))).all())
        self.violations += not inside or (decision.fault is not None and bool(action.any()))
        self.steps += 1
        self.late += decision.late
        if decision.fault is None or decision.late:
            self.taken_ms.append(decision.plan_ms)

    def measure(self, begun: float) -> None:
        """Measure memory now, for a soak that began at `begun` [s]."""
        self.hours.append((time.monotonic() - begun) / 3600)
        self.mib.append(memory_mib())


def soak(options: Options) -> None:
    """Print the memory of a controller that records, flies, stops and resumes all the time.

    All dimensions of the checkpoint's action have to rest at zero.
    """
    rig, found = Rig(options.checkpoint), Soaked()
    deadline_ms = options.deadlines_ms[-1]
    light = {"planner": "random_shooting", "horizon": 3, "options.samples": 8, "options.action_repeat": 1}
    begun, used = time.monotonic(), time.process_time()
    ends = begun + 60 * options.minutes
    with tempfile.TemporaryDirectory() as folder:
        gate = GateConfig(deadline_s=deadline_ms / 1e3, frozen_after=3, most_age_s=1.0)
        flight = FlightConfig(Path(folder) / "flight", seconds=5.0)
        with rig.controller(gate, options=light, record=Path(folder) / "data.zarr", flight=flight) as controller:
            while (now := time.monotonic()) < ends:
                # Memory is measured a hundred times.
                if (now - begun) * 100 >= len(found.hours) * (ends - begun):
                    found.measure(begun)
                # After every 500 steps, a camera's clock goes back by a minute.
                stamp = now - 60 * (found.steps % 500 == 499)
                found.add(rig.spec, controller.act(rig.frames(), np.zeros(rig.spec.proprio_size), stamp=stamp))
                if controller.stopped is not None:
                    found.stops += 1
                    controller.resume()
                if options.hz:
                    time.sleep(max(0.0, begun + found.steps / options.hz - time.monotonic()))
            found.measure(begun)
    show_soak(found, f"{options.minutes:g} minutes, deadline {deadline_ms:g} ms", time.process_time() - used)


def show_soak(found: Soaked, title: str, processor_s: float) -> None:
    """Print what a soak has seen in `processor_s` of processor time."""
    memory = growth(found.hours, found.mib)
    columns = ("control steps", "stops", "violations", "late", "p50 [ms]", "p99 [ms]", "processor")
    rows = table(title, *columns)
    share = processor_s / (3600 * found.hours[-1])
    times = (f"{np.percentile(found.taken_ms, q):.1f}" for q in (50, 99))
    counts = (f"{found.steps:,}", str(found.stops), str(found.violations), str(found.late))
    rows.add_row(*counts, *times, f"{share:.0%}")
    console.print(rows)
    columns = ("start [MiB]", "after a tenth", "end", "most", "slope after a tenth [MiB/h]")
    rows = table("memory", *columns)
    rows.add_row(*(f"{value:.1f}" for value in (memory.start, memory.warm, memory.end, memory.most, memory.slope)))
    console.print(rows)
    course = table("memory over time", "minutes", "MiB")
    for at in range(0, len(found.hours), 10):
        course.add_row(f"{60 * found.hours[at]:.1f}", f"{found.mib[at]:.1f}")
    console.print(course)


def main(options: Options) -> None:
    """Print all tables."""
    logging.disable(logging.WARNING)  # one line for each stop
    if options.commands:
        attack(options.commands)
    if options.steps:
        deadlines(options)
    if options.minutes:
        soak(options)


if __name__ == "__main__":
    try:
        main(read_all(Options, sys.argv[1:]))
    except UserError as error:
        fail(str(error))

"""Where the time of a planned action goes, and how busy the machine is meanwhile.

python -m benchmarks.planning                           # the shipped push checkpoint, configs/planner/cem.yaml
python -m benchmarks.planning env=reacher checkpoint=reacher planner.options.samples=512

Options are those of planning.evaluate; pictures are noise, which costs as much as a scene does.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.machine import matrix_product_gflops
from planning.controller import Observations
from planning.loading import bounds_of, choose_checkpoint, load_model, open_env
from planning.policies import make_controller
from planning.registry import Planner, make_planner
from worldmodel.cli.command import composed, fail
from worldmodel.cli.console import console
from worldmodel.cli.tables import table
from worldmodel.core.device import pick_device
from worldmodel.core.errors import UserError
from worldmodel.models.keypoint.model import WorldModel

REPEATS, WARM_UP = 30, 4


def median_ms(functions: Sequence[Callable[[], object]], device: torch.device) -> list[float]:
    """Median time of a call of each [ms]. They take turns, so that a slow moment of the machine hits all alike."""
    times: list[list[float]] = [[] for _ in functions]
    for _ in range(WARM_UP + REPEATS):
        for function, taken in zip(functions, times, strict=True):
            begun = time.perf_counter()
            function()
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            taken.append((time.perf_counter() - begun) * 1e3)
    return [statistics.median(taken[WARM_UP:]) for taken in times]


class Parts:
    """What a plan for `batch` environments is made of, each part to be timed by itself."""

    def __init__(self, model: WorldModel, planner: Planner, batch: int, samples: int, device: torch.device) -> None:
        spec, rng = model.spec, np.random.default_rng(0)
        self.model, self.planner = model, planner
        self._pixels = rng.integers(
            0, 256, (batch, spec.only_camera.height, spec.only_camera.height, 3), dtype=np.uint8
        )
        self._proprio = np.zeros((batch, spec.proprio_size), np.float32)
        bounds, size = bounds_of(spec), len(spec.action.low)
        controller = planner.controller
        self.actions = 0.1 * torch.rand(batch, samples, controller.horizon, size).to(device)
        self._controller = make_controller(model, planner, bounds, self._pixels, device)
        self._history = [
            torch.as_tensor(np.repeat(x[:, None], controller.history, 1)).to(device)
            for x in (self._pixels, self._proprio)
        ]
        past = self.actions[:, 0, : controller.history - 1]
        with torch.no_grad():
            self.latent = model.encode(*self._history, past)
            self.goal = model.encode_goal(self._history[0][:, 0])
            self.imagined = model.rollout(self.latent, self.actions)
        self._past = past

    @torch.no_grad()
    def encode(self) -> object:
        return self.model.encode(*self._history, self._past)

    @torch.no_grad()
    def rollout(self) -> object:
        return self.model.rollout(self.latent, self.actions)

    @torch.no_grad()
    def judge(self) -> object:
        return self.planner.objective.reduce(self.model.distance(self.imagined, self.goal))

    def plan(self) -> object:
        return self._controller.act(Observations(self._pixels, self._proprio))


def main(overrides: list[str]) -> None:
    """Print the table."""
    config = composed("evaluate", overrides)
    device = pick_device(config.device)
    env, spec = open_env(config.env)
    env.close()
    checkpoint = choose_checkpoint(config.checkpoint or spec.env, spec.env)
    model = load_model(checkpoint, spec, device, config.precision, config.compile)
    planner = make_planner(config.planner, model.history, config.seed)
    dtype = torch.bfloat16 if config.precision == "bf16" else torch.float32
    title = f"{checkpoint.title}, {device}, {torch.get_num_threads()} threads, {config.precision}; median ms"
    columns = ("environments", "plan", "encode", "imagine", "judge", "search", "rollouts/s", "GFLOP/s", "share")
    found = table(title, *columns)
    for batch in (1, int(config.batch)):
        parts = Parts(model, planner, batch, int(config.planner.options.samples), device)
        before = matrix_product_gflops(dtype, device)
        plan, encode, rollout, judge = median_ms((parts.plan, parts.encode, parts.rollout, parts.judge), device)
        peak = (before + matrix_product_gflops(dtype, device)) / 2
        iterations = int(config.planner.options.get("iterations", 1))
        with FlopCounterMode(display=False) as counter:
            parts.rollout()
        sequences = parts.actions.shape[0] * parts.actions.shape[1]
        achieved = counter.get_total_flops() / rollout / 1e6
        search = plan - encode - iterations * (rollout + judge)
        row = [f"{x:.1f}" for x in (plan, encode, iterations * rollout, iterations * judge, search)]
        share = f"{achieved / peak:.0%} of {peak:.0f}"
        found.add_row(str(batch), *row, f"{1e3 * sequences / rollout:,.0f}", f"{achieved:.0f}", share)
    console.print(found)
    console.print(
        f"a rollout: one action sequence imagined {planner.controller.horizon} control steps ahead; "
        "share: of a matrix product's rate on this machine, measured in the same run"
    )


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except UserError as error:
        fail(str(error))

"""Whatever a model says and a robot shows: no command leaves the limits, and without a plan a robot rests."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from planning.actions.limits import ActionLimits
from planning.actions.safety import safe_actions
from planning.controller import Controller
from planning.objectives import ObjectiveConfig
from planning.registry import make_optimiser
from planning.strategy import ControllerConfig, Strategy
from tests.planning.optimisers.conformance import assert_allowed
from tests.planning.point_mass import POINT, PlaceGoal, PointLatent, PointModel
from worldmodel.core.observation import Observation
from worldmodel.core.spec import ActionSpec, EnvironmentSpec

# 0.2 and 0.1 are rounded up in single precision: a command of 0.2f would lie outside.
ARM = ActionSpec(
    (-100.0, -0.2, 0.0, 0.1),
    (80.0, 0.2, 1.0, 0.7),
    ("deg", "m/s", "", "m"),
    rest=("hold", "zero", "hold", 0.3),
    kinds=("continuous", "continuous", "binary", "continuous"),
    max_rate=(50.0, 1.0, None, 0.7),
    hold_from=(0, None, 1, None),
)
SPEC = dataclasses.replace(POINT, action=ARM)
BAD = torch.tensor([torch.nan, torch.inf, -torch.inf, 3e38, -3e38, 1e-38])
ROWS, STEPS = 100, 30  # far more in benchmarks/planning/hostile.py
_FEW = {"elites": 3, "iterations": 2}
OPTIONS: dict[str, dict[str, Any]] = {
    "adam": {"samples": 4, "iterations": 3},
    "cem": _FEW,
    "gradient_cem": _FEW,
    "icem": _FEW,
    "mixed": _FEW,
    "mppi": {"iterations": 2},
    "predictive_sampling": {},
    "random_shooting": {},
}


class Hostile(PointModel):
    """Imagines whatever: NaN, infinities, huge numbers and the wrong scale, or a future that makes sense, by turns."""

    def __init__(self, spec: EnvironmentSpec, seed: int) -> None:
        super().__init__(spec=spec)
        self._noise = torch.Generator().manual_seed(seed)

    def _any(self, shape: torch.Size) -> Tensor:
        return BAD[torch.randint(len(BAD), shape, generator=self._noise)]

    def imagine(self, latent: PointLatent, actions: Tensor) -> PointLatent:
        future = super().imagine(latent, actions[..., :2])
        share = torch.rand(1, generator=self._noise)
        broken = torch.rand(future.position.shape, generator=self._noise) < 1.5 * share - 0.25
        position = torch.where(broken, self._any(future.position.shape), future.position)
        return dataclasses.replace(future, position=position)

    def distance(self, latents: PointLatent, goal: PointLatent) -> Tensor:
        distance = super().distance(latents, goal)
        broken = torch.rand(distance.shape, generator=self._noise) < 0.1
        return torch.where(broken, self._any(distance.shape), distance)


def strange(rng: np.random.Generator) -> Observation:
    """Frames of noise, and readings that are finite and no more than that."""
    scale = 10.0 ** rng.uniform(-3, 38, (ROWS, 2))
    readings = rng.choice([rng.normal(size=(ROWS, 2)) * scale, rng.normal(size=(ROWS, 2))])
    readings = np.clip(readings, -3e38, 3e38).astype(np.float32)
    return Observation({"camera": rng.integers(0, 256, (ROWS, 16, 16, 3), np.uint8)}, readings)


@pytest.mark.parametrize("name", ["cem", "random_shooting"])
@pytest.mark.parametrize("execute", [pytest.param(1, marks=pytest.mark.slow), 3])
def test_no_command_leaves_the_limits(name: str, execute: int) -> None:
    """12,000 commands over the four of these."""
    options = {"samples": 8, "action_repeat": 2, **OPTIONS[name]}
    strategy = Strategy(make_optimiser(name, options), ObjectiveConfig(), ControllerConfig(5, execute))
    controller = Controller(Hostile(SPEC, execute), strategy, [PlaceGoal((0.1, 0.2))] * ROWS, torch.device("cpu"))
    rng, limits, last, replaced = np.random.default_rng(0), controller.limits, None, 0
    for _ in range(STEPS):
        seen = strange(rng)
        if last is None:
            shown = torch.from_numpy(seen.proprio)
            last = limits.clip(torch.stack([shown[:, 0], torch.zeros(ROWS), shown[:, 1], torch.full((ROWS,), 0.3)], 1))
        decision = controller.act(seen)
        actions = torch.from_numpy(decision.actions)
        assert_allowed(actions[:, None], last, ARM, SPEC.control_step_s)
        without = torch.from_numpy(decision.replaced)
        wanted = limits.project(limits.rest(last)[:, None], last)[:, 0]
        assert torch.equal(actions[without], wanted[without])
        replaced, last = replaced + int(without.sum()), actions
    assert 0.1 < replaced / (ROWS * STEPS) < 0.9


@pytest.mark.parametrize("name", sorted(OPTIONS))
def test_no_plan_leaves_the_limits(name: str) -> None:
    """30,000 commands for each of these, as an optimiser and the last gate give them, many rows at a time."""
    rows, noise = 1_000, torch.Generator().manual_seed(2)
    options = {"samples": 8, "action_repeat": 2, **OPTIONS[name]}
    strategy = Strategy(make_optimiser(name, options), ObjectiveConfig(), ControllerConfig(5))
    limits, memory = ActionLimits.of(ARM, SPEC.control_step_s), None

    def cost(actions: Tensor) -> Tensor:
        share = torch.rand(len(actions), 1, generator=noise) * 1.5 - 0.25
        broken = torch.rand(actions.shape[:2], generator=noise) < share
        chosen = torch.randint(len(BAD), broken.shape, generator=noise)
        return torch.where(broken, BAD[chosen], actions.square().sum((-1, -2)))

    last = 1e3 * torch.randn(rows, ARM.size, generator=noise)
    for step in range(30):
        plan = strategy.plan(cost, limits, last, step, memory)
        assert_allowed(plan.actions, last, ARM, SPEC.control_step_s)
        wanted = torch.where(torch.rand(rows, 1, generator=noise) < 0.2, torch.nan, plan.actions[:, 0])
        actions, replaced = safe_actions(wanted, limits, last)
        assert_allowed(actions[:, None], last, ARM, SPEC.control_step_s)
        rest = limits.project(limits.rest(last)[:, None], last)[:, 0]
        assert torch.equal(actions[replaced], rest[replaced])
        memory, last = plan.memory, actions

"""Every planner of the suite against the conformance test, and against what it alone promises."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from planning.actions.limits import ActionLimits
from planning.optimisers.icem import ICEM, ICEMConfig, KeptWarmStart
from planning.optimisers.mixed import Mixed, MixedConfig, schedules
from planning.optimisers.mppi import MPPI, MPPIConfig, path_weights
from planning.optimisers.predictive_sampling import PredictiveSampling, PredictiveSamplingConfig
from planning.registry import OPTIMISERS, make_optimiser
from planning.types import Optimiser, Problem
from tests.planning.optimisers.conformance import ARM_LIMITS, OptimiserConformance, ask, quadratic, solve
from worldmodel.core.errors import UserError
from worldmodel.core.spec import ActionSpec

GOLDEN = Path(__file__).parents[2] / "golden" / "planners_quadratic.json"
THOROUGH: dict[str, Any] = {"samples": 512, "iterations": 20, "elites": 32, "min_std": 0.01, "action_repeat": 1}


class TestICEM(OptimiserConformance):
    def make(self) -> Optimiser:
        return ICEM(ICEMConfig(**THOROUGH))


class TestMPPI(OptimiserConformance):
    tolerance = 0.1

    def options(self) -> dict[str, Any]:
        return {"samples": 1024, "iterations": 16, "action_repeat": 1, "std_decay": 0.8}

    def make(self) -> Optimiser:
        return MPPI(MPPIConfig(**self.options()))

    def make_careful(self) -> Optimiser:
        return MPPI(MPPIConfig(**self.options(), result="best"))


class TestPredictiveSampling(OptimiserConformance):
    tolerance = 0.35  # it is to improve over many control steps, and this is one

    def make(self) -> Optimiser:
        return PredictiveSampling(PredictiveSamplingConfig(samples=4096, std=1.0, action_repeat=5))


class TestMixed(OptimiserConformance):
    def make(self) -> Optimiser:
        return Mixed(MixedConfig(**THOROUGH))

    def make_careful(self) -> Optimiser:
        return Mixed(MixedConfig(**THOROUGH, result="best"))


class TestTwoSpreads(OptimiserConformance):
    def make(self) -> Optimiser:
        return make_optimiser("cem", {**THOROUGH, "narrow_share": 0.5, "result": "best"})


SMALL: dict[str, dict[str, Any]] = {
    "adam": {"samples": 4, "iterations": 6},
    "cem": {"samples": 32, "iterations": 3, "elites": 4},
    "gradient_cem": {"samples": 16, "iterations": 3, "elites": 4},
    "icem": {"samples": 32, "iterations": 3, "elites": 4},
    "mixed": {"samples": 32, "iterations": 3, "elites": 4},
    "mppi": {"samples": 32, "iterations": 3},
    "predictive_sampling": {"samples": 32},
    "random_shooting": {"samples": 32, "action_repeat": 2},
}


def golden_plan(name: str) -> Tensor:
    """What is planned for an arm with a rate limit, a resting and a binary dimension."""
    targets = torch.tensor([[40.0, 0.1, 1.0], [-20.0, -0.2, 0.0]])
    last = torch.tensor([[20.0, 0.0, 0.0], [0.0, 0.1, 1.0]])
    scale = torch.tensor([0.01, 1.0, 1.0])

    def cost(actions: Tensor) -> Tensor:
        return ((actions - targets[:, None, None]) * scale).square().sum((-1, -2))

    return solve(make_optimiser(name, SMALL[name]), Problem(cost, ARM_LIMITS, last, 6), seed=7).actions


@pytest.mark.parametrize("name", sorted(SMALL))
def test_golden_plan(name: str) -> None:
    """The plans that were made when the planner was written; see `golden_plan`."""
    golden = torch.tensor(json.loads(GOLDEN.read_text())[name])
    torch.testing.assert_close(golden_plan(name), golden, atol=1e-4, rtol=1e-5)


def test_every_planner_has_a_golden_plan() -> None:
    assert set(SMALL) == {name for name in OPTIMISERS.names() if name in OPTIMISERS._ours}


# --- iCEM ------------------------------------------------------------------------------------------------------------


def test_icem_draws_fewer_samples_in_later_iterations() -> None:
    judged: list[int] = []

    def cost(actions: Tensor) -> Tensor:
        judged.append(actions.shape[1])
        return actions.square().sum((-1, -2))

    optimiser = make_optimiser("icem", {"samples": 100, "iterations": 5, "elites": 20, "decay": 1.5})
    solve(optimiser, ask(torch.zeros(1, 2), cost=cost))
    assert judged == [100, 67, 44, 40, 40] and optimiser.evaluations == sum(judged)


@pytest.mark.parametrize("action_repeat", [1, 2])
def test_icem_evaluates_the_elites_of_its_last_plan_again(action_repeat: int) -> None:
    """What they leave, with rest at the end, is among the first candidates of the next plan."""
    seen: list[Tensor] = []

    def cost(actions: Tensor) -> Tensor:
        seen.append(actions)
        return quadratic(torch.tensor([[0.3, 1.1]]))(actions)

    optimiser = make_optimiser("icem", {"samples": 32, "elites": 10, "kept": 0.3, "action_repeat": action_repeat})
    problem = ask(torch.zeros(1, 2), cost=cost, horizon=6)
    memory = solve(optimiser, problem).memory
    assert isinstance(memory, KeptWarmStart) and memory.elites.shape == (1, 3, 6, 2)
    seen.clear()
    solve(optimiser, dataclasses.replace(problem, step=2), memory, seed=1)
    left = torch.cat([memory.elites[0, :, 2:], torch.zeros(3, 2, 2)], dim=1)
    torch.testing.assert_close(seen[0][0, 1:4], left)


def test_icem_keeps_its_best_from_iteration_to_iteration() -> None:
    seen: list[Tensor] = []

    def cost(actions: Tensor) -> Tensor:
        seen.append(actions)
        return quadratic(torch.tensor([[0.3, 1.1]]))(actions)

    solve(make_optimiser("icem", {"samples": 32, "elites": 4, "iterations": 2}), ask(torch.zeros(1, 2), cost=cost))
    best = seen[0][0, cost(seen[0])[0].argmin()]
    assert (seen[1][0] == best).flatten(1).all(1).any()


# --- MPPI ------------------------------------------------------------------------------------------------------------


def test_path_weights_by_hand() -> None:
    cost = torch.tensor([[1.0, 3.0, torch.inf], [2.0, 2.0, 2.0], [torch.inf] * 3, [-3e38, 0.0, 3e38]])
    weight = path_weights(cost, 0.5)  # the first row's standard deviation is 1
    expected = torch.tensor([1, math.exp(-4), 0]) / (1 + math.exp(-4))
    torch.testing.assert_close(weight[0], expected)
    torch.testing.assert_close(weight[1], torch.full((3,), 1 / 3))
    assert (weight[2] == 0).all()
    torch.testing.assert_close(weight[3].sum(), torch.tensor(1.0))
    torch.testing.assert_close(path_weights(7 * cost[:1], 0.5), weight[:1])


# --- predictive sampling ---------------------------------------------------------------------------------------------


def test_predictive_sampling_improves_over_control_steps() -> None:
    optimiser = make_optimiser("predictive_sampling", {"samples": 16, "action_repeat": 5, "std": 0.2})
    targets, memory, costs = torch.tensor([[0.3, 1.1]]), None, []
    for step in range(0, 50, 5):
        plan = solve(optimiser, ask(targets, horizon=10, step=step), memory, seed=step)
        memory = plan.memory
        costs.append(float(plan.cost))
    assert costs[-1] < 0.6 * costs[0]


# --- mixed -----------------------------------------------------------------------------------------------------------


def test_schedules_by_hand() -> None:
    assert schedules(3, 0).tolist() == [[False] * 3]
    assert {tuple(row) for row in schedules(3, 1).int().tolist()} == {(0, 0, 0), (1, 1, 1), (0, 1, 1), (0, 0, 1)}
    twice = schedules(4, 2)
    assert len(twice) == 1 + 4 + 6 == len(twice.unique(dim=0))
    changes = torch.diff(twice.int(), dim=1, prepend=torch.zeros(len(twice), 1, dtype=torch.int)).abs().sum(1)
    assert changes.max() == 2


@pytest.mark.parametrize("switches", [0, 1, 2])
def test_a_grip_switches_no_more_often_than_allowed(switches: int) -> None:
    """In every candidate, also in proposals and warm starts, and whatever the command in force."""

    def changes(actions: Tensor) -> Tensor:
        before = last[:, None, None, 2:].expand(-1, actions.shape[1], -1, -1)
        return torch.diff(actions[..., 2:], dim=2, prepend=before).abs().sum((-1, -2))

    def cost(actions: Tensor) -> Tensor:
        assert changes(actions).max() <= switches
        wanted = torch.tensor([1.0, 0.0, 1.0, 0.0, 1.0, 0.0])
        return (actions[..., 2] - wanted).abs().sum(-1)

    proposed = torch.rand(2, 5, 6, 3, generator=torch.Generator().manual_seed(3))
    options = {"samples": 32, "elites": 4, "action_repeat": 1, "switches": switches}
    optimiser, memory = make_optimiser("mixed", options), None
    for step in range(4):
        last = torch.tensor([[0.0, 0.0, step % 2], [0.0, 0.0, (step + 1) // 2 % 2]])
        problem = Problem(cost, ARM_LIMITS, last, 6, step, propose=lambda most, generator: proposed)
        plan = solve(optimiser, problem, memory)
        memory = plan.memory
        assert changes(plan.actions[:, None]).max() <= switches


def test_mixed_search_holds_a_grip_where_cem_does_not() -> None:
    """Only a grip that closes after three knots and stays closed costs less. All else is alike."""
    wanted = torch.tensor([0.0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1, 1])

    def cost(actions: Tensor) -> Tensor:
        return 1.0 - (actions[..., 2] == wanted).all(-1).float()

    problem = Problem(cost, ARM_LIMITS, torch.zeros(1, 3), 12)
    options = {"samples": 64, "elites": 8, "action_repeat": 1}
    found = {
        name: sum(float(solve(make_optimiser(name, options), problem, seed=seed).cost) == 0 for seed in range(20))
        for name in ("mixed", "cem")
    }
    assert found["mixed"] == 20 and found["cem"] <= 2


SPEED = ActionSpec((-0.3, -0.1), (0.3, 0.1), ("m/s", "m/s"), ("vx", "grip"))


def test_a_grip_that_is_a_speed_switches_too() -> None:
    """No other command is imagined or returned, the plan is held from step to step, and the rest stays continuous."""

    def cost(actions: Tensor) -> Tensor:
        assert ((actions[..., 1].abs() - 0.1).abs() < 1e-7).all()
        return (actions[..., 0] - 0.123).abs().sum(-1) + (actions[..., 1] + 0.1).sum(-1)

    optimiser, memory, last = make_optimiser("mixed", {"samples": 64, "switching": ["grip"]}), None, torch.zeros(1, 2)
    for step in range(3):
        plan = solve(optimiser, Problem(cost, ActionLimits.of(SPEED, 0.1), last, 12, step), memory)
        assert (plan.actions[..., 1] < 0).all()
        assert float((plan.actions[..., 0] - 0.123).abs().max()) < 0.05
        memory, last = plan.memory, plan.actions[:, 0]


def test_a_switching_action_that_does_not_exist_is_refused() -> None:
    problem = Problem(lambda actions: actions.sum((-1, -2)), ActionLimits.of(SPEED, 0.1), torch.zeros(1, 2), 12)
    with pytest.raises(UserError, match="unknown action to switch 'grib': choose from grip, vx"):
        solve(make_optimiser("mixed", {"switching": ["grib"]}), problem)


def test_too_many_schedules_are_refused() -> None:
    optimiser = make_optimiser("mixed", {"action_repeat": 1, "switches": 4})
    problem = Problem(lambda actions: actions.sum((-1, -2)), ARM_LIMITS, torch.zeros(1, 3), 30)
    with pytest.raises(UserError, match="switches=4 over 30 knots are 31,931 schedules"):
        solve(optimiser, problem)


# --- options ---------------------------------------------------------------------------------------------------------


def test_narrow_samples_lie_nearer_to_the_mean() -> None:
    seen: list[Tensor] = []

    def cost(actions: Tensor) -> Tensor:
        seen.append(actions)
        return actions.square().sum((-1, -2))

    options = {"samples": 1001, "iterations": 1, "initial_std": 0.2, "narrow_share": 0.25, "narrow_scale": 0.5}
    solve(make_optimiser("cem", options), ask(torch.zeros(1, 2), cost=cost))
    near, far = (part[0, :, 0, 0].std() for part in (seen[0][:, 1:251], seen[0][:, 251:]))
    assert near == pytest.approx(0.1, rel=0.15) and far == pytest.approx(0.2, rel=0.15)


@pytest.mark.parametrize(
    ("name", "options", "part"),
    [
        ("icem", {"kept": 1.5}, "kept 1.5"),
        ("icem", {"decay": 0.5}, "decay 0.5"),
        ("mppi", {"temperature": 0.0}, "temperature 0.0"),
        ("mppi", {"std_decay": 1.5}, "std_decay 1.5"),
        ("mppi", {"colour": -1.0}, "colour -1.0"),
        ("predictive_sampling", {"std": 0.0}, "std 0.0"),
        ("predictive_sampling", {"samples": 1}, "samples 1"),
        ("mixed", {"switches": -1}, "switches -1"),
        ("mixed", {"surprise": 2.0}, "surprise 2.0"),
        ("cem", {"narrow_share": 1.5}, "narrow_share 1.5"),
        ("cem", {"narrow_scale": 0.0}, "narrow_scale 0.0"),
        ("adam", {"samples": 0}, "samples 0"),
        ("adam", {"learning_rate": math.inf}, "learning_rate inf"),
        ("gradient_cem", {"gradient_steps": 0}, "gradient_steps 0"),
    ],
)
def test_options_that_make_no_sense_are_refused(name: str, options: dict[str, Any], part: str) -> None:
    with pytest.raises(UserError, match=part):
        make_optimiser(name, options)

"""Planners that follow the gradient of the cost, and the gradient itself against finite differences."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch
from torch import Tensor

from planning.actions.limits import ActionLimits
from planning.controller import Controller
from planning.objectives import LatentGoalCost, ObjectiveConfig
from planning.optimisers.descent import Descent
from planning.optimisers.judge import Judge
from planning.registry import make_optimiser, make_strategy
from planning.settings import read_settings
from planning.types import Optimiser, Problem
from tests.planning.optimisers.conformance import ARM_LIMITS, LIMITS, OptimiserConformance, ask, solve
from tests.planning.point_mass import POINT, PointModel, picture_of, show
from tests.planning.toy_model import make_model
from worldmodel.core.errors import UserError
from worldmodel.core.goal import ImageGoal
from worldmodel.core.observation import Observation
from worldmodel.core.spec import EnvironmentSpec, one_camera


class TestAdam(OptimiserConformance):
    def make(self) -> Optimiser:
        return make_optimiser("adam", {"samples": 16, "iterations": 60, "action_repeat": 1})


class TestGradientCEM(OptimiserConformance):
    def options(self) -> dict[str, object]:
        return {"samples": 64, "iterations": 12, "elites": 8, "min_std": 0.01, "action_repeat": 1}

    def make(self) -> Optimiser:
        return make_optimiser("gradient_cem", self.options())

    def make_careful(self) -> Optimiser:
        return make_optimiser("gradient_cem", {**self.options(), "result": "best"})


# --- against finite differences --------------------------------------------------------------------------------------


def assert_like_finite_differences(judge: Judge, knots: Tensor, within: float) -> None:
    """The gradient at `knots [B, S, K, A]` is that of central differences, in double precision."""
    _, slope = judge.gradient(knots)
    step, numeric = 1e-6, torch.zeros_like(knots)
    for place in np.ndindex(*knots.shape[2:]):
        off = torch.zeros_like(knots)
        off[(..., *place)] = step
        numeric[(..., *place)] = (judge.cost(knots + off) - judge.cost(knots - off)) / (2 * step)
    assert slope.abs().max() > 0
    torch.testing.assert_close(slope, numeric, atol=within, rtol=1e-4)


def in_double(limits: ActionLimits) -> ActionLimits:
    """The same limits in double precision, without which differences are all rounding."""
    parts = ("low", "high", "rest_value", "largest_change")
    return dataclasses.replace(limits, **{part: getattr(limits, part).double() for part in parts})


def test_the_gradient_through_all_limits() -> None:
    """Held knots, a limit on changes that binds in some places, and a binary dimension, which has no slope."""
    noise = torch.Generator().manual_seed(0)
    knots = torch.rand(2, 5, 3, 3, generator=noise, dtype=torch.float64) * 30
    knots[..., 1] = knots[..., 1] / 60
    knots[..., 2] = knots[..., 2] / 31

    def cost(actions: Tensor) -> Tensor:
        return (actions.sin() * torch.arange(1.0, 4)).sum((-1, -2)) + 0.01 * actions[..., 0].square().sum(-1)

    last = torch.tensor([[5.0, 0.0, 0.0], [25.0, 0.1, 1.0]], dtype=torch.float64)
    judge = Judge(Problem(cost, in_double(ARM_LIMITS), last, 6, step=1), 2)
    knots = torch.cat([knots, knots[:, :, :1]], dim=2)  # four knots, the first and the last of which are cut
    assert_like_finite_differences(judge, knots, 1e-6)
    assert (judge.gradient(knots)[1][..., 2] == 0).all()


@pytest.mark.parametrize("steps", ["mix", "discounted", "terminal"])
def test_the_gradient_through_a_keypoint_model(steps: str) -> None:
    """`Problem.cost` is differentiable through `imagine`, `distance` and the objective."""
    spec = EnvironmentSpec("toy", one_camera(32), 0.1, POINT.action, 2, 2, "sim")
    model = make_model(spec).double()
    rng = np.random.default_rng(1)
    images = {"camera": rng.integers(0, 256, (2, 32, 32, 3), np.uint8)}
    seen = Observation({"camera": images["camera"][:1]}, np.zeros((1, 2), np.float32))
    with torch.no_grad():
        model.float()
        latent, goal = model.observe(None, seen, None), model.goal(ImageGoal({"camera": images["camera"][1]}))
        model.double()
        latent, goal = (each.map(lambda part: part.double()) for each in (latent, goal))
    cost = LatentGoalCost(model, [latent], [goal], ObjectiveConfig(steps))
    limits = in_double(ActionLimits.of(spec.action, 0.1))
    judge = Judge(Problem(cost, limits, torch.zeros(1, 2, dtype=torch.float64), 5), 2)
    knots = torch.rand(1, 3, 3, 2, generator=torch.Generator().manual_seed(2), dtype=torch.float64) - 0.5
    _, slope = judge.gradient(knots)
    assert slope.abs().amax((1, 2, 3)).min() > 0
    # The model keeps its changes in single precision, so the differences are coarse and are taken in a direction.
    direction = slope / slope.norm()
    for step in (0.05, 0.02):
        ahead, behind = (judge.cost(knots + sign * step * direction).detach() for sign in (1, -1))
        rise = ((ahead - behind) / (2 * step)).sum()
        assert float(rise) == pytest.approx(float((slope * direction).sum()), rel=0.05)


# --- descent ---------------------------------------------------------------------------------------------------------


def test_a_step_is_as_long_as_the_rate_in_every_unit() -> None:
    """Whatever the size of the slope, as Adam has it: a tenth of half the range, away from the slope."""
    knots, slope = torch.zeros(1, 1, 1, 2), torch.tensor([[[[1e-6, -1e5]]]])
    moved, _ = Descent.begin(knots).step(knots, slope, 0.1, LIMITS)
    torch.testing.assert_close(moved.flatten(), torch.tensor([-0.1, 0.125]), rtol=1e-4, atol=0)


def test_a_step_stays_within_bounds() -> None:
    knots = LIMITS.high.expand(1, 1, 1, -1)
    moved, _ = Descent.begin(knots).step(knots, -torch.ones_like(knots), 0.5, LIMITS)
    assert torch.equal(moved, knots)


def test_descent_needs_far_fewer_evaluations_than_sampling_on_a_quadratic() -> None:
    targets = torch.tensor([[0.3, 1.1]])
    adam = make_optimiser("adam", {"samples": 1, "iterations": 24, "action_repeat": 1})
    sampled = make_optimiser("random_shooting", {"samples": 2400})
    assert adam.evaluations == 24
    assert solve(adam, ask(targets)).cost < solve(sampled, ask(targets)).cost


def test_refinement_makes_no_elite_worse() -> None:
    """The best cost of every iteration is at most that of the same samples without refinement."""

    def rough(actions: Tensor) -> Tensor:
        return (8 * actions).sin().sum((-1, -2)) + actions.square().sum((-1, -2))

    options = {"samples": 24, "iterations": 1, "elites": 4, "result": "best", "action_repeat": 1}
    problem = ask(torch.zeros(1, 2), cost=rough)
    for seed in range(5):
        plain = solve(make_optimiser("cem", options), problem, seed=seed)
        for rate in (0.05, 2.0):  # the second one jumps across several valleys
            refined = make_optimiser("gradient_cem", {**options, "learning_rate": rate})
            assert solve(refined, problem, seed=seed).cost <= plain.cost


# --- models without a gradient ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["adam", "gradient_cem"])
def test_a_model_without_a_gradient_is_refused_in_one_line(name: str) -> None:
    def cost(actions: Tensor) -> Tensor:
        return torch.from_numpy(actions.detach().numpy().sum((-1, -2)))

    with pytest.raises(UserError, match="follows the gradient of the cost, and this model gives none"):
        solve(make_optimiser(name, {}), ask(torch.zeros(1, 2), cost=cost))


@pytest.mark.parametrize("name", ["adam", "gradient_cem"])
def test_where_gradients_are_disabled_they_are_enabled_for_the_search(name: str) -> None:
    """A controller acts without gradients. The point reaches its goal all the same."""
    strategy = make_strategy(read_settings({"planner": name, "horizon": 4, "options.action_repeat": 1}), 0)
    controller = Controller(PointModel(), strategy, [picture_of([0.3, -0.2])], torch.device("cpu"))
    place = np.array([0.0, 0.0])
    for _ in range(8):
        decision = controller.act(show(place.tolist()))
        place = place + 0.1 * decision.actions[0].astype(np.float64)
    np.testing.assert_allclose(place, [0.3, -0.2], atol=0.05)
    assert math.isfinite(float(decision.predicted_cost[0]))


def test_only_planners_with_a_gradient_say_so() -> None:
    needs = {name: make_optimiser(name, {}).needs_gradient for name in ("adam", "gradient_cem", "cem", "mppi")}
    assert needs == {"adam": True, "gradient_cem": True, "cem": False, "mppi": False}


def test_a_slope_that_is_not_finite_moves_nothing() -> None:
    def cost(actions: Tensor) -> Tensor:
        return (actions[..., 0] - 0.5).abs().sqrt().sum(-1) * torch.where(actions[..., 1] > 0, torch.nan, 1.0).sum(-1)

    judge = Judge(ask(torch.zeros(1, 2), cost=cost), 5)
    _, slope = judge.gradient(torch.tensor([[[[0.2, 0.0]], [[0.2, 1.0]], [[0.5, 0.0]]]]))
    assert slope.isfinite().all() and slope[0, 0].abs().sum() > 0 and (slope[0, 1] == 0).all()

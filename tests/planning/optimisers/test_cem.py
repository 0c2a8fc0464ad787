from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from planning.actions.knots import from_knots, knot_lengths, shift, to_knots
from planning.actions.limits import ActionLimits
from planning.actions.noise import coloured_noise
from planning.optimisers.base import Search, WarmStart
from planning.optimisers.cem import CEM, CEMConfig, elite_weights
from planning.optimisers.random_shooting import RandomShooting, RandomShootingConfig
from planning.registry import make_optimiser
from planning.types import Optimiser, Plan, Problem
from tests.planning.optimisers.conformance import ARM_LIMITS, LIMITS, OptimiserConformance, ask, quadratic, solve
from worldmodel.core.errors import UserError
from worldmodel.core.spec import ActionSpec

GOLDEN = Path(__file__).parents[2] / "golden" / "cem_quadratic.json"
PLAIN = {"temperature": math.inf, "initial_std": 0.5, "action_repeat": 1}
THOROUGH = {"samples": 512, "iterations": 20, "elites": 32, "min_std": 0.01, **PLAIN}


def plan(optimiser: Optimiser, targets: Tensor, seed: int = 0, **changes: object) -> Plan:
    return solve(optimiser, ask(targets, **changes), seed=seed)


class TestCEM(OptimiserConformance):
    def make(self) -> Optimiser:
        return CEM(CEMConfig(**THOROUGH))

    def make_careful(self) -> Optimiser:
        return CEM(CEMConfig(**THOROUGH, result="best"))


class TestRandomShooting(OptimiserConformance):
    tolerance = 0.35  # it is the planner that any other has to beat

    def make(self) -> Optimiser:
        return RandomShooting(RandomShootingConfig(samples=4096, action_repeat=5))


class WrongShape(CEM):
    """A user's, whose candidates lack a dimension."""

    def draw(self, search: Search, limits: ActionLimits, generator: torch.Generator) -> Tensor:
        return super().draw(search, limits, generator)[..., 0]


def test_candidates_of_another_shape_are_refused_by_name() -> None:
    with pytest.raises(UserError, match=r"draw of WrongShape gives \[1, 511, 5\]: expected \[1, 511, 5, 2\]"):
        plan(WrongShape(CEMConfig(**THOROUGH)), torch.zeros(1, 2))


@pytest.mark.parametrize(
    "options", [{}, {"result": "best"}, {"action_repeat": 2}, {"colour": 2.0}, {"temperature": 0.1}]
)
def test_cem_finds_the_bounded_optimum_of_a_quadratic(options: dict) -> None:
    targets = torch.tensor([[0.3, 1.1], [-5.0, 9.0], [0.0, 0.0]])
    result = plan(CEM(CEMConfig(**{**THOROUGH, **options})), targets)
    wanted = LIMITS.clip(targets)[:, None].expand(-1, 5, -1)
    torch.testing.assert_close(result.actions, wanted, atol=0.05, rtol=0)


def test_cem_beats_random_shooting_with_the_same_number_of_samples() -> None:
    targets = torch.tensor([[0.3, 1.1]])
    cem = plan(CEM(CEMConfig(samples=64, iterations=8, elites=8)), targets).cost
    assert cem < plan(RandomShooting(RandomShootingConfig(samples=512)), targets).cost


def test_golden_plan() -> None:
    golden = json.loads(GOLDEN.read_text())
    config = CEMConfig(samples=32, iterations=3, elites=4, temperature=math.inf, initial_std=0.5, action_repeat=1)
    result = plan(CEM(config), torch.tensor(golden["targets"]), seed=7)
    torch.testing.assert_close(result.actions, torch.tensor(golden["actions"]), atol=1e-5, rtol=0)


@settings(deadline=None)
@given(data=st.data())
def test_elite_weights_favour_the_better_and_know_no_unit(data: st.DataObject) -> None:
    temperature = data.draw(st.sampled_from([0.05, 0.3, 1.0, torch.inf]))
    # Differences near the smallest number of single precision are rounded, and then know a unit.
    values = data.draw(st.lists(st.just(0.0) | st.floats(2.0**-100, 100, width=32), min_size=1, max_size=8))
    bad = data.draw(st.integers(0, 2))
    cost = torch.tensor(sorted(values) + [torch.inf] * bad)[None]
    weight = elite_weights(cost, temperature)
    torch.testing.assert_close(weight.sum(1), torch.ones(1))
    assert (weight.diff() <= 0).all() and (weight[cost.isinf()] == 0).all()
    torch.testing.assert_close(elite_weights(4 * cost, temperature), weight)


@pytest.mark.parametrize("cost", [[-3e38, 0.0, 3e38], [-1e-45, 0.0, 1e-45]])
@pytest.mark.parametrize("temperature", [1e-3, 0.1, 10.0, torch.inf])
def test_elite_weights_of_extreme_costs_are_finite(cost: list[float], temperature: float) -> None:
    weight = elite_weights(torch.tensor([cost]), temperature)
    torch.testing.assert_close(weight.sum(1), torch.ones(1))
    assert (weight.diff() <= 0).all()


def test_elite_weights_by_hand() -> None:
    cost = torch.tensor([[0.0, 1.0, 2.0], [3.0, 3.0, 3.0], [torch.inf] * 3])
    expected = torch.tensor([[1, torch.e**-1, torch.e**-2], [1, 1, 1], [0, 0, 0]])
    expected = expected / expected.sum(1, keepdim=True).clamp(min=1)
    torch.testing.assert_close(elite_weights(cost, 0.5), expected)
    torch.testing.assert_close(elite_weights(cost, torch.inf)[0], torch.full((3,), 1 / 3))


def test_a_low_temperature_follows_the_one_sample_that_found_the_way() -> None:
    """All samples cost the same but those in a corner of the space: the plain mean of the elites hardly moves."""

    def rare(actions: Tensor) -> Tensor:
        return torch.where((actions[..., 0] > 0.8).all(-1), 0.0, 1.0)

    def share(temperature: float) -> float:
        config = CEMConfig(
            samples=64, iterations=3, elites=16, temperature=temperature, initial_std=0.5, action_repeat=1
        )
        noise = torch.Generator().manual_seed(0)
        problem = Problem(rare, LIMITS, torch.zeros(1, 2), 2)
        costs = [CEM(config).plan(problem, None, noise).cost for _ in range(64)]
        return 1 - torch.cat(costs).mean().item()

    assert share(0.1) > share(torch.inf) + 0.2


def test_a_plan_is_remembered_as_it_was_made() -> None:
    result = plan(CEM(CEMConfig()), torch.tensor([[0.3, 1.1]]), step=7)
    assert isinstance(result.memory, WarmStart)
    assert torch.equal(result.memory.actions, result.actions) and result.memory.step.tolist() == [7]


@pytest.mark.parametrize("options", [{}, {"result": "best"}])
def test_the_first_mean_and_the_tail_rest(options: dict) -> None:
    """The first candidate of all, which is the mean that a search begins at, shows where it begins."""
    first: list[Tensor] = []

    def cost(actions: Tensor) -> Tensor:
        first.append(actions[:, 0])
        return torch.full(actions.shape[:2], torch.nan)

    last = torch.tensor([[20.0, 0.2, 1.0]])
    optimiser, problem = CEM(CEMConfig(**options, action_repeat=1)), Problem(cost, ARM_LIMITS, last, 4)
    solve(optimiser, problem)
    assert torch.equal(first[0], torch.tensor([[[20.0, 0.0, 1.0]] * 4]))
    made = torch.tensor([[[21.0, 0.1, 1.0], [22.0, 0.2, 1.0], [23.0, 0.3, 0.0], [24.0, 0.3, 0.0]]])
    first.clear()
    solve(optimiser, dataclasses.replace(problem, step=9, last=made[:, 1]), WarmStart(made, torch.tensor([7])))
    torch.testing.assert_close(first[0], torch.tensor([[[23.0, 0.3, 0.0], [24.0, 0.3, 0.0], *[[24.0, 0.0, 0.0]] * 2]]))


@given(st.integers(1, 9), st.integers(1, 5))
def test_knots_are_held_for_a_block(horizon: int, block: int) -> None:
    knots = torch.randn(2, 3, -(-horizon // block), 2)
    actions = from_knots(knots, block, horizon)
    assert actions.shape == (2, 3, horizon, 2)
    torch.testing.assert_close(to_knots(actions, block), knots)
    assert torch.equal(actions[:, :, horizon - 1], knots[:, :, -1])


@given(st.integers(1, 13), st.integers(1, 5), st.integers(0, 20))
def test_knots_keep_their_places_in_time(horizon: int, block: int, elapsed: int) -> None:
    knots = torch.randn(2, 3, len(knot_lengths(block, horizon, elapsed)), 2)
    actions = from_knots(knots, block, horizon, elapsed)
    assert actions.shape == (2, 3, horizon, 2)
    torch.testing.assert_close(to_knots(actions, block, elapsed), knots)
    times = elapsed + torch.arange(1, horizon)
    changes = (actions[:, :, 1:] != actions[:, :, :-1]).any(-1).any(0).any(0)
    assert changes.tolist() == (times % block == 0).tolist()


def test_the_next_plan_starts_from_this_one_as_it_is() -> None:
    """A plan that cannot be improved is followed to its end, however often it is made anew."""
    torch.manual_seed(0)
    followed = from_knots(torch.rand(1, 3, 2) - 0.5, 4, 12)
    optimiser = CEM(CEMConfig(samples=8, elites=2, action_repeat=4, initial_std=1e-9, min_std=0.0))
    memory = WarmStart(followed, torch.tensor([0]))
    for step in range(12):
        problem = Problem(lambda a: a.sum((-1, -2)), LIMITS, torch.zeros(1, 2), 12, step)
        result = optimiser.plan(problem, memory, torch.Generator())
        torch.testing.assert_close(result.actions[:, 0], followed[:, step], atol=1e-6, rtol=0)
        memory = result.memory


def test_shifting_beyond_the_end_leaves_an_idle_plan_inside_the_bounds() -> None:
    limits = ActionLimits.of(ActionSpec((0.5,), (1.0,), ("",)), 0.1)
    assert torch.equal(shift(torch.ones(1, 3, 1), 7, limits), torch.full((1, 3, 1), 0.5))
    holding = ActionLimits.of(ActionSpec((0.5,), (1.0,), ("",), rest=("hold",)), 0.1)
    assert torch.equal(shift(torch.ones(1, 3, 1), 7, holding), torch.ones(1, 3, 1))


@pytest.mark.parametrize("steps", [2, 7, 8])
@pytest.mark.parametrize("colour", [0.0, 1.0, 2.0])
def test_coloured_noise_has_unit_variance_and_its_colour(steps: int, colour: float) -> None:
    noise = coloured_noise(20000, steps, 2, colour, torch.Generator().manual_seed(0))
    torch.testing.assert_close(noise.var(0), torch.ones(steps, 2), atol=0.05, rtol=0)
    if steps > 2:
        neighbours = (noise[:, 1:] * noise[:, :-1]).mean()
        assert abs(neighbours) < 0.02 if colour == 0 else neighbours > 0.15


@pytest.mark.parametrize(
    ("options", "part"),
    [
        ({"elites": 200}, "elites 200"),
        ({"samples": 128, "elites": 128}, "elites 128"),
        ({"samples": 1}, "samples 1"),
        ({"temperature": 0.0}, "temperature 0.0"),
        ({"momentum": 1.0}, "momentum 1.0"),
        ({"initial_std": 0.0}, "initial_std 0.0"),
        ({"result": "worst"}, "choose from best, mean"),
        ({"sample": 12}, "did you mean samples"),
        ({"samples": 10**8}, "samples 100000000, iterations 4: at most 100,000 and 1,000 are accepted"),
        ({"iterations": 10**6}, "iterations 1000000"),
    ],
)
def test_options_that_make_no_sense_are_refused(options: dict, part: str) -> None:
    with pytest.raises(UserError, match=part):
        make_optimiser("cem", options)


def test_unknown_optimiser_lists_the_known_ones() -> None:
    with pytest.raises(UserError, match=r"choose from adam, cem, .*random_shooting .*did you mean cem"):
        make_optimiser("cam", {})


# --- deadlines -------------------------------------------------------------------------------------------------------


def test_a_deadline_cuts_the_search_and_gives_its_best(monkeypatch: pytest.MonkeyPatch) -> None:
    """A cost that takes 10 ms: until 35 ms there is time for three iterations, and the fourth would be too late."""
    now, seen = [100.0], list[Tensor]()
    monkeypatch.setattr("planning.optimisers.pace.time.monotonic", lambda: now[0])

    def cost(actions: Tensor) -> Tensor:
        now[0] += 0.01
        seen.append(quadratic(torch.tensor([[0.3, 1.1]]))(actions))
        return seen[-1]

    optimiser = CEM(CEMConfig(samples=16, iterations=5, elites=4))
    problem = ask(torch.tensor([[0.3, 1.1]]), cost=cost)
    found = solve(optimiser, dataclasses.replace(problem, deadline=100.035))
    assert len(seen) == 3
    assert float(found.cost) == float(torch.cat(seen).min())
    assert found.trace.isfinite().tolist() == [[True] * 3 + [False] * 2]
    seen.clear()
    solve(optimiser, dataclasses.replace(problem, deadline=0.0))  # it was over before: one iteration
    assert len(seen) == 1


def test_a_deadline_that_is_far_away_changes_nothing() -> None:
    optimiser = CEM(CEMConfig(samples=16, iterations=3, elites=4))
    problem = ask(torch.tensor([[0.3, 1.1], [-0.2, 0.4]]))
    without, far = solve(optimiser, problem), solve(optimiser, dataclasses.replace(problem, deadline=math.inf))
    assert torch.equal(without.actions, far.actions) and torch.equal(without.cost, far.cost)
    assert torch.equal(without.trace, far.trace)

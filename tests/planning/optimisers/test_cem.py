from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from planning.actions.knots import from_knots, knot_lengths, shift, to_knots
from planning.actions.noise import coloured_noise
from planning.optimisers.cem import CEM, CEMConfig, elite_weights
from planning.optimisers.random_shooting import RandomShooting, RandomShootingConfig
from planning.registry import OPTIMISERS, make_optimiser
from planning.types import Bounds, Optimiser, Plan
from worldmodel.core.errors import UserError

GOLDEN = Path(__file__).parents[2] / "golden" / "cem_quadratic.json"
BOUNDS = Bounds(torch.tensor([-1.0, -0.5]), torch.tensor([1.0, 2.0]))


def quadratic(targets: Tensor):
    """Cost of being away from `targets [B, A]` at every step."""
    return lambda actions: (actions - targets[:, None, None]).square().sum((-1, -2))


def plan(optimiser: Optimiser, targets: Tensor, horizon: int = 5, seed: int = 0) -> Plan:
    start = torch.zeros(len(targets), horizon, 2)
    return optimiser.plan(quadratic(targets), start, BOUNDS, torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("options", [{}, {"result": "best"}, {"block": 2}, {"colour": 2.0}, {"temperature": 0.1}])
def test_cem_finds_the_bounded_optimum_of_a_quadratic(options: dict) -> None:
    targets = torch.tensor([[0.3, 1.1], [-5.0, 9.0], [0.0, 0.0]])
    plain = {"temperature": math.inf, "initial_std": 0.5, "block": 1}
    config = CEMConfig(**{"samples": 512, "iterations": 20, "elites": 32, "min_std": 0.01, **plain, **options})
    result = plan(CEM(config), targets)
    wanted = BOUNDS.clip(targets)[:, None].expand(-1, 5, -1)
    torch.testing.assert_close(result.actions, wanted, atol=0.05, rtol=0)
    torch.testing.assert_close(result.cost, quadratic(targets)(result.actions[:, None])[:, 0])


def test_cem_beats_random_shooting_with_the_same_number_of_samples() -> None:
    targets = torch.tensor([[0.3, 1.1]])
    cem = plan(CEM(CEMConfig(samples=64, iterations=8, elites=8)), targets).cost
    assert cem < plan(RandomShooting(RandomShootingConfig(samples=512)), targets).cost


def test_golden_plan() -> None:
    golden = json.loads(GOLDEN.read_text())
    config = CEMConfig(samples=32, iterations=3, elites=4, temperature=math.inf, initial_std=0.5, block=1)
    result = plan(CEM(config), torch.tensor(golden["targets"]), seed=7)
    torch.testing.assert_close(result.actions, torch.tensor(golden["actions"]), atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", OPTIMISERS)
def test_a_row_gets_the_same_plan_in_any_company(name: str) -> None:
    golden = torch.tensor(json.loads(GOLDEN.read_text())["targets"])
    strangers = torch.tensor([[9.0, -9.0], [torch.nan, 0.0]])
    optimiser = make_optimiser(name, {})
    alone = plan(optimiser, golden[:1])
    together = plan(optimiser, torch.cat([strangers[:1], golden[:1], strangers[1:]]))
    torch.testing.assert_close(alone.actions[0], together.actions[1], atol=0, rtol=0)


@pytest.mark.parametrize("name", OPTIMISERS)
def test_same_generator_same_plan_and_another_one_another(name: str) -> None:
    optimiser, targets = make_optimiser(name, {"samples": 32}), torch.tensor([[0.3, 1.1]])
    first, second, third = (plan(optimiser, targets, seed=s) for s in (1, 1, 2))
    assert torch.equal(first.actions, second.actions)
    assert not torch.equal(first.actions, third.actions)


@pytest.mark.parametrize("name", OPTIMISERS)
@settings(deadline=None, max_examples=30)
@given(data=st.data())
def test_plans_stay_finite_and_within_bounds_whatever_the_cost_says(name: str, data: st.DataObject) -> None:
    seed = data.draw(st.integers(0, 2**31))
    bad = data.draw(st.sampled_from([torch.nan, torch.inf, -torch.inf]))
    share = data.draw(st.sampled_from([0.3, 0.95, 1.0]))
    noise = torch.Generator().manual_seed(seed)

    def cost(actions: Tensor) -> Tensor:
        values = quadratic(torch.ones(2, 2))(actions)
        return torch.where(torch.rand(values.shape, generator=noise) < share, bad, values)

    warm = 100 * torch.randn(2, 4, 2, generator=noise)
    result = make_optimiser(name, {"samples": 40, "block": 1}).plan(cost, warm, BOUNDS, noise)
    assert result.actions.isfinite().all()
    for actions in (result.actions, result.warm_start):
        assert (actions >= BOUNDS.low).all() and (actions <= BOUNDS.high).all()
    if share == 1.0:
        assert (result.cost == torch.inf).all()
        torch.testing.assert_close(result.actions, BOUNDS.clip(warm))  # the mean from before


def test_nan_never_becomes_elite() -> None:
    """The better half of the space is NaN: the plan must end in the other half."""

    def cost(actions: Tensor) -> Tensor:
        values = quadratic(torch.tensor([[1.0, 0.0]]))(actions)
        return torch.where(actions[..., 0].amax(-1) > 0, torch.nan, values)

    result = CEM(CEMConfig(result="best")).plan(
        cost, torch.full((1, 3, 2), -0.5), BOUNDS, torch.Generator().manual_seed(0)
    )
    assert result.cost.isfinite().all() and (result.actions[..., 0] <= 0).all()


@settings(deadline=None)
@given(data=st.data())
def test_elite_weights_favour_the_better_and_know_no_unit(data: st.DataObject) -> None:
    temperature = data.draw(st.sampled_from([0.05, 0.3, 1.0, torch.inf]))
    values = data.draw(st.lists(st.floats(0, 100, width=32), min_size=1, max_size=8))
    bad = data.draw(st.integers(0, 2))
    cost = torch.tensor(sorted(values) + [torch.inf] * bad)[None]
    weight = elite_weights(cost, temperature)
    torch.testing.assert_close(weight.sum(1), torch.ones(1))
    assert (weight.diff() <= 0).all() and (weight[cost.isinf()] == 0).all()
    torch.testing.assert_close(elite_weights(4 * cost, temperature), weight)


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
        config = CEMConfig(samples=64, iterations=3, elites=16, temperature=temperature, initial_std=0.5, block=1)
        noise = torch.Generator().manual_seed(0)
        costs = [CEM(config).plan(rare, torch.zeros(1, 2, 2), BOUNDS, noise).cost for _ in range(64)]
        return 1 - torch.cat(costs).mean().item()

    assert share(0.1) > share(torch.inf) + 0.2


def test_a_perfect_warm_start_is_kept_as_the_best() -> None:
    targets = torch.tensor([[0.2, 0.4]])
    start = targets[:, None].expand(-1, 4, -1)
    generator = torch.Generator().manual_seed(0)
    for optimiser in (CEM(CEMConfig(result="best", iterations=1)), RandomShooting(RandomShootingConfig())):
        assert optimiser.plan(quadratic(targets), start, BOUNDS, generator).cost == 0


def test_warm_start_is_the_plan_one_step_later() -> None:
    result = plan(CEM(CEMConfig()), torch.tensor([[0.3, 1.1]]))
    assert torch.equal(result.warm_start[:, :-1], result.actions[:, 1:])
    assert torch.equal(result.warm_start[:, -1], torch.zeros(1, 2))


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
    optimiser = CEM(CEMConfig(samples=8, elites=2, block=4, initial_std=1e-9, min_std=0.0))
    warm_start = followed
    for elapsed in range(12):
        result = optimiser.plan(lambda a: a.sum((-1, -2)), warm_start, BOUNDS, torch.Generator(), elapsed=elapsed)
        torch.testing.assert_close(result.actions[:, 0], followed[:, elapsed], atol=1e-6, rtol=0)
        warm_start = result.warm_start


def test_shifting_beyond_the_end_leaves_an_idle_plan_inside_the_bounds() -> None:
    bounds = Bounds(torch.tensor([0.5]), torch.tensor([1.0]))
    assert torch.equal(shift(torch.ones(1, 3, 1), 7, bounds), torch.full((1, 3, 1), 0.5))


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
    ],
)
def test_options_that_make_no_sense_are_refused(options: dict, part: str) -> None:
    with pytest.raises(UserError, match=part):
        make_optimiser("cem", options)


def test_unknown_optimiser_lists_the_known_ones() -> None:
    with pytest.raises(UserError, match="choose from cem, random_shooting"):
        make_optimiser("cam", {})

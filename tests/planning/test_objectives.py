from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from planning.objectives import LatentGoalCost, ObjectiveConfig, require_confidence
from tests.planning.point_mass import PlaceGoal, PointLatent, PointModel
from worldmodel.cli.command import composed
from worldmodel.core.errors import UserError

DISTANCE = torch.tensor([[[4.0, 1.0, 2.0]]])


@pytest.mark.parametrize(
    ("options", "cost"),
    [
        ({"steps": "terminal"}, 2.0),
        ({"steps": "mean"}, 7 / 3),
        ({"steps": "min"}, 1.0),
        ({"steps": "mix", "mean_weight": 0.3}, 2.7),
        ({"steps": "discounted", "discount": 0.5}, (4 + 0.5 + 0.5) / 1.75),
    ],
)
def test_steps_become_one_cost(options: dict, cost: float) -> None:
    torch.testing.assert_close(ObjectiveConfig(**options).reduce(DISTANCE), torch.tensor([[cost]]))


@pytest.mark.parametrize("steps", ["terminal", "mean", "min", "mix", "discounted"])
def test_a_future_that_breaks_down_has_no_finite_cost(steps: str) -> None:
    broken = torch.tensor([[[1.0, torch.nan, torch.nan]]])
    assert not ObjectiveConfig(steps=steps).reduce(broken).isfinite().any()


@given(st.integers(1, 20), st.sampled_from(["terminal", "mean", "discounted"]))
def test_weights_sum_to_one(horizon: int, steps: str) -> None:
    torch.testing.assert_close(ObjectiveConfig(steps=steps).step_weights(horizon).sum(), torch.tensor(1.0))


def test_latent_goal_cost_is_the_distance_at_the_end_of_the_rollout() -> None:
    model = PointModel()
    latents = [model.goal(PlaceGoal(place)) for place in ((0.0, 0.0), (0.2, 0.0))]
    goals = [model.goal(PlaceGoal(place)) for place in ((0.2, 0.0), (0.3, 0.0))]
    cost = LatentGoalCost(model, latents, goals, ObjectiveConfig(steps="terminal"))
    actions = torch.tensor([[[[1.0, 0.0], [1.0, 0.0]], [[0.0, 0.0], [0.0, 0.0]]]])  # arrives, or goes beyond; stays
    found = cost(actions.expand(2, -1, -1, -1))
    torch.testing.assert_close(found, torch.tensor([[0.0, 0.04], [0.01, 0.01]]), atol=2e-3, rtol=0)


@pytest.mark.parametrize("options", [{"steps": "sum"}, {"discount": 0.0}, {"mean_weight": -1.0}])
def test_options_that_make_no_sense_are_refused(options: dict) -> None:
    with pytest.raises(ValueError, match=str(next(iter(options.values())))):
        ObjectiveConfig(**options)


@pytest.mark.parametrize("command", ["run", "evaluate"])
def test_an_environment_may_be_judged_in_its_own_way_and_the_user_in_another(command: str) -> None:
    def steps(*overrides: str) -> str:
        chosen: str = composed(command, list(overrides)).planner.objective.steps
        return chosen

    assert (steps("env=push"), steps("env=reacher")) == ("mix", "mean")
    assert steps("env=reacher", "planner=random_shooting") == "mean"
    assert steps("env=reacher", "planner.objective.steps=terminal") == "terminal"
    assert steps("env=robot", "env.name=arm") == "mix"


# --- confidence ------------------------------------------------------------------------------------------------------


class Doubtful(PointModel):
    """Trusts the first step more than the second. Its error bound is 0.5 and 2."""

    has_confidence, with_confidence = True, False

    def confidence(self, latents: PointLatent) -> torch.Tensor:
        return torch.tensor([0.8, 0.2]).expand(latents.frames.shape)

    def error_bound(self, latents: PointLatent, level: float) -> torch.Tensor:
        assert level == 0.9
        return torch.tensor([0.5, 2.0]).expand(latents.frames.shape)


def imagined(model: PointModel) -> tuple[PointLatent, PointLatent]:
    start, goal = (model.goal(PlaceGoal(place)) for place in ((0.0, 0.0), (1.0, 0.0)))
    return model.imagine(start, torch.zeros(1, 1, 2, 2)), goal  # stays: the distance is 1 at both steps


def test_caution_adds_the_bound_of_the_error_to_every_distance() -> None:
    model = Doubtful()
    latents, goal = imagined(model)
    for caution, cost in ((0.0, 1.0), (1.0, 3.0), (0.5, 2.0)):
        objective = ObjectiveConfig(steps="terminal", caution=caution)
        assert objective.cost(model, latents, goal).item() == pytest.approx(cost, rel=1e-3)


def test_confidence_weighs_the_steps() -> None:
    model, objective = Doubtful(), ObjectiveConfig(steps="confident", discount=0.5, caution=1.0)
    latents, goal = imagined(model)
    expected = (0.8 * 1 * 1.5 + 0.2 * 0.5 * 3.0) / (0.8 * 1 + 0.2 * 0.5)
    assert objective.cost(model, latents, goal).item() == pytest.approx(expected, rel=1e-3)


def test_doubt_in_everything_does_not_make_a_plan_cheap() -> None:
    model = Doubtful()
    latents, goal = imagined(model)
    model.confidence = lambda latents: torch.zeros(latents.frames.shape)  # type: ignore[method-assign]
    assert ObjectiveConfig(steps="confident").cost(model, latents, goal).item() == pytest.approx(1.0, rel=1e-3)


@pytest.mark.parametrize("options", [{"caution": 0.5}, {"steps": "confident"}])
def test_a_model_that_cannot_doubt_is_refused(options: dict) -> None:
    with pytest.raises(UserError, match="needs a model that estimates its confidence"):
        require_confidence(PointModel(), ObjectiveConfig(**options))
    require_confidence(Doubtful(), ObjectiveConfig(**options))
    require_confidence(PointModel(), ObjectiveConfig())


@pytest.mark.parametrize("options", [{"caution": 0.5}, {"steps": "confident"}])
def test_a_model_imagines_with_confidence_only_for_an_objective_that_needs_it(options: dict) -> None:
    model, asked = Doubtful(), list[bool]()
    imagine = model.imagine
    model.imagine = lambda *given: (asked.append(model.with_confidence), imagine(*given))[1]  # type: ignore[method-assign]
    start, goal = (model.goal(PlaceGoal(place)) for place in ((0.0, 0.0), (1.0, 0.0)))
    for objective in (ObjectiveConfig(**options), ObjectiveConfig()):
        LatentGoalCost(model, [start], [goal], objective)(torch.zeros(1, 1, 2, 2))
        assert not model.with_confidence, "the next controller of this model need not pay for it"
    assert asked == [True, False]

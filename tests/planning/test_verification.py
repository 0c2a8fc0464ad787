"""Before a plan is executed, its end is looked at; what is not seen to lead nearer to the goal is not executed."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

from planning.controller import Controller
from planning.objectives import ObjectiveConfig
from planning.optimisers.cem import CEM, CEMConfig
from planning.strategy import ControllerConfig, Strategy
from planning.verification import Verification, make_verification
from tests.planning.point_mass import PlaceGoal, PointDecoder, PointLatent, PointModel, picture_of, show
from worldmodel.core.errors import UserError

CEM_CONFIG = CEMConfig(samples=48, iterations=3, elites=6, temperature=math.inf, initial_std=0.5, action_repeat=1)
STRATEGY = Strategy(CEM(CEM_CONFIG), ObjectiveConfig(), ControllerConfig(horizon=4))


class Deceived(PointModel):
    """Takes what leads away from the goal for what leads there."""

    def distance(self, latents: PointLatent, goal: PointLatent) -> torch.Tensor:
        return 4.0 - super().distance(latents, goal)


def make(model: PointModel, goals: list[Any], margin: float | None, decoder: Any = None) -> Controller:
    verification = make_verification(margin, model, PointDecoder() if decoder is None else decoder)
    return Controller(model, STRATEGY, goals, torch.device("cpu"), 1e-6, verification=verification)


def test_a_plan_that_leads_there_is_executed_as_if_nobody_had_looked() -> None:
    goals = [picture_of([0.5, -0.5])]
    looked_at, blind = make(PointModel(), goals, 0.2), make(PointModel(), goals, None)
    for place in ([0.0, 0.0], [0.1, -0.1]):
        decision, other = looked_at.act(show(place)), blind.act(show(place))
        np.testing.assert_array_equal(decision.actions, other.actions)
        assert not decision.refused[0] and not decision.replaced[0] and not other.refused[0]


def test_a_plan_whose_end_is_no_nearer_is_not_executed() -> None:
    goals = [picture_of([0.5, -0.5])]
    assert np.abs(make(Deceived(), goals, None).act(show([0.0, 0.0])).actions).max() > 0.1
    controller = make(Deceived(), goals, 0.0)
    for _ in range(2):
        decision = controller.act(show([0.0, 0.0]))
        np.testing.assert_array_equal(decision.actions, [[0, 0]])
        assert decision.refused[0] and decision.replaced[0] and decision.planned
        assert decision.imagined == (None,)


def test_the_margin_says_how_much_nearer_it_has_to_be() -> None:
    """Four steps of at most 0.1 m toward a goal half a metre away leave at least a fifth of the way."""
    goals = [picture_of([0.5, 0.0])]
    assert not make(PointModel(), goals, 0.5).act(show([0.0, 0.0])).refused[0]
    assert make(PointModel(), goals, 0.9).act(show([0.0, 0.0])).refused[0]


def test_every_row_is_looked_at_by_itself_and_goes_on_when_it_may() -> None:
    goals = [picture_of([0.5, 0.0]), picture_of([0.0, 0.0])]
    controller = make(PointModel(), goals, 0.1)
    decision = controller.act(show([0.0, 0.0], [0.0, 0.0]))
    assert decision.refused.tolist() == [False, True], "the second one is there already"
    decision = controller.act(show([0.1, 0.0], [0.5, 0.0]))
    assert decision.refused.tolist() == [False, False]
    assert decision.actions[1, 0] < -0.1


def test_sub_goals_are_compared_in_their_turn() -> None:
    controller = make(PointModel(), [[picture_of([0.0, 0.0]), picture_of([-0.5, 0.0])]], 0.1)
    decision = controller.act(show([0.0, 0.0]))
    assert decision.sub_goal[0] == 1 and not decision.refused[0]
    assert decision.actions[0, 0] < -0.1


class WithoutFeatures(PointDecoder):
    def features(self, images: Any) -> torch.Tensor:
        return super().features(images) * torch.nan


class WithoutCodes(PointDecoder):
    def code(self, latents: PointLatent) -> torch.Tensor:
        return super().code(latents) * torch.inf


@pytest.mark.parametrize("decoder", [WithoutFeatures(), WithoutCodes()])
def test_what_cannot_be_compared_is_not_executed(decoder: PointDecoder) -> None:
    decision = make(PointModel(), [picture_of([0.5, 0.0])], 0.0, decoder).act(show([0.0, 0.0]))
    assert decision.refused[0]
    np.testing.assert_array_equal(decision.actions, [[0, 0]])


@pytest.mark.parametrize("margin", [-0.1, 1.0, math.nan, math.inf, "much"])
def test_a_margin_that_is_none_is_refused(margin: Any) -> None:
    with pytest.raises(UserError, match="expected a number of at least 0 and below 1"):
        Verification(PointModel(), PointDecoder(), margin)


def test_it_needs_a_decoder_and_goal_images() -> None:
    with pytest.raises(UserError, match=r"verify=0\.1 needs a decoder of this world model, and there is none"):
        make_verification(0.1, PointModel(), None)
    assert make_verification(None, PointModel(), None) is None
    with pytest.raises(UserError, match="verify compares images, and the goal is a PlaceGoal"):
        make(PointModel(), [PlaceGoal((0.1, 0.2))], 0.1)

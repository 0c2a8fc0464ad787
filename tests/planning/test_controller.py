from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from planning.actions.safety import require_finite, safe_actions
from planning.controller import Controller, ControllerConfig, Observations
from planning.objectives import ObjectiveConfig
from planning.optimisers.cem import CEM, CEMConfig
from planning.types import Bounds
from tests.planning.point_mass import PointEnv, PointModel
from worldmodel.core.errors import UserError

BOUNDS = Bounds(torch.tensor([-1.0, -1.0]), torch.tensor([1.0, 1.0]))


def make_controller(model: PointModel, goals: list[list[float]], **options: int) -> Controller:
    pictures = np.stack([PointEnv().render_state(np.array(goal)) for goal in goals])
    config = ControllerConfig(**{"horizon": 4, "history": model.history, **options})
    optimiser = CEM(CEMConfig(samples=48, iterations=3, elites=6, temperature=math.inf, initial_std=0.5, block=1))
    return Controller(model, optimiser, ObjectiveConfig(), BOUNDS, config, pictures, torch.device("cpu"))


def drive(controller: Controller, starts: list[list[float]], steps: int, reset: tuple[int, int] | None = None):
    """Actions `[T, B, A]` and final positions `[B, 2]`; `reset=(step, row)` begins that row anew on the way."""
    envs, actions = [PointEnv() for _ in starts], []
    for env, start in zip(envs, starts, strict=True):
        env.reset(options={"state": start})
    for step in range(steps):
        if reset is not None and step == reset[0]:
            envs[reset[1]].reset(options={"state": starts[reset[1]]})
            controller.reset(reset[1], envs[0].render_state(np.array([0.5, -0.5])))
        decision = controller.act(Observations.stack([env.observe() for env in envs]))
        actions.append(decision.actions)
        for env, action in zip(envs, decision.actions, strict=True):
            env.step(action)
    return np.array(actions), np.stack([env.get_state() for env in envs])


@pytest.mark.parametrize("execute", [1, 3])
def test_point_masses_reach_their_goals(execute: int) -> None:
    goals = [[0.5, -0.5], [-0.4, 0.2]]
    _, ends = drive(make_controller(PointModel(), goals, execute=execute), [[0.0, 0.0], [0.5, 0.5]], 18)
    np.testing.assert_allclose(ends, goals, atol=0.05)


def test_a_row_acts_the_same_in_any_company() -> None:
    goals, starts = [[0.5, -0.5], [-0.4, 0.2]], [[0.0, 0.0], [0.5, 0.5]]
    together, _ = drive(make_controller(PointModel(), goals), starts, 8)
    alone, _ = drive(make_controller(PointModel(), goals[1:]), starts[1:], 8)
    np.testing.assert_array_equal(together[:, 1], alone[:, 0])


def test_a_reset_row_starts_afresh_and_leaves_the_others_alone() -> None:
    goals, starts = [[0.5, -0.5], [0.5, -0.5]], [[0.0, 0.0], [0.0, 0.0]]
    undisturbed, _ = drive(make_controller(PointModel(), goals), starts, 10)
    disturbed, _ = drive(make_controller(PointModel(), goals), starts, 10, reset=(4, 1))
    np.testing.assert_array_equal(disturbed[:, 0], undisturbed[:, 0])
    np.testing.assert_array_equal(disturbed[4:, 1], undisturbed[:6, 1])


def test_the_model_sees_at_most_its_history_and_the_actions_between() -> None:
    model = PointModel(history=3)
    controller = make_controller(model, [[0.5, -0.5]])
    actions, _ = drive(controller, [[0.0, 0.0]], 5)
    assert model.seen == [(1, 1), (1, 2), (1, 3), (1, 3), (1, 3)]
    assert model.last_actions is not None
    np.testing.assert_array_equal(model.last_actions[0], actions[2:4, 0])


def test_a_plan_is_executed_for_as_long_as_asked() -> None:
    controller = make_controller(PointModel(), [[0.5, -0.5]], execute=3)
    observation = Observations.stack([PointEnv().observe()])
    planned = [controller.act(observation).planned for _ in range(7)]
    assert planned == [True, False, False, True, False, False, True]


def test_a_broken_model_makes_a_row_stand_still_and_says_so() -> None:
    controller = make_controller(PointModel(broken_rows=(1,)), [[0.5, -0.5], [0.5, -0.5]])
    decision = controller.act(Observations.stack([PointEnv().observe()] * 2))
    assert decision.replaced.tolist() == [False, True]
    assert np.abs(decision.actions[0]).max() > 0.1
    np.testing.assert_array_equal(decision.actions[1], [0, 0])
    assert decision.predicted_cost[1] == np.inf
    np.testing.assert_allclose(decision.distance, 0.5, atol=0.02)


def test_an_observation_that_is_not_finite_is_refused() -> None:
    controller = make_controller(PointModel(), [[0.5, -0.5], [0.5, -0.5]])
    fine, broken = PointEnv().observe(), PointEnv().observe()
    broken["proprio"][1] = np.nan
    with pytest.raises(UserError, match="proprio of environment 1"):
        controller.act(Observations.stack([fine, broken]))


def test_too_few_observations_are_refused() -> None:
    with pytest.raises(UserError, match="1 observations for a controller of 2"):
        make_controller(PointModel(), [[0.5, -0.5]] * 2).act(Observations.stack([PointEnv().observe()]))


@pytest.mark.parametrize("options", [{"execute": 5}, {"execute": 0}, {"horizon": 0}, {"history": 0}])
def test_options_that_make_no_sense_are_refused(options: dict) -> None:
    with pytest.raises(ValueError, match=r"must be"):
        ControllerConfig(**{"horizon": 4, **options})


def test_safe_actions_test_for_nan_before_clipping() -> None:
    bounds = Bounds(torch.tensor([0.25, -1.0]), torch.tensor([1.0, 1.0]))
    wanted = torch.tensor([[0.5, 5.0], [torch.nan, 0.5], [torch.inf, 0.0]])
    actions, replaced = safe_actions(wanted, bounds)
    assert torch.equal(actions, torch.tensor([[0.5, 1.0], [0.25, 0.0], [0.25, 0.0]]))
    assert replaced.tolist() == [False, True, True]


def test_require_finite_lets_finite_readings_pass() -> None:
    require_finite(torch.zeros(2, 3), "proprio")

"""Looking, imagining, judging and planning in a few lines, with errors that say what was received."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest

from planning import Planner
from tests.planning.point_mass import POINT, PlaceGoal, PointEnv, PointModel
from worldmodel.core.errors import UserError
from worldmodel.core.spec import ActionSpec

HERE, GOAL = (PointEnv().render_state(np.array(place)) for place in ([0.0, 0.0], [0.3, -0.2]))
FELT = [0.0, 0.0]
HOLDING = dataclasses.replace(POINT, action=ActionSpec((-1.0, -1.0), (1.0, 1.0), ("m", "m"), rest=("hold", "zero")))


@pytest.fixture
def planner() -> Planner:
    options = {
        "horizon": 4,
        "options.samples": 64,
        "options.elites": 8,
        "options.action_repeat": 1,
        "options.iterations": 8,
    }
    return Planner(PointModel(), options)


def test_a_few_lines(planner: Planner) -> None:
    latent = planner.observe(HERE, FELT)
    futures = planner.imagine(latent, np.array([[[1.0, 0.0]] * 3, [[0.0, 0.0]] * 3]))
    distances = planner.distance(futures, GOAL)
    assert distances.shape == (2, 3)
    np.testing.assert_allclose(distances[:, -1], [0.04, 0.13], atol=0.02)
    assert planner.distance(latent, GOAL).shape == ()
    plan = planner.plan(latent, GOAL)
    assert plan.actions.shape == (4, 2) and plan.trace.shape == (8,)
    np.testing.assert_allclose(0.1 * plan.actions.sum(0), [0.3, -0.2], atol=0.06)
    assert planner.plan(latent, PlaceGoal((0.3, -0.2))).cost == pytest.approx(plan.cost, abs=0.02)
    again = planner.observe({"camera": HERE}, FELT, latent, [0.1, 0.0])
    assert float(again.frames) == 2


@pytest.mark.parametrize(
    ("ask", "message"),
    [
        (
            lambda p, z: p.observe(HERE[:8], FELT),
            r"image of camera is uint8 \[8, 16, 3\]: expected uint8 \[16, 16, 3\]",
        ),
        (lambda p, z: p.observe({"front": HERE}, FELT), "unknown camera 'front': choose from camera"),
        (lambda p, z: p.observe(HERE, [0.0]), r"proprio is float64 \[1\]: expected finite numbers \[2\]"),
        (lambda p, z: p.observe(HERE, FELT, z), "previous and action belong together"),
        (lambda p, z: p.observe(HERE, FELT, z, [1.0]), r"action is float64 \[1\]: expected finite numbers \[2\]"),
        (lambda p, z: p.imagine(z, [[1.0, 0.0]]), r"actions have shape \[1, 2\]: expected \[S, H, 2\]"),
        (lambda p, z: p.imagine(z, np.zeros((3, 4, 5))), r"actions is float64 \[3, 4, 5\]: expected .* \[3, 4, 2\]"),
        (lambda p, z: p.imagine(z, np.full((1, 2, 2), np.nan)), r"actions\[0\]\[0\]\[0\] is nan"),
        (lambda p, z: p.plan(z, "nowhere.png"), "nowhere.png does not exist"),
        (lambda p, z: p.plan(z, HERE / 255), "goal of camera is float64"),
        (lambda p, z: p.plan(z, GOAL, command=[1.0]), r"command is float64 \[1\]"),
        (lambda p, z: p.distance(z, None), "goal of camera is missing"),
    ],
)
def test_what_does_not_fit_is_refused_in_words(planner: Planner, ask: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        ask(planner, planner.observe(HERE, FELT))


def test_where_actions_hold_the_command_in_force_is_needed() -> None:
    planner = Planner(PointModel(spec=HOLDING), {"horizon": 3})
    latent = planner.observe(HERE, FELT)
    with pytest.raises(UserError, match=r"action action_0 holds its last command"):
        planner.plan(latent, GOAL)
    with_reading = dataclasses.replace(HOLDING, action=dataclasses.replace(HOLDING.action, hold_from=(0, None)))
    with pytest.raises(
        UserError, match=r"action action_0 holds its last command: give it, command=\[...\] \(2 numbers\)"
    ):
        Planner(PointModel(spec=with_reading), {"horizon": 3}).plan(latent, GOAL)
    assert planner.plan(latent, GOAL, command=[0.5, 0.0]).actions.shape == (3, 2)

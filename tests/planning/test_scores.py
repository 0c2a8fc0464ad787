"""Each score grows with what it is for, and with nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch

from planning.alarms import Check
from planning.controller import Controller
from planning.monitor import Monitor
from planning.scores import DRIFT_STEPS
from tests.planning.knowing_point import KnowingPoint
from tests.planning.point_mass import PointModel, picture_of, show
from tests.planning.test_controller import make_strategy
from worldmodel.core.observation import Observation

CPU = torch.device("cpu")


def controller_of(model: Any) -> Controller:
    return Controller(model, make_strategy(), [picture_of([1.0, 1.0])], CPU, watcher=Monitor(model, {}, 1, "go_on"))


def live(model: Any, errors: Sequence[float], start: float = -1.0) -> list[dict[Check, float]]:
    """Scores of steps that each end `errors` [m] further right than the model imagines."""
    controller, place, scores = controller_of(model), np.array([start, start]), []
    for error in (*errors, 0.0):
        decision = controller.act(show(place.tolist()))
        scores.append(dict(decision.scores[0]))
        place = place + 0.1 * decision.actions[0] + np.array([error, 0.0])
    return scores


def seen(shown: Sequence[float], felt: Sequence[float]) -> Observation:
    """The image shows one place, and the robot feels another."""
    return Observation(show(list(shown)).images, np.array([felt], np.float32))


def test_errors_that_agree_add_up_to_drift_and_others_cancel() -> None:
    bias = 0.06
    same, other = (live(KnowingPoint(), errors)[-1] for errors in ([bias] * 6, [bias, -bias] * 3))
    # The distance is squared, and an image is read to 0.01 m.
    assert same[Check.DRIFT] == pytest.approx((DRIFT_STEPS * bias) ** 2, rel=0.15)
    assert other[Check.DRIFT] < 0.02 * same[Check.DRIFT]
    assert same[Check.SURPRISE] == pytest.approx(other[Check.SURPRISE], rel=0.5), "one step alone tells nothing"


def test_drift_needs_its_steps_in_a_row() -> None:
    scores = live(KnowingPoint(), [0.06] * 6)
    assert not any(each[Check.DRIFT] for each in scores[:DRIFT_STEPS]) and scores[DRIFT_STEPS][Check.DRIFT] > 0
    model = KnowingPoint()
    controller = controller_of(model)
    for _ in range(DRIFT_STEPS):
        controller.act(show([0.0, 0.0]))
    controller.look_anew(0)
    for _ in range(DRIFT_STEPS):
        assert controller.act(show([0.0, 0.0])).scores[0][Check.DRIFT] == 0


def test_drift_is_of_the_commands_that_were_given() -> None:
    controller, place, given = controller_of(KnowingPoint()), np.zeros(2), np.array([-1.0, 0.5], np.float32)
    for _ in range(6):
        drift = controller.act(show(place.tolist())).scores[0][Check.DRIFT]
        controller.was_given(0, given)
        place = place + 0.1 * given
    assert drift < 0.002


def test_stillness_is_motion_that_the_image_does_not_show() -> None:
    controller = controller_of(KnowingPoint())
    places = [([0.0, 0.0], [0.0, 0.0]), ([0.1, 0.0], [0.1, 0.0]), ([0.1, 0.0], [0.2, 0.0]), ([0.1, 0.0], [0.2, 0.0])]
    first, moved, frozen, rests = (
        controller.act(seen(shown, felt)).scores[0][Check.STILLNESS] for shown, felt in places
    )
    assert first == 0 and rests == 0, "an image may stay as it is where nothing moves"
    assert frozen > 10 * moved > 0


def test_a_robot_that_feels_nothing_moves_as_it_is_told() -> None:
    controller = controller_of(PointModel())
    still = [controller.act(show([0.0, 0.0])).scores[0][Check.STILLNESS] for _ in range(2)]
    controller.was_given(0, np.zeros(2, np.float32))
    resting = controller.act(show([0.0, 0.0])).scores[0][Check.STILLNESS]
    assert still[0] == 0 and still[1] > 10 and resting == 0

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from planning.robot import RobotController
from planning.threads import one_plan, settle_threads
from tests.planning.point_mass import PointModel
from tests.planning.test_controller import make_strategy
from worldmodel.core import threads
from worldmodel.core.errors import UserError
from worldmodel.core.goal import ImageGoal
from worldmodel.core.machine import num_processors
from worldmodel.core.threads import threads_kept

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def as_before():
    with threads_kept():
        yield


def black_goal(model: PointModel) -> ImageGoal:
    return ImageGoal({camera.name: np.zeros(camera.shape, np.uint8) for camera in model.spec.cameras})


def test_what_is_measured_is_one_plan_each_time() -> None:
    model = PointModel()
    plan = one_plan(model, make_strategy(execute=3), [black_goal(model)], CPU)
    assert all(plan().planned for _ in range(4))  # type: ignore[attr-defined]


def test_auto_measures_and_a_number_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    model, measured = PointModel(), []
    monkeypatch.setattr(threads, "choose_threads", lambda measure: measured.append(measure) or 1)
    settle_threads("auto", model, make_strategy(), [black_goal(model)], CPU)
    assert len(measured) == 1
    settle_threads(1, model, make_strategy(), [black_goal(model)], CPU)
    assert len(measured) == 1 and torch.get_num_threads() == 1


@pytest.mark.parametrize("wanted", [0, -1, 10_000, True, "many"])
def test_other_numbers_are_refused(wanted: int | str) -> None:
    model = PointModel()
    with pytest.raises(UserError, match=f"expected auto, or a whole number from 1 to {num_processors()}"):
        settle_threads(wanted, model, make_strategy(), [black_goal(model)], CPU)


def test_a_robot_refuses_them_too() -> None:
    goal = Path(__file__).parents[2] / "docs" / "assets" / "push_goal.png"
    with pytest.raises(UserError, match="threads 'all'"):
        RobotController("push", goal, device="cpu", threads="all")

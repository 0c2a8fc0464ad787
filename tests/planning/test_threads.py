from __future__ import annotations

import threading
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
from worldmodel.core.threads import map_in_threads, threads_kept

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


def test_parts_that_are_done_side_by_side_keep_their_order_and_the_number_of_threads() -> None:
    torch.set_num_threads(2)
    seen: dict[int, tuple[str, int]] = {}

    def work(part: int) -> int:
        seen[part] = threading.current_thread().name, torch.get_num_threads()
        return part * part

    assert map_in_threads(work, range(9), CPU) == [part * part for part in range(9)]
    assert {count for _, count in seen.values()} == {1}
    assert threading.current_thread().name not in {name for name, _ in seen.values()}
    assert torch.get_num_threads() == 2
    assert map_in_threads(work, range(3), torch.device("meta")) == [0, 1, 4]
    assert {seen[part] for part in range(3)} == {(threading.current_thread().name, 2)}

    def fail(part: int) -> None:
        raise ValueError(part)

    with pytest.raises(ValueError, match="0"):
        map_in_threads(fail, range(3), CPU)
    assert torch.get_num_threads() == 2

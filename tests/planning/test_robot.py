"""A robot is given actions within bounds, and whatever it shows is checked first."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from planning.robot import RobotController
from tests.worldmodel.toy import SPEC, draw, make_model
from worldmodel.core.errors import UserError

FAST = ("planner.options.samples=16", "planner.options.iterations=2", "planner.options.elites=4", "planner.horizon=3")
GOAL = draw(np.array([4.0, 20.0]))
SEEN, FELT = draw(np.array([12.0, 8.0])), [12.0, 8.0]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    make_model().save(folder, {})
    return folder


def make(checkpoint: Path, goal: Any = GOAL, **options: Any) -> RobotController:
    return RobotController(checkpoint, goal, FAST, device="cpu", precision="fp32", **options)


def test_actions_are_within_the_bounds_of_the_recording(checkpoint: Path) -> None:
    controller = make(checkpoint)
    assert controller.spec == SPEC
    distances = []
    for column in range(12, 2, -2):
        decision = controller.act(draw(np.array([column, 8.0])), [column, 8.0])
        assert decision.action.shape == (2,) and decision.action.dtype == np.float32
        assert (np.abs(decision.action) <= 4).all()
        assert not decision.replaced
        distances.append(decision.distance)
    assert len(set(distances)) == 5


def test_the_same_seed_and_the_same_history_give_the_same_actions(checkpoint: Path) -> None:
    first, again, other = make(checkpoint), make(checkpoint), make(checkpoint, seed=1)
    acted = [[c.act(SEEN, FELT).action.tolist() for _ in range(2)] for c in (first, again, other)]
    assert acted[0] == acted[1] != acted[2]
    first.toward(GOAL)
    assert [first.act(SEEN, FELT).action.tolist() for _ in range(2)] == acted[0]


def test_a_goal_is_a_file_or_an_array(checkpoint: Path, tmp_path: Path) -> None:
    Image.fromarray(GOAL).save(tmp_path / "goal.png")
    goals = (tmp_path / "goal.png", GOAL, draw(np.array([20.0, 0.0])))
    from_file, from_array, elsewhere = (make(checkpoint, goal).act(SEEN, FELT).distance for goal in goals)
    assert from_file == from_array != elsewhere


def test_it_is_there_when_the_picture_is_as_near_as_was_said(checkpoint: Path) -> None:
    distance = make(checkpoint).act(SEEN, FELT).distance
    for scale, reached in ((0.99, False), (1.01, True)):
        assert make(checkpoint, reached_distance=scale * distance).act(SEEN, FELT).reached is reached


@pytest.mark.parametrize(
    ("pixels", "proprio", "message"),
    [
        (SEEN[:16], FELT, r"pixels is uint8 [16, 32, 3]: expected uint8 [32, 32, 3]"),
        (SEEN / 255, FELT, r"pixels is float64 [32, 32, 3]: expected uint8"),
        (None, FELT, r"pixels is missing: expected uint8"),
        (SEEN, [1.0], r"proprio is float64 [1]: expected finite numbers [2]"),
        (SEEN, [1.0, math.nan], r"proprio[1] is nan: expected finite numbers [2]"),
        (SEEN, [1e300, 1.0], r"proprio[0] is 1e+300: expected finite numbers [2] within float32"),
        (SEEN, [[1.0], [2.0, 3.0]], r"proprio is not an array: expected finite numbers [2]"),
        (SEEN, ["a", "b"], r"expected finite numbers [2]"),
    ],
)
def test_what_a_robot_may_not_show(checkpoint: Path, pixels: Any, proprio: Any, message: str) -> None:
    controller, undisturbed = make(checkpoint), make(checkpoint)
    with pytest.raises(UserError, match=re.escape(message)):
        controller.act(pixels, proprio)
    assert controller.act(SEEN, FELT).action.tolist() == undisturbed.act(SEEN, FELT).action.tolist()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"goal": SEEN[:, :16]}, r"goal is uint8 \[32, 16, 3\]: expected uint8 \[32, 32, 3\]"),
        ({"goal": "nowhere.png"}, "nowhere.png does not exist"),
        ({"checkpoint": "nowhere"}, "nowhere"),
        ({"device": "abacus"}, "device 'abacus'"),
        ({"options": ["planner.horizn=3"]}, "did you mean planner.horizon"),
        ({"options": ["device=cuda"]}, "option 'device=cuda': expected one of the planner's"),
        ({"options": [3]}, "option 3: expected one of the planner's"),
        ({"options": "planner.horizon=3"}, "options is the text 'planner.horizon=3': expected a list"),
    ],
)
def test_what_cannot_be_used_is_refused(checkpoint: Path, change: dict[str, Any], message: str) -> None:
    given = {"checkpoint": checkpoint, "goal": GOAL, "options": FAST, "device": "cpu", **change}
    with pytest.raises(UserError, match=message):
        RobotController(**given)


def test_the_lines_in_the_document_work(checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Robot:
        acted = 0

        def observe(self) -> tuple[np.ndarray, list[float]]:
            return SEEN, FELT

        def act(self, action: np.ndarray) -> None:
            assert action.shape == (2,)
            self.acted += 1

    text = (Path(__file__).parents[2] / "docs" / "robot.md").read_text()
    (lines,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs" / "arm").mkdir(parents=True)
    (tmp_path / "runs" / "arm" / "model").symlink_to(checkpoint)
    Image.fromarray(GOAL).save("goal.jpg")
    robot = Robot()
    exec(lines.replace("range(100)", "range(2)"), {"robot": robot})
    assert robot.acted == 2

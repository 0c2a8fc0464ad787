"""A robot is given actions within bounds, and whatever it shows is checked first."""

from __future__ import annotations

import math
import os
import re
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from planning.calibration import read_calibration
from planning.robot import RobotController
from tests.planning.toy_model import save_model
from worldmodel.core.errors import UserError
from worldmodel.core.goal import ImageGoal, TextGoal
from worldmodel.core.spec import ActionSpec, CameraSpec, EnvironmentSpec, one_camera

ROOT = Path(__file__).parents[2]
SIZE = 32
SPEC = EnvironmentSpec(
    env="toy",
    cameras=one_camera(SIZE),
    control_step_s=0.1,
    action=ActionSpec((-4.0, -4.0), (4.0, 4.0), ("pixels", "pixels")),
    proprio_size=2,
    state_size=0,
    simulator="none 1.0",
)
# Two cameras of other sizes, joint angles that hold and have a limit on their speed, a gripper.
ARM = EnvironmentSpec(
    env="arm",
    cameras=(CameraSpec("front", 32, 48), CameraSpec("wrist", 16, 16)),
    control_step_s=0.05,
    action=ActionSpec(
        (-90.0,) * 6 + (0.0,),
        (90.0,) * 6 + (1.0,),
        ("deg",) * 6 + ("",),
        rest=("hold",) * 7,
        kinds=("continuous",) * 6 + ("binary",),
        max_rate=(60.0,) * 6 + (None,),
    ),
    proprio_size=3,
    state_size=0,
    simulator="none 1.0",
)
FAST = ("planner.options.samples=16", "planner.options.iterations=2", "planner.options.elites=4", "planner.horizon=3")


def draw(position: np.ndarray) -> np.ndarray:
    """A picture `[32, 32, 3]` with a 6-pixel square whose upper left corner is at `position` (column, row)."""
    pixels = np.full((SIZE, SIZE, 3), 40, np.uint8)
    column, row = np.round(position).astype(int)
    pixels[row : row + 6, column : column + 6] = (250, 200, 60)
    return pixels


GOAL = draw(np.array([4.0, 20.0]))
SEEN, FELT = draw(np.array([12.0, 8.0])), [12.0, 8.0]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rng = np.random.default_rng(0)
    frames = np.stack([draw(rng.uniform(0, 26, 2)) for _ in range(24)])
    return save_model(tmp_path_factory.mktemp("model"), SPEC, {"camera": frames})


@pytest.fixture(scope="module")
def arm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("arm"), ARM)


def make(checkpoint: Path, goal: Any = GOAL, **options: Any) -> RobotController:
    return RobotController(checkpoint, goal, FAST, device="cpu", precision="fp32", threads=1, **options)


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
        (SEEN[:16], FELT, r"image of camera is uint8 [16, 32, 3]: expected uint8 [32, 32, 3]"),
        (SEEN / 255, FELT, r"image of camera is float64 [32, 32, 3]: expected uint8"),
        (None, FELT, r"image of camera is missing: expected uint8"),
        (SEEN, [1.0], r"proprio is float64 [1]: expected finite numbers [2]"),
        (SEEN, [1.0, math.nan], r"proprio[1] is nan: expected finite numbers [2]"),
        (SEEN, [1e300, 1.0], r"proprio[0] is 1e+300: expected finite numbers [2] within float32"),
        (SEEN, [[1.0], [2.0, 3.0]], r"proprio is not an array: expected finite numbers [2]"),
        (SEEN, ["a", "b"], r"expected finite numbers [2]"),
        ({"front": SEEN}, FELT, r"unknown camera 'front': choose from camera"),
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
        ({"goal": SEEN[:, :16]}, r"goal of camera is uint8 \[32, 16, 3\]: expected uint8 \[32, 32, 3\]"),
        ({"goal": []}, r"goal has 0 entries: expected a picture, or a list of 1 to 1,000"),
        ({"goal": [[GOAL]]}, "visited in turn"),
        ({"goal": 3}, "goal of camera is int64"),
        ({"goal": TextGoal("push it")}, "cannot read a TextGoal: expected ImageGoal"),
        ({"goal": {"front": GOAL}}, "unknown camera 'front'"),
        ({"goal_fit": "stretch"}, "unknown goal_fit 'stretch': choose from crop, letterbox"),
        ({"reached_distance": math.nan}, "reached_distance is nan: expected a number above 0"),
        ({"reached_distance": -1}, "reached_distance is -1"),
        ({"goal": "nowhere.png"}, "nowhere.png does not exist"),
        ({"checkpoint": "nowhere"}, "nowhere"),
        ({"device": "abacus"}, "device 'abacus'"),
        ({"options": ["planner.horizn=3"]}, "unknown option of the planner 'horizn'.*did you mean horizon"),
        ({"options": {"horizn": 3}}, "did you mean horizon"),
        ({"options": {"horizon": "far"}}, "planner option horizon is 'far': expected a whole number"),
        ({"options": {"options.samples": 10**9}}, "samples 1000000000"),
        ({"options": {"horizon": 10**4, "options.samples": 10**4}}, r"100,000,000 states.* some 95 GiB: at most"),
        ({"options": {"planner": "cam"}}, "unknown planner 'cam': choose from adam, .*cem, gradient_cem, guided, icem"),
        ({"options": {"objective": {"steps": "sum"}}}, "choose from confident, discounted"),
        ({"options": ["device=cuda"]}, "unknown option of the planner 'device'"),
        ({"options": [3]}, "option 3: expected an option of the planner"),
        ({"options": ["horizon=[1"]}, "cannot be read: expected a value as in YAML"),
        ({"gate": 0.1}, "gate is 0.1: expected a GateConfig, or None"),
        ({"record": 3}, "record is 3: expected the folder of a trajectory store, or None"),
        ({"flight": True}, "flight is True: expected a folder or a FlightConfig, or None"),
        ({"options": "planner.horizon=3"}, "options is the text 'planner.horizon=3': expected a list"),
    ],
)
def test_what_cannot_be_used_is_refused(checkpoint: Path, change: dict[str, Any], message: str) -> None:
    given = {"checkpoint": checkpoint, "goal": GOAL, "options": FAST, "device": "cpu", **change}
    with pytest.raises(UserError, match=message):
        RobotController(**given)


def test_options_are_a_mapping_or_texts_with_the_same_meaning(checkpoint: Path) -> None:
    texts = make(checkpoint)
    for options in (
        {"horizon": 3, "options.samples": 16, "options.iterations": 2, "options.elites": 4},
        {"horizon": 3, "options": {"samples": 16, "iterations": 2, "elites": 4}},
        ["horizon=3", "options.samples=16", "options.iterations=2", "options.elites=4", "options.temperature=1e-1"],
    ):
        texts.toward(GOAL)
        mapping = RobotController(checkpoint, GOAL, options, device="cpu", precision="fp32")
        assert mapping.act(SEEN, FELT).action.tolist() == texts.act(SEEN, FELT).action.tolist()
    other = RobotController(checkpoint, GOAL, {"planner": "random_shooting", "horizon": 3}, device="cpu")
    assert other.act(SEEN, FELT).action.tolist() != texts.act(SEEN, FELT).action.tolist()


def test_a_buffer_that_is_used_again_changes_nothing(checkpoint: Path) -> None:
    """A camera's driver writes the next frame where the last one was: "before" must not become "now"."""
    fresh, reusing, buffer = make(checkpoint), make(checkpoint), np.empty_like(SEEN)
    for column in range(12, 2, -3):
        frame, felt = draw(np.array([column, 8.0])), [column, 8.0]
        buffer[:] = frame
        wanted = fresh.act(frame, felt)
        assert reusing.act(buffer, felt).action.tolist() == wanted.action.tolist()


def test_two_threads_at_once_are_refused(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    controller, undisturbed = make(checkpoint), make(checkpoint)
    inside, leave, whole = threading.Event(), threading.Event(), controller._controller.act

    def slow(*arguments: Any) -> Any:
        inside.set()
        leave.wait(10)
        return whole(*arguments)

    monkeypatch.setattr(controller._controller, "act", slow)
    with ThreadPoolExecutor(1) as threads:
        first = threads.submit(controller.act, SEEN, FELT)
        inside.wait(10)
        for other in (lambda: controller.act(SEEN, FELT), lambda: controller.toward(GOAL)):
            with pytest.raises(UserError, match="acting in another thread: expected one thread"):
                other()
        leave.set()
        assert first.result().action.tolist() == undisturbed.act(SEEN, FELT).action.tolist()
    assert controller.act(SEEN, FELT).action.tolist() == undisturbed.act(SEEN, FELT).action.tolist()


def test_goals_in_turn_in_any_form(checkpoint: Path, tmp_path: Path) -> None:
    Image.fromarray(GOAL).save(tmp_path / "goal.png")
    goals = [SEEN, tmp_path / "goal.png", ImageGoal({"camera": GOAL}), {"camera": GOAL}]
    decision = make(checkpoint, goals, reached_distance=1e-3).act(SEEN, FELT)
    assert decision.sub_goal == 1 and not decision.reached  # the first one was there already
    assert make(checkpoint, [SEEN], reached_distance=1e3).act(SEEN, FELT).reached
    assert decision.details.trace.shape == (1, 2) and decision.details.imagined[0] is not None


def test_a_picture_of_other_proportions_is_fitted_by_the_stated_rule(checkpoint: Path, tmp_path: Path) -> None:
    Image.fromarray(np.pad(GOAL, ((0, 0), (20, 20), (0, 0)))).save(tmp_path / "wide.png")
    cropped, whole = (make(checkpoint, goal).act(SEEN, FELT).distance for goal in (tmp_path / "wide.png", GOAL))
    letterboxed = make(checkpoint, tmp_path / "wide.png", goal_fit="letterbox").act(SEEN, FELT).distance
    assert cropped == whole != letterboxed


# --- an arm with two cameras, whose commands hold --------------------------------------------------------------------


def test_an_arm_that_holds(arm: Path, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    seen = {camera.name: rng.integers(0, 256, camera.shape, np.uint8) for camera in ARM.cameras}
    Image.fromarray(rng.integers(0, 256, (100, 120, 3), np.uint8)).save(tmp_path / "a.png")
    goal = {"front": tmp_path / "a.png", "wrist": seen["wrist"]}
    controller = RobotController(arm, goal, FAST, device="cpu")
    with pytest.raises(UserError, match=r"action action_0 holds its last command, .*command=\[\.\.\.\] \(7 numbers\)"):
        controller.act(seen, np.zeros(3))
    last = np.array([10, -20, 30, 88, -88, 0, 1], np.float32)
    for step in range(5):
        decision = controller.act(seen, np.zeros(3), command=last if step == 0 else None)
        change = np.abs(decision.action - last)
        assert (change[:6] <= 60 * 0.05).all() and decision.action[6] in (0, 1)
        last = decision.action
    with pytest.raises(UserError, match=r"command is int64 \[2\]: expected finite numbers \[7\]"):
        controller.act(seen, np.zeros(3), command=[1, 2])
    with pytest.raises(UserError, match=r"image is a single one: expected one for each camera, {front: ..."):
        controller.act(seen["front"], np.zeros(3))
    with pytest.raises(UserError, match=r"goal is one picture, and arm has several cameras: .*{front: front.png"):
        RobotController(arm, tmp_path / "a.png", FAST, device="cpu")


def test_a_robots_process_needs_neither_simulator_nor_command_line(arm: Path) -> None:
    """What its computer does not have, nothing may import."""
    lines = """
import sys
import numpy as np
from planning.robot import RobotController
pictures = {"front": np.zeros((32, 48, 3), np.uint8), "wrist": np.zeros((16, 16, 3), np.uint8)}
controller = RobotController(sys.argv[1], pictures, {"horizon": 3, "options.samples": 8, "options.elites": 2})
controller.act(pictures, np.zeros(3), command=np.zeros(7))
banned = ("envs", "gymnasium", "hydra", "omegaconf", "rich", "mujoco", "dm_control", "matplotlib")
print(sorted(name for name in sys.modules if name.partition(".")[0] in banned))
"""
    line = [sys.executable, "-c", lines, str(arm)]
    ended = subprocess.run(line, cwd=ROOT, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(ROOT)})
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout == "[]\n"


def test_the_lines_in_the_document_work(checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Robot:
        acted = 0

        @property
        def seen_at(self) -> float:
            return time.monotonic()

        def person_says(self, word: str) -> bool:
            return word == "success"

        def observe(self) -> tuple[np.ndarray, list[float]]:
            return SEEN, FELT

        def act(self, action: np.ndarray) -> None:
            assert action.shape == (2,)
            self.acted += 1

    text = (ROOT / "docs" / "robot.md").read_text()
    loop, gated, monitored = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs" / "arm").mkdir(parents=True)
    (tmp_path / "runs" / "arm" / "model").symlink_to(checkpoint)
    Image.fromarray(GOAL).save("goal.jpg")
    robot = Robot()
    names: dict[str, Any] = {"robot": robot}
    exec(loop.replace("range(100)", "range(2)").replace('.jpg")', '.jpg", reached_distance=1e-9)'), names)
    assert robot.acted == 2
    exec(gated.replace("range(100)", "range(6)").replace("deadline_s=0.1", "deadline_s=60"), names)
    assert robot.acted == 8
    assert names["decision"].fault.kind == "frozen"  # the fifth frame in a row
    names["goals"] = ["goal.jpg"] * 28
    exec(monitored.replace("range(100)", "range(2)"), names)
    assert read_calibration(Path("runs/arm/monitor.json")).runs == 28
    assert sorted(path.name for path in Path("runs/arm/flight").iterdir()) == ["data.zarr", "flight-0000.npz"]

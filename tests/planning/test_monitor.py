"""A monitor is silent as long as all is well, and tells every failure of the toy world."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from planning.actions.limits import ActionLimits
from planning.alarms import Alarm, Check
from planning.calibration import Calibration, hash_of
from planning.controller import Controller
from planning.evaluation.policies import WorldModelPolicy
from planning.evaluation.watched import RunLog, WatchedRun, watch_all, watch_episodes
from planning.faults import FaultKind
from planning.gate import GateConfig
from planning.loading import Checkpoint
from planning.monitor import Monitor, MonitorConfig
from planning.robot import RobotController
from planning.settings import read_settings
from tests.planning.knowing_point import KINDS, FailingPoint, KnowingPoint, draw_pairs
from tests.planning.point_mass import PlaceGoal, PointModel, picture_of, show
from tests.planning.test_controller import make_strategy
from tests.planning.test_robot import FAST, FELT, GOAL, SIZE, SPEC, draw
from tests.planning.toy_model import save_model
from worldmodel.core.errors import UserError
from worldmodel.core.goal import ImageGoal
from worldmodel.core.spec import ActionSpec
from worldmodel.core.statistics import wilson_interval

CPU, BUDGET, WINDOW, ALPHA = torch.device("cpu"), 30, 2, 0.1


def policy_with(monitor: Monitor, model: Any) -> WorldModelPolicy:
    return WorldModelPolicy(model, make_strategy(), CPU, watcher=monitor)


def run_nominal(count: int, seed: int, folder: Path) -> list[WatchedRun]:
    model = KnowingPoint()
    policy = policy_with(Monitor(model, {}, WINDOW, "go_on"), model)
    envs = [FailingPoint() for _ in range(10)]
    return watch_all(envs, draw_pairs(count, seed), policy, BUDGET, RunLog(folder / f"{seed}.jsonl"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def calibrated(folder: Path) -> Calibration:
    runs = run_nominal(60, 0, folder)
    assert all(run.reached for run in runs)
    belongs_to = {"checkpoint": "c", "planner": "p", "budget": BUDGET, "window": WINDOW}
    return Calibration.of([run.peaks for run in runs], ALPHA, **belongs_to)


# --- alarms ----------------------------------------------------------------------------------------------------------


def test_without_a_failure_there_are_no_more_alarms_than_allowed(calibrated: Calibration, folder: Path) -> None:
    runs = run_nominal(60, 1, folder)
    false = sum(calibrated.normalised(run.peaks) > calibrated.limit for run in runs)
    assert wilson_interval(false, len(runs))[0] <= ALPHA


@pytest.mark.parametrize("kind", KINDS)
def test_every_failure_raises_an_alarm(calibrated: Calibration, kind: str) -> None:
    model, since = KnowingPoint(), 3
    policy = policy_with(Monitor(model, calibrated.thresholds, WINDOW, "go_on"), model)
    pairs = list(enumerate(draw_pairs(8, 2)))
    runs = watch_episodes([FailingPoint(kind, since) for _ in pairs], pairs, policy, BUDGET)
    for run in runs:
        each = [{Check(name): values[t] for name, values in run.scores.items()} for t in range(run.steps)]
        alarmed = [t for t, scores in enumerate(each) if calibrated.normalised(scores) > calibrated.limit]
        # One in ten runs may have a false alarm before; this is the failure's own.
        assert alarmed and alarmed[-1] >= since, (kind, run)


def only_surprise(calibrated: Calibration) -> dict[Check, float]:
    return {Check.SURPRISE: calibrated.thresholds[Check.SURPRISE]}


def act_until_alarm(monitor: Monitor, model: KnowingPoint) -> tuple[Controller, FailingPoint, list[Any]]:
    controller = Controller(model, make_strategy(), [picture_of([1.0, 1.0])], CPU, watcher=monitor)
    env, decisions = FailingPoint("pushed_away", 4), list[Any]()
    env.reset(options={"state": [-1.0, -1.0]})
    for _ in range(8):
        decisions.append(controller.act(show(env.get_state().tolist())))
        env.step(decisions[-1].actions[0])
    return controller, env, decisions


def test_an_alarm_says_which_and_since_when_and_lasts(calibrated: Calibration) -> None:
    model = KnowingPoint()
    monitor = Monitor(model, only_surprise(calibrated), WINDOW, "go_on")
    controller, env, decisions = act_until_alarm(monitor, model)
    alarms = [decision.alarm[0] for decision in decisions]
    assert alarms[:4] == [None] * 4 and isinstance(alarms[4], Alarm)
    assert alarms[4].since_step == 4 and alarms[4].check == Check.SURPRISE and alarms[4].score > alarms[4].threshold
    assert alarms[4:] == [alarms[4]] * 4 and not any(decision.replaced[0] for decision in decisions)
    controller.reset(0, picture_of([1.0, 1.0]))
    assert controller.act(show(env.get_state().tolist())).alarm == (None,)


@pytest.mark.parametrize(("on_alarm", "factor"), [("stop", 0.0), ("slow", 0.5), ("go_on", 1.0)])
def test_an_alarm_stops_slows_or_changes_nothing(on_alarm: str, factor: float) -> None:
    model, place = KnowingPoint(), show([-1.0, -1.0])
    goal = [picture_of([1.0, 1.0])]
    alone = Controller(model, make_strategy(), goal, CPU).act(place).actions
    monitor = Monitor(model, {Check.SURPRISE: -1.0}, WINDOW, on_alarm)  # no score is that small
    decision = Controller(model, make_strategy(), goal, CPU, watcher=monitor).act(place)
    np.testing.assert_allclose(decision.actions, factor * alone, atol=1e-6)
    assert np.abs(alone).max() > 0.1 and decision.alarm[0] is not None


def test_only_motions_are_slowed_and_all_limits_hold() -> None:
    """A position that holds goes half of the way; a gripper and a dimension with a rest of its own are as planned."""
    action = ActionSpec(
        (-1.0,) * 4, (1.0,) * 4, ("m", "m/s", "", ""), rest=("hold", "zero", 0.5, "zero"),
        kinds=("continuous", "continuous", "continuous", "binary"), max_rate=(2.0, None, None, None),
    )  # fmt: skip
    model = KnowingPoint(spec=dataclasses.replace(PointModel.spec, action=action))
    monitor = Monitor(model, {}, WINDOW, "slow")
    limits, last = ActionLimits.of(action, 0.1), torch.tensor([[0.4, 0.9, 0.0, -1.0]])
    slowed = monitor._held_back(torch.tensor([[0.6, 0.8, 0.1, 1.0]]), limits, last)
    torch.testing.assert_close(slowed, torch.tensor([[0.5, 0.4, 0.1, 1.0]]))


def test_rows_have_alarms_of_their_own(calibrated: Calibration) -> None:
    model = KnowingPoint()
    monitor = Monitor(model, only_surprise(calibrated), WINDOW, "stop")
    goals = [picture_of([1.0, 1.0]), picture_of([1.0, 1.0])]
    controller = Controller(model, make_strategy(), goals, CPU, watcher=monitor)
    envs = [FailingPoint("pushed_away", 2), FailingPoint()]
    for env in envs:
        env.reset(options={"state": [-1.0, -1.0]})
    for _ in range(4):
        decision = controller.act(show(*(env.get_state().tolist() for env in envs)))
        for env, action in zip(envs, decision.actions, strict=True):
            env.step(action)
    assert decision.alarm[0] is not None and decision.alarm[1] is None
    assert not decision.actions[0].any() and decision.actions[1].any()


def test_a_number_that_is_none_raises_an_alarm() -> None:
    model = KnowingPoint(broken_beyond=0.5)
    monitor = Monitor(model, {Check.SURPRISE: 1e9}, WINDOW, "go_on")
    controller = Controller(model, make_strategy(), [picture_of([1.0, 1.0])], CPU, watcher=monitor)
    for place in ([0.6, 0.0], [0.6, 0.0]):
        decision = controller.act(show(place))
    assert decision.replaced[0] and decision.alarm[0] is not None


def test_a_step_without_plan_or_another_command_is_no_surprise() -> None:
    """What was given is what is imagined, and a gap in the observations surprises nobody."""
    model = KnowingPoint()
    monitor = Monitor(model, {}, 1, "go_on")
    controller = Controller(model, make_strategy(), [picture_of([1.0, 1.0])], CPU, watcher=monitor)
    controller.act(show([0.0, 0.0]))
    controller.was_given(0, np.array([-1.0, 0.0], np.float32))
    assert controller.act(show([-0.1, 0.0])).scores[0][Check.SURPRISE] < 0.5
    given = np.array([[0.0, -1.0]], np.float32)
    assert controller.act(show([-0.1, -0.1]), given).scores[0][Check.SURPRISE] < 0.5
    controller.look_anew(0)
    assert controller.act(show([1.0, 1.0])).scores[0][Check.SURPRISE] == 0


def test_a_model_without_confidence_and_novelty_is_watched_too() -> None:
    monitor = Monitor(PointModel(), {}, 1)
    controller = Controller(PointModel(), make_strategy(), [picture_of([1.0, 1.0])], CPU, watcher=monitor)
    assert set(controller.act(show([0.0, 0.0])).scores[0]) == {
        Check.SURPRISE, Check.DRIFT, Check.STILLNESS, Check.STALL
    }  # fmt: skip
    with pytest.raises(UserError, match="a threshold for novelty, which this model does not measure: expected some of"):
        Monitor(PointModel(), {Check.NOVELTY: 1.0}, 1)


def test_a_monitor_that_goes_on_changes_no_action() -> None:
    model, goals = KnowingPoint(), [PlaceGoal((1.0, 1.0))]
    alone = Controller(model, make_strategy(), goals, CPU)
    watched = Controller(model, make_strategy(), goals, CPU, watcher=Monitor(model, {}, WINDOW, "go_on"))
    for place in ([0.0, 0.0], [0.1, 0.1], [0.2, 0.2]):
        assert (alone.act(show(place)).actions == watched.act(show(place)).actions).all()
    assert model.with_confidence is False, "the search imagines without confidence"


# --- goals -----------------------------------------------------------------------------------------------------------


def test_a_goal_of_noise_is_refused_and_the_present_one_stays() -> None:
    model = KnowingPoint()
    noise = ImageGoal({"camera": np.random.default_rng(0).integers(0, 256, (16, 16, 3), np.uint8)})
    message = r"this goal is unlike anything seen in training: its novelty is \d+\.?\d*, and at most 1 is accepted"
    with pytest.raises(UserError, match=message):
        Controller(model, make_strategy(), [noise], CPU, watcher=Monitor(model, {}, 1))
    controller = Controller(model, make_strategy(), [picture_of([1.0, 1.0])], CPU, watcher=Monitor(model, {}, 1))
    before = controller.act(show([0.0, 0.0])).distance
    with pytest.raises(UserError, match="unlike anything"):
        controller.reset(0, [picture_of([0.5, 0.0]), noise])
    assert controller.act(show([0.0, 0.0])).distance == before


# --- a robot ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rng = np.random.default_rng(0)
    frames = np.stack([draw(rng.uniform(0, 26, 2)) for _ in range(64)])
    return save_model(tmp_path_factory.mktemp("model"), SPEC, {"camera": frames}, novelty=True)


def write_calibration(folder: Path, path: Path, limit: float = 0.0, **changed: Any) -> Path:
    """Any surprise at all is above `limit` 0."""
    known = {
        "checkpoint": Checkpoint(str(folder), "").sha256, "planner": hash_of(read_settings(FAST)), "alpha": 0.05,
        "runs": 50, "budget": 50, "window": 1, "limit": limit, "checks": ("surprise",), "centres": (0.0,),
        "spreads": (1.0,),
    }  # fmt: skip
    Calibration(**{**known, **changed}).write(path)
    return path


def make(checkpoint: Path, monitor: MonitorConfig, **options: Any) -> RobotController:
    common = {"device": "cpu", "precision": "fp32", "threads": 1}
    return RobotController(checkpoint, GOAL, FAST, monitor=monitor, **common, **options)


def see(controller: RobotController, column: float) -> Any:
    return controller.act(draw(np.array([column, 8.0])), [column, 8.0])


def test_an_alarm_stops_a_robot_until_a_person_resumes(checkpoint: Path, tmp_path: Path) -> None:
    config = MonitorConfig(write_calibration(checkpoint, tmp_path / "monitor.json"))
    controller = make(checkpoint, config, gate=GateConfig())
    first = see(controller, 12.0)
    assert first.alarm is None and first.fault is None and first.action.any() and controller.stopped is None
    second = see(controller, 2.0)
    assert second.alarm is not None and second.alarm.check == Check.SURPRISE
    for decision in (second, see(controller, 2.0), see(controller, 2.0)):
        assert decision.fault is not None and decision.fault.kind == FaultKind.ALARM and not decision.action.any()
        assert controller.stopped == decision.fault
    controller.toward(GOAL)
    assert not see(controller, 2.0).action.any(), "another goal lets nobody go"
    controller.resume()
    assert controller.stopped is None
    again = see(controller, 2.0)
    assert again.fault is None and again.alarm is None and again.action.any()


def test_a_slowed_robot_passes_the_gate(checkpoint: Path, tmp_path: Path) -> None:
    path = write_calibration(checkpoint, tmp_path / "monitor.json")
    whole, slow = (make(checkpoint, MonitorConfig(path, on_alarm), gate=GateConfig()) for on_alarm in ("go_on", "slow"))
    assert (see(whole, 12.0).action == see(slow, 12.0).action).all()
    fast, slowed = see(whole, 2.0), see(slow, 2.0)
    np.testing.assert_allclose(slowed.action, fast.action / 2, rtol=1e-6)
    assert fast.alarm == slowed.alarm and slowed.alarm is not None and slowed.fault is None and slow.stopped is None


def test_a_robot_refuses_a_goal_of_noise_only_with_a_monitor(checkpoint: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (SIZE, SIZE, 3), np.uint8)
    controller = make(checkpoint, MonitorConfig(None, "go_on"))
    with pytest.raises(UserError, match="unlike anything seen in training: its novelty is"):
        controller.toward(noise)
    assert controller.act(draw(np.array(FELT)), FELT).details.scores[0].keys() == {
        Check.SURPRISE, Check.DRIFT, Check.MOTION, Check.STILLNESS, Check.NOVELTY, Check.STALL
    }  # fmt: skip
    RobotController(checkpoint, noise, FAST, device="cpu", precision="fp32", threads=1)


def test_what_counts_as_reached_is_what_was_calibrated(checkpoint: Path, tmp_path: Path) -> None:
    """The user's own number comes first, then that of the monitor's file, then the model's."""
    path = write_calibration(checkpoint, tmp_path / "monitor.json", limit=1e6, reached_distance=1e-4)
    silent = write_calibration(checkpoint, tmp_path / "older.json", limit=1e6)
    own = make(checkpoint, MonitorConfig(silent, "slow"))
    calibrated = make(checkpoint, MonitorConfig(path, "slow"))
    chosen = make(checkpoint, MonitorConfig(path, "slow"), reached_distance=0.1)
    seen = [see(controller, 9.0) for controller in (own, calibrated, chosen)]
    assert 1e-4 < seen[0].distance <= 0.1, "between what was calibrated and what the others want"
    assert [decision.reached for decision in seen] == [True, False, True]


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"checkpoint": "0" * 64}, "was made for the world model 000000000000, and this is"),
        ({"planner": "1" * 64}, "was made for the planner's options 111111111111, and this is"),
    ],
)
def test_thresholds_of_another_model_or_planner_are_refused(
    checkpoint: Path, tmp_path: Path, changed: dict[str, str], message: str
) -> None:
    path = write_calibration(checkpoint, tmp_path / "monitor.json", **changed)
    with pytest.raises(UserError, match=message):
        make(checkpoint, MonitorConfig(path, "slow"))


def test_options_that_make_no_sense(checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="unknown on_alarm 'run': choose from go_on, slow, stop"):
        MonitorConfig(None, "run")
    with pytest.raises(UserError, match="window of the monitor is 0: expected a whole number"):
        MonitorConfig(None, window=0)
    with pytest.raises(UserError, match="monitor is 'x': expected a MonitorConfig, or None"):
        make(checkpoint, "x")  # type: ignore[arg-type]
    with pytest.raises(UserError, match="on_alarm is stop, and there is no gate: expected RobotController"):
        make(checkpoint, MonitorConfig(None))
    with pytest.raises(UserError, match=r"there is no .*missing\.json"):
        make(checkpoint, MonitorConfig(tmp_path / "missing.json", "slow"))
    (tmp_path / "broken.json").write_text(json.dumps({"version": 1, "alpha": 0.1}))
    with pytest.raises(UserError, match=r"broken\.json"):
        make(checkpoint, MonitorConfig(tmp_path / "broken.json", "slow"))

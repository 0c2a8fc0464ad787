"""Whatever the clocks, the cameras, the model and the person say: the robot gets a command that it may follow."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.planning.hostile import ARM, BAD, SPEC, Count, live, sweep
from planning.actions.safety import LimitCheck
from planning.faults import FaultKind
from planning.gate import Gate, GateConfig
from planning.robot import RobotController
from tests.planning.test_robot import FAST, FELT, GOAL, SEEN, draw
from tests.planning.test_robot import SPEC as TOY
from tests.planning.toy_model import save_model
from worldmodel.core.errors import UserError
from worldmodel.core.observation import Observation

HELD = np.array([20.0, 0.15, 1.0, 0.6], np.float32)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rng = np.random.default_rng(0)
    frames = np.stack([draw(rng.uniform(0, 26, 2)) for _ in range(24)])
    return save_model(tmp_path_factory.mktemp("model"), TOY, {"camera": frames})


def make(checkpoint: Path, gate: GateConfig | None = None, **options: Any) -> RobotController:
    return RobotController(checkpoint, GOAL, FAST, device="cpu", precision="fp32", threads=1, gate=gate, **options)


def clocked(controller: RobotController, now: Callable[[], float]) -> RobotController:
    assert controller._gate is not None
    controller._gate._clock = now
    return controller


# --- limits ----------------------------------------------------------------------------------------------------------


def test_every_limit_is_checked_once_more() -> None:
    check = LimitCheck.of(ARM, SPEC.control_step_s)
    low, high = ARM.bounds
    assert not check.broken(HELD, HELD).any()
    assert not check.broken(np.stack([low, high]), np.stack([low, high])).any()
    assert check.broken(np.nextafter(high, np.float32(np.inf)), high).all()
    assert check.broken(np.nextafter(low, np.float32(-np.inf)), low).all()
    for change, broken in (
        ([5.0, 0, 0, 0], False), ([5.01, 0, 0, 0], True), ([-5.01, 0, 0, 0], True), ([0, 0, -1, 0], False),
        ([0, 0, -0.5, 0], True), ([0, 0, 0, -0.08], True), ([math.nan, 0, 0, 0], True),
    ):  # fmt: skip
        assert check.broken(HELD + np.array(change, np.float32), HELD).any() == broken, change
    # A command that was given by hand counts from the nearest bound.
    assert not check.broken(high, np.array([1e6, 0.2, 1, 0.7], np.float32)).any()


@pytest.mark.parametrize(
    "action", [[999, 0.15, 1, 0.6], [20, math.nan, 1, 0.6], [20, 0.15, 1], "forward", None, [[1]], [10**400] * 4]
)
def test_an_action_that_breaks_the_limits_stops_the_robot(action: Any) -> None:
    gate = Gate(SPEC, GateConfig())
    gate.begin()
    passed = gate.pass_action(action, HELD)
    # The angle and the gripper hold; the wheel slows down and the slide goes home as fast as they may.
    np.testing.assert_allclose(passed, [20, 0.05, 1, 0.53], atol=1e-6)
    if action is None:
        assert gate.fault is None  # who has no action says why
    else:
        assert gate.stopped is not None and gate.stopped.kind == FaultKind.ACTION


def test_what_is_allowed_passes_unchanged() -> None:
    gate, wanted = Gate(SPEC, GateConfig()), HELD + np.array([4.9, 0.04, -1, 0.06], np.float32)
    gate.begin()
    assert gate.pass_action(wanted, HELD).tolist() == wanted.tolist()
    assert gate.fault is None and gate.last is not None and gate.last.tolist() == wanted.tolist()


def test_nobody_holds_what_nobody_knows() -> None:
    gate = Gate(SPEC, GateConfig())
    with pytest.raises(UserError, match="last command is"):
        gate.pass_action(HELD, np.full(4, math.nan, np.float32))


# --- watchdog --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("stamps", "kind"),
    [
        ([1.0, 1.1, 1.2], None),
        ([None, None, None], "clock"),
        ([1.0, 1.1, 1.1], "clock"),
        ([1.0, 1.1, 1.05], "clock"),
        ([1.0, 1.1, 9.0], "clock"),
        ([1.0, 1.1, math.nan], "clock"),
        ([1.0, 1.1, "1.2"], "clock"),
        ([1.0, 1.1, 10**400], "clock"),
        ([1.0, 1.1, True], "clock"),
        ([-7.0, -6.9, -6.8], "stale"),
        ([0.6, 0.7, 0.8], "stale"),
    ],
)
def test_time_stamps(stamps: list[Any], kind: str | None) -> None:
    gate = Gate(SPEC, GateConfig(most_age_s=0.3), clock=itertools.count().__next__)
    found = [gate.check_observation({}, stamp, now) for stamp, now in zip(stamps, (1.0, 1.1, 1.2), strict=True)]
    assert (found[-1].kind if found[-1] else None) == kind


@pytest.mark.parametrize("now", [math.nan, math.inf, -1.0, -math.inf])
def test_a_broken_clock_stops_the_robot(now: float) -> None:
    times = iter([5.0, now])
    gate = Gate(SPEC, GateConfig(), clock=lambda: next(times))
    gate.begin()
    assert gate.stopped is None
    gate.begin()
    assert gate.stopped is not None and gate.stopped.kind == FaultKind.CLOCK
    gate.begin()  # now the clock raises StopIteration
    assert gate.stopped.since_step == 1


def test_one_frozen_camera_of_two_is_found() -> None:
    gate, rng = Gate(SPEC, GateConfig(frozen_after=3)), np.random.default_rng(0)
    frozen, found = rng.integers(0, 256, (4, 4, 3), np.uint8), []
    for _ in range(4):
        gate.begin()
        found.append(gate.check_observation({"front": rng.integers(0, 256, (4, 4, 3), np.uint8), "wrist": frozen}))
    assert [fault and fault.since_step for fault in found] == [None, None, 2, 2]
    assert found[2] is not None and found[2].detail == "camera wrist has shown the same frame 3 times in a row"


def test_a_buffer_that_a_driver_uses_again_is_not_frozen() -> None:
    gate, buffer = Gate(SPEC, GateConfig(frozen_after=2)), np.zeros((4, 4, 3), np.uint8)
    for value in range(5):
        buffer[:] = value
        assert gate.check_observation({"front": buffer}) is None


def test_what_cannot_be_compared_is_a_fault() -> None:
    class Broken:
        def __array__(self, *arguments: Any, **options: Any) -> np.ndarray:
            raise RuntimeError("device lost")

    gate = Gate(SPEC, GateConfig(frozen_after=2))
    for images in ({"front": Broken()}, None, 3):
        fault = gate.check_observation(images)  # type: ignore[arg-type]
        assert fault is not None and fault.kind == FaultKind.OBSERVATION


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"deadline_s": 0}, "deadline_s of the gate is 0: expected seconds, above 0, or None"),
        ({"deadline_s": math.nan}, "deadline_s of the gate is nan"),
        ({"most_age_s": "1"}, "most_age_s of the gate is '1'"),
        ({"frozen_after": 1}, "frozen_after of the gate is 1: expected a whole number from 2 up"),
        ({"frozen_after": True}, "frozen_after of the gate is True"),
        (
            {"stop_on": {"fire"}},
            "stop_on of the gate is {'fire'}: expected a set of action, alarm, clock, frozen",
        ),
        ({"stop_on": None}, "stop_on of the gate is None"),
    ],
)
def test_options_that_make_no_sense(change: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        GateConfig(**change)


# --- a robot behind the gate -----------------------------------------------------------------------------------------


def test_without_faults_a_gate_changes_nothing(checkpoint: Path) -> None:
    watched = make(checkpoint, GateConfig(deadline_s=60, frozen_after=2))
    free = make(checkpoint)
    for column in range(12, 2, -2):
        seen = draw(np.array([column, 8.0]))
        mine, theirs = watched.act(seen, [column, 8.0]), free.act(seen, [column, 8.0])
        assert mine.action.tolist() == theirs.action.tolist() and mine.distance == theirs.distance
        assert mine.fault is None and not mine.late and not mine.replaced


def test_a_late_plan_gives_rest_and_keeps_its_place(checkpoint: Path) -> None:
    """The next plan starts from the late one, and the model knows that the robot rested."""
    times = iter([0.0, 9.0, 10.0, 10.01])
    watched = clocked(make(checkpoint, GateConfig(deadline_s=1.0)), lambda: next(times))
    late = watched.act(SEEN, FELT)
    assert late.late and late.replaced and late.action.tolist() == [0, 0]
    assert late.fault is not None and late.fault.kind == FaultKind.LATE
    assert late.fault.detail == "the decision took 9000 ms, of 1000 ms allowed"
    assert watched.stopped is None
    # To a search, that clock's deadline is long over: it makes one iteration, as these do.
    seen = Observation({"camera": SEEN[None]}, np.array([FELT], np.float32))
    rested, forgetful = (make(checkpoint)._controller for _ in range(2))
    for controller in (rested, forgetful):
        controller.act(seen, deadline=0.0)
        controller.was_given(0, np.zeros(2, np.float32))
    forgetful._rows[0] = dataclasses.replace(forgetful._rows[0], plan=None)
    again = watched.act(SEEN, FELT)
    assert again.fault is None and not again.replaced
    assert again.action.tolist() == rested.act(seen, deadline=0.0).actions[0].tolist()
    assert again.action.tolist() != forgetful.act(seen, deadline=0.0).actions[0].tolist()


def test_a_stop_lasts_until_resume(checkpoint: Path) -> None:
    controller = make(checkpoint, GateConfig())
    moving = controller.act(SEEN, FELT)
    assert np.abs(moving.action).max() > 0
    broken = controller.act(SEEN[:5], FELT)
    for decision in (broken, *(controller.act(SEEN, FELT) for _ in range(3))):
        assert decision.action.tolist() == [0, 0] and decision.replaced and not decision.reached
        assert decision.fault == controller.stopped == broken.fault
    assert broken.fault is not None and (broken.fault.kind, broken.fault.since_step) == (FaultKind.OBSERVATION, 1)
    assert "image of camera is uint8 [5, 32, 3]: expected uint8 [32, 32, 3]" in broken.fault.detail
    controller.toward(GOAL)
    assert controller.act(SEEN, FELT).action.tolist() == [0, 0]  # another goal is no resume
    controller.resume()
    fresh = make(checkpoint)
    again = controller.act(SEEN, FELT)
    assert again.fault is None and again.action.tolist() == fresh.act(SEEN, FELT).action.tolist()


def test_a_model_that_raises_stops_the_robot(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    controller = make(checkpoint, GateConfig())
    controller.act(SEEN, FELT)

    def fail(*arguments: Any) -> Any:
        raise RuntimeError("CUDA error")

    monkeypatch.setattr(controller._controller._model, "imagine", fail)
    decision = controller.act(SEEN, FELT)
    assert decision.action.tolist() == [0, 0] and decision.fault is not None
    assert (decision.fault.kind, decision.fault.detail) == (FaultKind.MODEL, "RuntimeError: CUDA error")


def test_a_missing_plan_is_named_and_does_not_stop(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    controller = make(checkpoint, GateConfig())
    model = controller._controller._model
    whole = model.distance
    monkeypatch.setattr(model, "distance", lambda latents, goal: whole(latents, goal) * math.nan)
    first, second = controller.act(SEEN, FELT), controller.act(SEEN, FELT)
    assert second.fault is not None and (second.fault.kind, second.fault.since_step) == (FaultKind.NO_PLAN, 0)
    assert first.action.tolist() == [0, 0] and controller.stopped is None
    monkeypatch.undo()
    assert controller.act(SEEN, FELT).fault is None


def test_a_frozen_camera_and_an_old_frame_stop_the_robot(checkpoint: Path) -> None:
    controller = make(checkpoint, GateConfig(frozen_after=3))
    faults = [controller.act(SEEN, FELT).fault for _ in range(3)]
    assert faults[:2] == [None, None] and faults[2] is not None and faults[2].kind == FaultKind.FROZEN
    controller = clocked(make(checkpoint, GateConfig(most_age_s=0.1)), itertools.count(100.0).__next__)
    assert controller.act(SEEN, FELT, stamp=100.0).fault is None
    stale = controller.act(SEEN, FELT, stamp=100.5)
    assert stale.fault is not None and stale.fault.kind in (FaultKind.STALE, FaultKind.CLOCK)


def test_a_stamp_without_a_gate_is_refused(checkpoint: Path) -> None:
    with pytest.raises(UserError, match="stamp is checked by a gate, and there is none"):
        make(checkpoint).act(SEEN, FELT, stamp=1.0)


# --- hostility -------------------------------------------------------------------------------------------------------


def test_no_hostile_command_leaves_the_limits() -> None:
    """300,000 commands; `python -m benchmarks.planning.gate` gives a million and more."""
    count = sweep(300_000)
    assert count.commands >= 300_000 and count.violations == 0, count
    assert 0.2 < count.rested / count.commands < 0.8


@pytest.mark.parametrize("seed", [0, 1])
def test_a_hostile_life_leaves_no_limit_and_raises_nothing(seed: int) -> None:
    count, stopped_by = live(500, seed)
    assert count.commands == 500 and count.violations == 0, count
    assert stopped_by >= {FaultKind.CLOCK, FaultKind.FROZEN, FaultKind.MODEL, FaultKind.OBSERVATION, FaultKind.STALE}
    assert count.rested < 500


def test_the_count_finds_what_breaks_a_rule() -> None:
    """Otherwise a gate that checks nothing would pass as well."""
    last = np.tile(HELD, (6, 1))
    given, must_rest = last.copy(), np.zeros(6, bool)
    given[0, 0], given[1, 0], given[2, 2], given[3, 1] = BAD[0], 90, 0.5, 0.0
    must_rest[4] = True  # it goes on as it did, which is no rest
    count = Count()
    count.add(given, last, must_rest)
    assert (count.not_finite, count.outside, count.between, count.too_fast, count.not_rest) == (1, 1, 1, 2, 1)

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import pytest
import torch

from planning.actions.limits import ActionLimits
from planning.actions.safety import safe_actions
from planning.controller import Controller
from planning.decision import Decision
from planning.objectives import ObjectiveConfig
from planning.optimisers.cem import CEM, CEMConfig
from planning.strategy import ControllerConfig, Strategy
from tests.planning.point_mass import POINT, PlaceGoal, PointEnv, PointLatent, PointModel, picture_of, show
from worldmodel.core.errors import UserError
from worldmodel.core.goal import TextGoal
from worldmodel.core.observation import Observation
from worldmodel.core.spec import ActionSpec

CPU = torch.device("cpu")
# A position that holds, beside a speed, a gripper and a limit on changes.
HOLDING = dataclasses.replace(
    POINT,
    action=ActionSpec((-1.0, -1.0), (1.0, 1.0), ("m", "m/s"), rest=("hold", "zero"), max_rate=(2.0, None)),
)


def make_strategy(**options: int) -> Strategy:
    cem = CEM(CEMConfig(samples=48, iterations=3, elites=6, temperature=math.inf, initial_std=0.5, action_repeat=1))
    return Strategy(cem, ObjectiveConfig(), ControllerConfig(**{"horizon": 4, **options}))


def make_controller(model: PointModel, goals: list[Any], reached: float | None = 1e-3, **options: int) -> Controller:
    pictures = [picture_of(goal) if isinstance(goal, list) else goal for goal in goals]
    return Controller(model, make_strategy(**options), pictures, CPU, reached)


def drive(controller: Controller, starts: list[list[float]], steps: int, reset: tuple[int, int] | None = None):
    """Actions `[T, B, A]` and final positions `[B, 2]`; `reset=(step, row)` begins that row anew on the way."""
    envs, actions = [PointEnv() for _ in starts], []
    for env, start in zip(envs, starts, strict=True):
        env.reset(options={"state": start})
    for step in range(steps):
        if reset is not None and step == reset[0]:
            envs[reset[1]].reset(options={"state": starts[reset[1]]})
            controller.reset(reset[1], picture_of([0.5, -0.5]))
        decision = controller.act(Observation.stack([Observation.of(env.observe()) for env in envs]))
        actions.append(decision.actions)
        for env, action in zip(envs, decision.actions, strict=True):
            env.step(action)
    return np.array(actions), np.stack([env.get_state() for env in envs])


def acted(decision: Decision) -> list[Any]:
    return [decision.actions.tolist(), decision.distance.tolist(), decision.trace.tolist()]


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


def test_every_frame_is_encoded_once_with_the_action_that_led_to_it() -> None:
    model = PointModel()
    controller = make_controller(model, [[0.5, -0.5]] * 2, execute=3)
    latents = []
    whole = model.observe

    def observe(*arguments: Any) -> PointLatent:
        latents.append(whole(*arguments))
        return latents[-1]

    model.observe = observe  # type: ignore[method-assign]
    actions, _ = drive(controller, [[0.0, 0.0]] * 2, 4)
    assert model.looked == [(1, 16, 16, 3)] * 8
    assert [int(latent.frames) for latent in latents] == [1, 1, 2, 2, 3, 3, 4, 4]
    np.testing.assert_array_equal(torch.cat([latent.action for latent in latents[2:]]), actions[:3].reshape(-1, 2))


def test_a_plan_is_executed_for_as_long_as_asked() -> None:
    controller = make_controller(PointModel(), [[0.5, -0.5]], execute=3)
    planned = [controller.act(show([0.0, 0.0])).planned for _ in range(7)]
    assert planned == [True, False, False, True, False, False, True]


def test_a_broken_model_makes_a_row_stand_still_and_says_so() -> None:
    controller = make_controller(PointModel(broken_beyond=0.1), [[0.5, -0.5], [0.5, -0.5]])
    decision = controller.act(show([0.0, 0.0], [0.2, 0.0]))
    assert decision.replaced.tolist() == [False, True]
    assert np.abs(decision.actions[0]).max() > 0.1
    np.testing.assert_array_equal(decision.actions[1], [0, 0])
    assert decision.predicted_cost[1] == np.inf and np.isnan(decision.trace[1]).all()
    assert decision.imagined[1] is None
    np.testing.assert_allclose(decision.distance, [0.5, 0.34], atol=0.02)


def test_the_memory_of_a_plan_that_could_not_be_used_is_dropped() -> None:
    """Back in sight, the row plans as one that has just begun to plan at that step would."""
    controller = make_controller(PointModel(broken_beyond=0.1), [[0.5, -0.5]])
    for place in ([0.0, 0.0], [0.2, 0.0]):
        controller.act(show(place))
    remembers_nothing = make_controller(PointModel(broken_beyond=0.1), [[0.5, -0.5]])
    for _ in range(2):
        remembers_nothing.act(show([0.2, 0.0]))
    assert acted(controller.act(show([0.0, 0.0]))) == acted(remembers_nothing.act(show([0.0, 0.0])))


def test_a_decision_shows_what_it_was_made_of() -> None:
    decision = make_controller(PointModel(), [[0.5, -0.5]]).act(show([0.0, 0.0]))
    assert decision.trace.shape == (1, 3) and decision.trace[0, -1] < decision.trace[0, 0]
    (imagined,) = decision.imagined
    assert imagined.position.shape == (1, 1, 4, 2)
    np.testing.assert_allclose(imagined.position[0, 0, 0], 0.1 * decision.actions[0], atol=0.02)


def test_an_observation_that_does_not_fit_is_refused_and_leaves_no_trace() -> None:
    controller, undisturbed = (make_controller(PointModel(), [[0.5, -0.5]] * 2) for _ in range(2))
    fine = show([0.0, 0.0], [0.1, 0.0])
    proprio = fine.proprio.copy()
    proprio[1, 1] = np.nan
    for broken, message in (
        (dataclasses.replace(fine, proprio=proprio), r"proprio of environment 1\[1\] is nan"),
        (fine.rows(slice(0, 1)), "1 observations for a controller of 2"),
        (dataclasses.replace(fine, images={"front": fine.images["camera"]}), "unknown camera 'front'"),
        (dataclasses.replace(fine, images={"camera": fine.images["camera"][:, :8]}), r"is uint8 \[8, 16, 3\]"),
    ):
        with pytest.raises(UserError, match=message):
            controller.act(broken)
    assert acted(controller.act(fine)) == acted(undisturbed.act(fine))


def test_an_act_that_fails_leaves_no_trace(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wherever it fails: a retry gives the same plan, and the frame does not count twice."""
    places = ([0.0, 0.0], [0.05, 0.0], [0.1, 0.0])
    undisturbed, controller = (make_controller(PointModel(), [[0.5, -0.5]]) for _ in range(2))
    for place in places:
        wanted = acted(undisturbed.act(show(place)))
        for failing in ("observe", "imagine", "distance"):
            with monkeypatch.context() as patch:

                def fail(*_: Any) -> None:
                    raise RuntimeError("out of memory")

                patch.setattr(PointModel, failing, fail)
                with pytest.raises(RuntimeError):
                    controller.act(show(place))
        assert acted(controller.act(show(place))) == wanted


def test_frames_are_copied() -> None:
    """A driver of a camera writes the next picture into the same memory, and a model may keep what it was shown."""
    kept: list[Any] = []

    class Keeping(PointModel):
        def observe(self, previous: Any, observation: Observation, action: Any) -> PointLatent:
            kept.append(torch.as_tensor(observation.images["camera"]))
            return super().observe(previous, observation, action)

    seen = show([0.3, 0.0])
    make_controller(Keeping(), [[0.5, -0.5]]).act(seen)
    before = kept[0].clone()
    seen.images["camera"][:] = 0
    assert torch.equal(kept[0], before)


# --- goals -----------------------------------------------------------------------------------------------------------


def test_sub_goals_are_visited_in_turn() -> None:
    model = PointModel()
    controller = make_controller(model, [(picture_of([0.2, 0.0]), PlaceGoal((0.2, 0.2)))], reached=2e-3)
    env, seen = PointEnv(), []
    env.reset(options={"state": [0.0, 0.0]})
    for _ in range(12):
        decision = controller.act(Observation.stack([Observation.of(env.observe())]))
        seen.append((int(decision.sub_goal[0]), bool(decision.reached[0])))
        env.step(decision.actions[0])
    assert seen[0] == (0, False) and seen[-1] == (1, True)
    assert [goal for goal, _ in seen] == sorted(goal for goal, _ in seen)
    assert not any(reached for goal, reached in seen if goal == 0)  # not there before the last one
    np.testing.assert_allclose(env.get_state(), [0.2, 0.2], atol=0.07)


@pytest.mark.parametrize("distance", [math.nan, math.inf, -math.inf])
def test_a_distance_that_is_not_finite_is_no_arrival(monkeypatch: pytest.MonkeyPatch, distance: float) -> None:
    controller = make_controller(PointModel(), [(picture_of([0.0, 0.0]), picture_of([0.5, 0.0]))])
    monkeypatch.setattr(PointModel, "distance", lambda self, latents, goal: torch.full(latents.frames.shape, distance))
    decision = controller.act(show([0.0, 0.0]))
    assert not decision.reached[0] and decision.sub_goal[0] == 0 and decision.replaced[0]


def test_the_model_says_what_counts_as_reached_unless_the_user_does() -> None:
    near = [[0.5, 0.0]]
    for model, reached, expected in (
        (PointModel(reached_distance=1e-3), None, False),
        (PointModel(reached_distance=1.0), None, True),
        (PointModel(reached_distance=1e-3), 1.0, True),
    ):
        decision = make_controller(model, near, reached=reached).act(show([0.0, 0.0]))
        assert bool(decision.reached[0]) is expected


@pytest.mark.parametrize("reached", [0, -1, math.inf, math.nan, "near"])
def test_a_distance_at_which_nothing_could_count_is_refused(reached: Any) -> None:
    with pytest.raises(UserError, match=f"reached_distance is {reached}: expected a number above 0"):
        make_controller(PointModel(), [[0.5, -0.5]], reached=reached)


@pytest.mark.parametrize(("goal", "message"), [(TextGoal("go"), "TextGoal"), ([], "several"), (["a.png"], "a.png")])
def test_a_goal_that_nobody_can_read_is_refused(goal: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        Controller(PointModel(), make_strategy(), [goal], CPU)


# --- rest ------------------------------------------------------------------------------------------------------------


def test_who_holds_has_to_know_what() -> None:
    controller = make_controller(PointModel(spec=HOLDING), [[0.5, -0.5]])
    with pytest.raises(UserError, match=r"action action_0 holds its last command, and there is none yet: give the one"):
        controller.act(show([0.0, 0.0]))
    held = controller.act(show([0.0, 0.0]), command=np.array([[0.3, 0.0]], np.float32))
    assert abs(held.actions[0, 0] - 0.3) <= 0.2  # what it may change in a step
    controller.act(show([0.0, 0.0]))  # and from now on it knows


def test_where_no_reading_shows_what_is_held_it_can_be_told() -> None:
    """Every episode begins with it, and what a reading shows comes first."""
    start, goal = np.array([0.6, 0.9], np.float32), [picture_of([0.5, -0.5])]
    model = PointModel(spec=HOLDING, broken_beyond=-1)
    controller = Controller(model, make_strategy(), goal, CPU, start=start)
    for _ in range(2):
        np.testing.assert_array_equal(controller.act(show([0.1, 0.7])).actions, np.float32([[0.6, 0.0]]))
        controller.reset(0, goal[0])
    spec = dataclasses.replace(HOLDING, action=dataclasses.replace(HOLDING.action, hold_from=(1, None)))
    controller = Controller(PointModel(spec=spec, broken_beyond=-1), make_strategy(), goal, CPU, start=start)
    np.testing.assert_array_equal(controller.act(show([0.1, 0.7])).actions, np.float32([[0.7, 0.0]]))


def test_the_first_command_is_what_the_reading_shows() -> None:
    spec = dataclasses.replace(HOLDING, action=dataclasses.replace(HOLDING.action, hold_from=(1, None)))
    controller = make_controller(PointModel(spec=spec, broken_beyond=-1), [[0.5, -0.5]])
    decision = controller.act(show([0.1, 0.7]))
    assert decision.replaced[0]
    np.testing.assert_array_equal(decision.actions, np.float32([[0.7, 0.0]]))


def test_the_rule_of_rest_by_hand() -> None:
    """Golden: without a usable plan the position stays where it was commanded, and the speed becomes zero."""
    model = PointModel(spec=HOLDING)
    controller = make_controller(model, [[0.5, -0.5]])
    command = np.array([[0.3, 0.5]], np.float32)
    first = controller.act(show([0.0, 0.0]), command).actions
    model.broken_beyond = -1
    for _ in range(3):
        decision = controller.act(show([0.4, 0.4]))
        assert decision.replaced[0]
        np.testing.assert_array_equal(decision.actions, [[first[0, 0], 0.0]])
    taken_over = np.array([[-0.6, 0.1]], np.float32)
    np.testing.assert_array_equal(controller.act(show([0.4, 0.4]), taken_over).actions, np.float32([[-0.6, 0.0]]))


@pytest.mark.parametrize("options", [{"execute": 5}, {"execute": 0}, {"horizon": 0}, {"horizon": 10**6}])
def test_options_that_make_no_sense_are_refused(options: dict) -> None:
    with pytest.raises(ValueError, match=r"must be"):
        ControllerConfig(**{"horizon": 4, **options})


def test_safe_actions_test_for_nan_before_clipping() -> None:
    limits = ActionLimits.of(ActionSpec((0.25, -1.0), (1.0, 1.0), ("", "")), 0.1)
    wanted = torch.tensor([[0.5, 5.0], [torch.nan, 0.5], [torch.inf, 0.0]])
    actions, replaced = safe_actions(wanted, limits, torch.zeros(3, 2))
    assert torch.equal(actions, torch.tensor([[0.5, 1.0], [0.25, 0.0], [0.25, 0.0]]))
    assert replaced.tolist() == [False, True, True]

"""Sub-goals: when they are kept and when they change, and that they lead around a wall that a planner does not see."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import pytest
import torch

from planning.controller import Controller
from planning.hierarchy import BEGIN, OVERDUE, PASSED, REACHED, Hierarchy, HierarchyConfig, require_alone
from planning.rows import Row
from tests.planning.point_mass import PointEnv, PointModel, picture_of
from tests.planning.test_controller import CPU, make_strategy
from worldmodel.core.errors import UserError
from worldmodel.core.observation import Observation
from worldmodel.models.landmarks.building import Considered, build
from worldmodel.models.landmarks.landmarks import LandmarkConfig, SubGoal

WALL_END = 0.5  # of a wall along y = 0, from the left side [m]
THICK = 0.15  # half of the wall's width [m]: wider than the distance between landmarks


class Model(PointModel):
    """Its distance is in metres."""

    def distance(self, latents: Any, goal: Any) -> Any:
        return super().distance(latents, goal).sqrt()


class Walled(PointEnv):
    """A point that cannot pass a wall, of which its model knows nothing."""

    def step(self, action: Any) -> Any:
        before = self._state.copy()
        after = super().step(action)
        if abs(self._state[1]) < THICK and self._state[0] < WALL_END:
            self._state = before
            after = (self.observe(), 0.0, False, False, {"state": self.get_state(), "diverged": False})
        return after


def explore(episodes: int = 60, steps: int = 40) -> tuple[np.ndarray, np.ndarray]:
    """Places `[R, 2]` of straight walks in random directions, and where each episode ends."""
    rng, places, env = np.random.default_rng(0), [], Walled()
    for _ in range(episodes):
        start = rng.uniform(-1, 1, 2)
        start[1] += np.copysign(THICK, start[1])
        env.reset(options={"state": start})
        for step in range(steps):
            if step % 8 == 0:
                action = rng.uniform(-1, 1, 2)
            if np.abs(env.get_state() + 0.1 * action).max() > 1.2:
                action = -action
            places.append(env.get_state())
            env.step(action.astype(np.float32))
    return np.array(places), np.arange(1, episodes + 1) * steps


@pytest.fixture(scope="module")
def landmarks() -> Any:
    places, ends = explore()
    model, config = Model(), LandmarkConfig(count=150, every=2, within=6, neighbours=4)
    considered = Considered.of(ends, config.every)
    frames = np.stack([PointEnv().render_state(place) for place in places[considered.rows]])
    latents = model.observe(None, Observation({"camera": frames}, np.zeros((len(frames), 2), np.float32)), None)
    found, _ = build(model, latents, considered, config, 0, lambda done, total: None)
    return found


def drive(hierarchy: Hierarchy | None, steps: int = 60) -> tuple[np.ndarray, list[str]]:
    """The path `[T+1, 2]` from one side of the wall to the other, and the reasons of the sub-goals."""
    env = Walled()
    env.reset(options={"state": [-0.6, -0.5]})
    controller = Controller(Model(), make_strategy(), [picture_of([-0.6, 0.5])], CPU, 0.02, hierarchy=hierarchy)
    path, reasons, last = [env.get_state()], [], None
    for _ in range(steps):
        decision = controller.act(Observation.stack([Observation.of(env.observe())]))
        for heading in decision.headings:
            if heading is not last:
                reasons.append(heading.reason)
                last = heading
        env.step(decision.actions[0])
        path.append(env.get_state())
    return np.array(path), reasons


def test_sub_goals_lead_around_a_wall_and_a_flat_planner_stops_at_it(landmarks: Any) -> None:
    straight, none = drive(None)
    assert straight[:, 1].max() < 0 and none == []
    around, reasons = drive(Hierarchy(Model(), landmarks, HierarchyConfig(ahead=6, patience=12, near=0.6)))
    assert np.linalg.norm(around[-1] - [-0.6, 0.5]) < 0.15
    assert around[:, 0].max() > WALL_END
    assert reasons[0] == BEGIN and len(reasons) > 3


def test_with_a_hierarchy_a_row_acts_the_same_in_any_company(landmarks: Any) -> None:
    hierarchy = Hierarchy(Model(), landmarks, HierarchyConfig(ahead=6, near=0.6))
    starts, goals = [[-0.6, -0.5], [0.1, 0.3]], [[-0.6, 0.5], [0.2, -0.4]]

    def act(rows: list[int]) -> np.ndarray:
        controller = Controller(
            Model(), make_strategy(), [picture_of(goals[row]) for row in rows], CPU, 0.02, hierarchy=hierarchy
        )
        envs = [Walled() for _ in rows]
        for env, row in zip(envs, rows, strict=True):
            env.reset(options={"state": starts[row]})
        actions = []
        for _ in range(6):
            decision = controller.act(Observation.stack([Observation.of(env.observe()) for env in envs]))
            actions.append(decision.actions[-1])
            for env, action in zip(envs, decision.actions, strict=True):
                env.step(action)
        return np.array(actions)

    np.testing.assert_array_equal(act([0, 1]), act([1]))


@dataclasses.dataclass
class Scripted:
    """Proposes landmark after landmark; the way is as long as it is told."""

    steps: float = 30.0
    asked: int = 0
    avoided: frozenset[int | None] = frozenset()

    def toward(self, goal: Any) -> Scripted:
        return self

    def propose(self, latent: Any, ahead: float, avoided: frozenset[int | None] = frozenset()) -> SubGoal:
        self.asked, self.avoided = self.asked + 1, avoided
        return SubGoal(place(float(self.asked), 0.0), self.asked, self.steps, 20.0)


def place(x: float, y: float) -> Any:
    return Model().goal(picture_of([x, y]))


def test_a_sub_goal_is_kept_until_it_is_reached_passed_or_overdue() -> None:
    script = Scripted()
    hierarchy = Hierarchy(Model(), script, HierarchyConfig(patience=5, near=0.5))
    row = Row((place(1.0, 1.0),), guides=hierarchy.guides([place(1.0, 1.0)]), latent=place(0.0, 0.0))
    row = hierarchy.aim(row)
    assert row.heading is not None and (row.heading.reason, row.heading.landmark) == (BEGIN, 1)
    assert row.aim is row.heading.latent
    kept = hierarchy.aim(dataclasses.replace(row, step=4))
    assert kept.heading is row.heading
    reached = hierarchy.aim(dataclasses.replace(row, step=4, latent=row.heading.latent))
    assert reached.heading is not None and reached.heading.reason == REACHED
    script.steps = 19.0  # nearer to the goal than the sub-goal, from which 20 are left
    passed = hierarchy.aim(dataclasses.replace(row, step=4))
    assert passed.heading is not None and passed.heading.reason == PASSED
    script.steps = 30.0
    overdue = hierarchy.aim(dataclasses.replace(row, step=5))
    assert overdue.heading is not None and overdue.heading.reason == OVERDUE
    assert script.avoided == {1}, "the way that failed is not proposed again"


@pytest.mark.parametrize(
    ("options", "message"),
    [({"ahead": 0.0}, "ahead 0.0"), ({"patience": 0}, "patience 0"), ({"near": math.inf}, "near inf")],
)
def test_options_that_make_no_sense_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        HierarchyConfig(**options)


def test_a_hierarchy_stands_alone() -> None:
    require_alone(None, verify=0.1)
    require_alone("folder", verify=None)
    with pytest.raises(UserError, match=r"hierarchy=folder with verify=0.1: expected one of them"):
        require_alone("folder", verify=0.1)


def test_a_new_episode_keeps_the_guide_and_forgets_the_sub_goal() -> None:
    row = Row((place(1.0, 1.0),), guides=(Scripted(),), latent=place(0.0, 0.0), step=7)
    anew = Hierarchy(Model(), Scripted(), HierarchyConfig()).aim(row).anew()
    assert anew.heading is None and anew.step == 0 and anew.guides == row.guides
    assert torch.equal(anew.aim.position, row.goal.position)

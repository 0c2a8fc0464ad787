"""Distractors and factors of variation of the arm."""

from __future__ import annotations

import colorsys
import dataclasses

import numpy as np
import pytest

from envs.arm.config import Factors
from envs.protocol import Floats, GoalEnv
from envs.registry import make_named
from tests.envs.arm.worlds import act, arrange, make_arm, world_of
from worldmodel.core.errors import UserError

FACTORS = tuple(field.name for field in dataclasses.fields(Factors))
SEEN = {"light", "colours", "sizes", "camera"}
FELT = {"sizes", "friction", "mass"}


def plain(state: Floats) -> Floats:
    """The same state in the plain scene."""
    return np.append(state[:-2], [0.0, 0.0])


@pytest.mark.parametrize("factor", FACTORS)
def test_a_factor_changes_what_it_is_for_and_nothing_else(factor: str) -> None:
    env = make_named("arm_pick_place", image_size=32, vary={factor: True})
    try:
        start = env.reset(seed=2)[1]["state"]
        assert start[-2] > 0 and start[-1] == 0
        difference = np.abs(env.render_state(start).astype(int) - env.render_state(plain(start)))
        assert bool(difference.any()) == (factor in SEEN)
        pushes = np.tile(np.float32([0.2, 0, -0.3, -0.1]), (1, 10, 1))
        arrange(env, (-0.1, 0, 0.03), (0, 0, 0.025))
        start = np.append(env.get_state()[:-2], [7.0, 0.0])
        moved, usual = (env.simulate(state, pushes)[0, :, :-2] for state in (start, plain(start)))
        assert np.array_equal(moved, usual) == (factor not in FELT)
    finally:
        env.close()


def test_a_scene_depends_on_its_seed_alone() -> None:
    every = dict.fromkeys(FACTORS, True)
    env = make_named("arm_pick_place", image_size=32, distractors=True, vary=every)
    try:
        first, second = (env.reset(seed=seed)[1]["state"] for seed in (1, 2))
        pictures = [env.render_state(state) for state in (first, second, first)]
        np.testing.assert_array_equal(pictures[0], pictures[2])
        assert (pictures[0] != pictures[1]).any()
    finally:
        env.close()


def test_switching_one_factor_on_does_not_change_the_others() -> None:
    masses = []
    for vary in ({"mass": True}, {"mass": True, "friction": True, "colours": True}):
        env = make_arm("arm_push", vary=vary)
        env.reset(seed=4)
        masses.append(float(world_of(env).model.body("cube").mass[0]))
        env.close()
    assert masses[0] == masses[1] != 0.08


@pytest.mark.parametrize("hues", [(0.25, 0.95), (0.95, 0.25)])
def test_cubes_have_the_hues_that_are_asked_for(hues: tuple[float, float]) -> None:
    env = make_arm("arm_push", vary={"colours": list(hues)})
    found = []
    for seed in range(40):
        env.reset(seed=seed)
        found.append(colorsys.rgb_to_hsv(*world_of(env).model.geom("cube").rgba[:3])[0])
    env.close()
    inside = [0.25 <= hue <= 0.95 for hue in found]
    assert all(inside) if hues[0] < hues[1] else not any(inside)
    assert max(found) - min(found) > 0.5


@pytest.mark.parametrize("hues", [[], [0.1], [0.2, 0.2], [-0.1, 0.5], [0.2, 1.5], "red"])
def test_hues_that_cannot_be_are_refused(hues: object) -> None:
    with pytest.raises(UserError, match="colours"):
        make_arm("arm_push", vary={"colours": hues})


def test_distractors_change_what_is_seen_and_nothing_else() -> None:
    env = make_named("arm_push", image_size=32, distractors=True)
    try:
        start = env.reset(seed=11)[1]["state"]
        seen, unseen = env.render_state(start).astype(int), env.render_state(plain(start))
        assert np.abs(seen - unseen).mean() > 1
        actions = np.random.default_rng(0).uniform(-0.3, 0.3, (1, 10, 4))
        one, two = env.simulate(start, actions), env.simulate(plain(start), actions)
        np.testing.assert_array_equal(one[..., :-2], two[..., :-2])
        assert one[0, -1, -1] == pytest.approx(1.0) and two[0, -1, -1] == 0  # the discs move on
        assert (env.render_state(np.append(start[:-1], 1.0)) != seen).any()
    finally:
        env.close()


def test_cubes_of_every_size_lie_on_the_table_and_can_be_grasped() -> None:
    env = make_arm("arm_pick_place", vary={"sizes": True})
    world, widths = world_of(env), set()
    for seed in range(6):
        env.reset(seed=seed)
        half = world.half_width(0)
        widths.add(half)
        assert world.cube(0)[2] == pytest.approx(half, abs=1e-3) and 0.02 <= half <= 0.03
        state = np.append(env.get_state()[:-2], [seed + 1.0, 0.0])
        env.set_state(state)
        _grasp(env, world.half_width(0))
        assert world.holds(0) and world.cube(0)[2] > 0.08
    assert len(widths) == 6
    env.close()


def _grasp(env: GoalEnv, half: float) -> None:
    world = world_of(env)
    start = world.layout.positions[0]
    world.data.qpos[start : start + 7] = [0, 0, half, 1, 0, 0, 0]
    world.pose(np.array([0, 0, 0.026]), 0.042)
    env.set_state(env.get_state())
    act(env, (0, 0, 0, -0.1), 6)
    act(env, (0, 0, 0.2, 0), 5)

"""The stage: things slide, bounce and fall as mechanics says, and look like what the state says."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from envs.violations.stage import COLOURS, FAR_LANE, RADIUS, SHAPES, STATE_SIZE, Stage, StageWorld, Thing

EMPTY = Stage(0.0, False, 0, 0)


@pytest.fixture(scope="module")
def world() -> Iterator[StageWorld]:
    world = StageWorld(64)
    yield world
    world.close()


def picture(world: StageWorld, state: np.ndarray) -> np.ndarray:
    world.set_state(state)
    return world.picture(world.cameras[0])


def test_nothing_slows_a_thing_down(world: StageWorld) -> None:
    states = world.film(EMPTY.state(Thing(-0.5, 0.4, 0, 0)), 24)
    assert states.shape == (24, STATE_SIZE)
    np.testing.assert_allclose(states[:, 0], -0.5 + 0.04 * np.arange(24), atol=1e-6)
    np.testing.assert_allclose(states[:, 2], RADIUS, atol=1e-3)


def test_things_of_the_same_mass_exchange_their_velocities(world: StageWorld) -> None:
    states = world.film(EMPTY.state(Thing(-0.4, 0.4, 0, 0), Thing(0.0, 0.0, 1, 1)), 24)
    np.testing.assert_allclose(states[-1, [6, 9]], [0.0, 0.4], atol=0.03)
    apart = world.film(EMPTY.state(Thing(-0.4, 0.4, 0, 0), Thing(0.0, 0.0, 1, 1, lane=FAR_LANE)), 24)
    np.testing.assert_allclose(apart[-1, [6, 9]], [0.4, 0.0], atol=1e-6)


def test_a_wall_turns_a_thing_back(world: StageWorld) -> None:
    states = world.film(Stage(0.0, False, 0, 0, wall=0.1).state(Thing(-0.3, 0.4, 2, 0)), 24)
    assert states[-1, 6] == pytest.approx(-0.4, abs=0.03)
    assert states[:, 0].max() < 0.1 - RADIUS


def test_a_thing_falls_where_its_platform_ends(world: StageWorld) -> None:
    stage = Stage(0.0, False, 0, 0, platform=-0.8)
    states = world.film(stage.state(Thing(-0.3, 0.4, 0, 0, height=0.2)), 24)
    on, off = states[states[:, 0] < 0], states[states[:, 0] > 0.2]
    np.testing.assert_allclose(on[:, 2], RADIUS + 0.2, atol=2e-3)
    np.testing.assert_allclose(off[:, 2], RADIUS, atol=2e-3)


def test_a_state_is_restored_to_the_pixel(world: StageWorld) -> None:
    state = Stage(0.1, True, 2, 3, wall=0.1).state(Thing(-0.3, 0.4, 2, 4))
    before = picture(world, state)
    later = world.film(state, 5)[-1]
    picture(world, EMPTY.state(Thing(0.2, 0.0, 1, 1)))
    np.testing.assert_array_equal(picture(world, state), before)
    np.testing.assert_array_equal(world.film(state, 5)[-1], later)
    np.testing.assert_array_equal(world.simulate(state, np.zeros((2, 4, 1)))[:, -1], [later, later])


def test_every_look_differs(world: StageWorld) -> None:
    looks = [(shape, colour) for shape in range(len(SHAPES)) for colour in range(len(COLOURS))]
    seen = {picture(world, EMPTY.state(Thing(0.0, 0.0, *look))).tobytes() for look in looks}
    assert len(seen) == len(looks)
    assert picture(world, EMPTY.state()).tobytes() not in seen


def test_a_screen_hides_what_is_behind_it(world: StageWorld) -> None:
    for lane in (0.0, FAR_LANE):
        behind = picture(world, Stage(0.0, True, 0, 0).state(Thing(0.0, 0.4, 1, 0, lane=lane)))
        np.testing.assert_array_equal(behind, picture(world, Stage(0.0, True, 0, 0).state()))
        before = picture(world, EMPTY.state(Thing(0.0, 0.4, 1, 0, lane=lane)))
        assert (before != picture(world, EMPTY.state())).any()


def test_an_episode_can_begin(world: StageWorld) -> None:
    world.begin(np.random.default_rng(0))
    first = world.get_state()
    world.begin(np.random.default_rng(0))
    np.testing.assert_array_equal(world.get_state(), first)
    assert world.proprio().shape == (world.proprio_size,) == (0,)

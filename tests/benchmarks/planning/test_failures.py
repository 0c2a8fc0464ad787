"""Failures do what they say, from the step on that they begin at, and leave the environment as it was."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from benchmarks.planning.failures import DELAY_STEPS, PUSHED_M, FailingEnv
from benchmarks.planning.monitor import begins
from envs.push import PushConfig, PushEnv
from planning.evaluation.watched import WatchedRun

SINCE, STEPS = 3, 6
ACTIONS = np.random.default_rng(0).uniform(-0.4, 0.4, (STEPS, 2)).astype(np.float32)


@pytest.fixture(scope="module")
def env() -> Iterator[PushEnv]:
    made = PushEnv(PushConfig())
    yield made
    made.close()


def live(env: PushEnv, kind: str | None) -> tuple[np.ndarray, np.ndarray]:
    """States `[T+1, N]` and images `[T+1, H, W, 3]`."""
    failing = FailingEnv(env)
    failing.arrange(kind, SINCE, seed=1)
    observation, info = failing.reset(seed=5)
    states, images = [info["state"]], [observation["images"]["camera"]]
    for action in ACTIONS:
        observation, *_, info = failing.step(action)
        states.append(info["state"])
        images.append(observation["images"]["camera"])
    return np.array(states), np.array(images)


@pytest.mark.parametrize("kind", ["pushed_away", "blocked", "colours", "frozen", "pose", "delayed"])
def test_a_failure_begins_when_it_should_and_ends_with_the_episode(env: PushEnv, kind: str) -> None:
    healthy, seen = live(env, None)
    states, images = live(env, kind)
    assert (states[:SINCE] == healthy[:SINCE]).all() and (images[:SINCE] == seen[:SINCE]).all()
    assert (images[SINCE:] != seen[SINCE:]).any()
    assert all((one == other).all() for one, other in zip(live(env, None), (healthy, seen), strict=True))


def test_each_failure_is_what_it_says(env: PushEnv) -> None:
    healthy, seen = live(env, None)
    states, _ = live(env, "pushed_away")
    assert np.linalg.norm(states[SINCE, :2] - healthy[SINCE, :2]) == pytest.approx(PUSHED_M)
    states, _ = live(env, "blocked")
    assert (
        np.abs(np.diff(states[SINCE + 1 :, 3:5], axis=0)).max() < 0.01 < np.abs(np.diff(healthy[:, 3:5], axis=0)).max()
    )
    assert (live(env, "colours")[1][SINCE:] == seen[SINCE:][..., ::-1]).all()
    _, images = live(env, "frozen")
    assert (images[SINCE:] == images[SINCE - 1]).all() and (live(env, "frozen")[0] == healthy).all()
    assert DELAY_STEPS == 3 and (live(env, "delayed")[0][SINCE:] != healthy[SINCE:]).any()


def test_a_slippery_floor_has_less_friction_until_the_next_episode(env: PushEnv) -> None:
    friction = env.world.model.dof_frictionloss.copy()
    failing = FailingEnv(env)
    failing.arrange("slippery", 1, seed=0)
    failing.reset(seed=5)
    failing.step(ACTIONS[0])
    assert (env.world.model.dof_frictionloss[:3] < 0.1 * friction[:3]).all()
    failing.arrange(None, 0, 0)
    failing.reset(seed=5)
    assert (env.world.model.dof_frictionloss == friction).all()


def test_failures_begin_in_the_first_half() -> None:
    run = WatchedRun(0, True, False, {"surprise": [0.0] * 21})
    drawn = {begins(index, kind, run) for index in range(50) for kind in ("blocked", "pose")}
    assert min(drawn) == 1 and max(drawn) == 10

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from envs.protocol import GoalEnv
from envs.registry import make_named
from planning.environment import Environment
from planning.evaluation.episodes import EpisodeLog, run_all
from planning.evaluation.manifest import Pair, draw
from planning.evaluation.policies import WorldModelPolicy
from planning.evaluation.shifted import BOTH, GOAL, ShiftedEnv
from planning.evaluation.shifts import ALL, SHIFTS
from planning.objectives import ObjectiveConfig
from planning.optimisers.cem import CEM, CEMConfig
from planning.strategy import ControllerConfig, Strategy
from tests.planning.point_mass import PointEnv, PointModel

NAMED = {shift.name: shift for shift in SHIFTS}
STRATEGY = Strategy(CEM(CEMConfig(samples=64, iterations=5, elites=8)), ObjectiveConfig(), ControllerConfig(horizon=3))


@pytest.fixture(scope="module")
def push() -> Iterator[GoalEnv]:
    env = make_named("push")
    yield env
    env.close()


@pytest.fixture(scope="module")
def pairs(push: GoalEnv) -> tuple[Pair, ...]:
    return draw(push, "", {}, 5, 2).pairs


def episode(env: ShiftedEnv | GoalEnv, pair: Pair) -> tuple[list[np.ndarray], list[np.ndarray], np.ndarray]:
    """The goal image, all images seen, and all states, of the same actions in any `env`."""
    goal = env.goal_images(np.array(pair.goal))["camera"]
    observation, info = env.reset(seed=0, options={"state": np.array(pair.start)})
    images, states = [goal, observation["images"]["camera"]], [info["state"]]
    for angle in np.linspace(0, 6, 12):
        observation, _, _, _, info = env.step(np.array([0.4 * np.cos(angle), 0.4 * np.sin(angle)], np.float32))
        images.append(observation["images"]["camera"])
        states.append(info["state"])
    return images, states, observation["proprio"]


@pytest.mark.parametrize("where", [GOAL, BOTH])
@pytest.mark.parametrize("name", ["warmer", "moved", "bystander", ALL])
def test_only_images_are_shifted(push: GoalEnv, pairs: tuple[Pair, ...], name: str, where: str) -> None:
    clean, states, proprio = episode(push, pairs[0])
    seen, same_states, same_proprio = episode(ShiftedEnv(push, NAMED[name], 1.0, where, pairs), pairs[0])
    np.testing.assert_array_equal(states, same_states)
    np.testing.assert_array_equal(proprio, same_proprio)
    assert (seen[0] != clean[0]).any() and seen[0].dtype == np.uint8 and seen[0].shape == clean[0].shape
    shifted = [(a != b).any() for a, b in zip(seen[1:], clean[1:], strict=True)]
    assert all(shifted) if where == BOTH else not any(shifted)


def test_one_episode_has_one_camera_and_any_other_another(push: GoalEnv, pairs: tuple[Pair, ...]) -> None:
    env = ShiftedEnv(push, NAMED["moved"], 1.0, BOTH, pairs)
    first, other, again = (episode(env, pairs[i])[0] for i in (0, 1, 0))
    np.testing.assert_array_equal(first, again)
    # The wall at the right end of a row in the middle tells how the camera stands.
    edges = [[image[32, -4:].astype(int) for image in images] for images in (first, other)]
    assert max(np.abs(edge - edges[0][0]).max() for edge in edges[0]) <= 2
    assert np.abs(edges[0][0] - edges[1][0]).max() > 2


def test_the_bystander_of_the_goal_stands_in_the_episode_too(push: GoalEnv, pairs: tuple[Pair, ...]) -> None:
    clean = episode(push, pairs[0])[0]
    seen = episode(ShiftedEnv(push, NAMED["bystander"], 1.0, BOTH, pairs), pairs[0])[0]
    covered = [(a != b).any(-1) for a, b in zip(seen, clean, strict=True)]
    assert 10 < covered[0].sum() < 60
    assert all((each == covered[0]).all() for each in covered)


def test_no_bystander_covers_what_differs_between_start_and_goal(push: GoalEnv) -> None:
    pairs = draw(push, "", {}, 6, 12).pairs
    env = ShiftedEnv(push, NAMED["bystander"], 2.0, GOAL, pairs)
    for pair in pairs:
        start, goal = (push.goal_images(np.array(state))["camera"].astype(int) for state in (pair.start, pair.goal))
        covered = (env.goal_images(np.array(pair.goal))["camera"] != goal).any(-1)
        assert covered.any() and not (covered & (np.abs(start - goal).max(-1) > 16)).any()


def test_it_has_all_that_planning_needs_of_an_environment(push: GoalEnv, pairs: tuple[Pair, ...]) -> None:
    env = ShiftedEnv(push, NAMED["blur"], 1.0, GOAL, pairs)
    needed = [name for name in vars(Environment) if not name.startswith("_")]
    assert len(needed) > 15 and all(hasattr(env, name) for name in needed)
    assert not hasattr(env, "no_such_member")


def test_success_is_the_same_where_the_images_are(tmp_path: Path) -> None:
    pairs = draw(PointEnv(), "sim 1.0", {}, 0, 4, steps_ahead=10).pairs
    policy = WorldModelPolicy(PointModel(), STRATEGY, torch.device("cpu"))
    clean = run_all([PointEnv(), PointEnv()], pairs, policy, 12, EpisodeLog(tmp_path / "clean"))
    outcomes = {}
    for strength in (0.0, 2.0):
        envs = [ShiftedEnv(PointEnv(), NAMED["warmer"], strength, BOTH, pairs) for _ in range(2)]
        outcomes[strength] = run_all(envs, pairs, policy, 12, EpisodeLog(tmp_path / f"{strength}"))
    assert outcomes[0.0] == clean and outcomes[2.0] != clean


def test_outcomes_do_not_depend_on_the_batch(tmp_path: Path) -> None:
    pairs = draw(PointEnv(), "sim 1.0", {}, 0, 3, steps_ahead=10).pairs
    policy = WorldModelPolicy(PointModel(), STRATEGY, torch.device("cpu"))
    alone, together = (
        run_all(
            [ShiftedEnv(PointEnv(), NAMED[ALL], 1.0, BOTH, pairs) for _ in range(size)],
            pairs,
            policy,
            8,
            EpisodeLog(tmp_path / str(size)),
        )
        for size in (1, 3)
    )
    assert alone == together


def test_what_is_no_pair_or_no_place_is_refused(push: GoalEnv, pairs: tuple[Pair, ...]) -> None:
    with pytest.raises(ValueError, match="unknown where 'live': choose from both, goal"):
        ShiftedEnv(push, NAMED["blur"], 1.0, "live", pairs)
    env = ShiftedEnv(push, NAMED["blur"], 1.0, BOTH, pairs)
    with pytest.raises(ValueError, match="goal of no pair"):
        env.goal_images(np.array(pairs[0].start))
    with pytest.raises(ValueError, match="before any episode"):
        env.reset(seed=0)

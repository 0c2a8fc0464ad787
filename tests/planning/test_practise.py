"""The command that records a model's own plans, on the real pushing environment with a toy model."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from envs.push import PushEnv
from envs.registry import env_options, make_env
from planning.practise import RecordedPairs
from tests.commands import Ended, assert_refused
from worldmodel.core.errors import UserError
from worldmodel.data import Recorder, TrajectoryStore

Command = Callable[..., Ended]
SMALL = ["planner.options.samples=8", "planner.options.elites=2", "planner.options.iterations=1", "planner.horizon=3"]
COMMON = ["data=recorded.zarr", "steps_ahead=8", "budget=3", "batch=2", "compile=false", *SMALL]


@pytest.fixture
def practise(call: Command, checkpoint: Path, recording: Path, monkeypatch: pytest.MonkeyPatch) -> Command:
    """`planning.practise` with a small recording, in which any two moments differ enough."""
    monkeypatch.setattr(PushEnv, "is_interesting", lambda self, start, goal: bool((start != goal).any()))
    shutil.copytree(recording, "recorded.zarr")
    return lambda *arguments: call("planning.practise", f"checkpoint={checkpoint}", *COMMON, *arguments)


def test_plans_are_recorded_from_recorded_moments_toward_others(practise: Command) -> None:
    ended = practise("episodes=4", "out=own.zarr")
    assert ended.code == 0, ended
    own, recorded = TrajectoryStore.open("own.zarr"), TrajectoryStore.open("recorded.zarr")
    assert list(own.episode_seeds) == [0, 1, 2, 3] and list(own.episode_ends) == [4, 8, 12, 16]
    known = {state.tobytes() for state in recorded.column("state")}
    assert all(own.column("state")[first].tobytes() in known for first in (0, 4, 8, 12))
    env = make_env(env_options("push"))
    space = env.action_space
    env.close()
    actions = own.column("action")
    assert (actions >= space.low).all() and (actions <= space.high).all()
    assert not actions[3::4].any() and actions[:3].any(), "the last row of an episode has no action"
    assert "without noise: 2 goals" in ended.out and "with noise: 2 goals" in ended.out
    assert "next: python -m worldmodel.data merge recorded.zarr own.zarr NEW" in ended.out


def test_the_states_are_what_the_actions_led_to(practise: Command) -> None:
    assert practise("episodes=2", "out=own.zarr").code == 0
    own = TrajectoryStore.open("own.zarr")
    env = make_env(env_options("push"))
    for index in range(2):
        episode = own.episode(index)
        followed = env.simulate(episode.state[0], episode.action[None, :-1].astype(np.float64))[0]
        assert np.abs(followed[-1] - episode.state[-1]).max() < 1e-5
    env.close()


def test_the_same_command_goes_on_as_if_it_had_not_ended(practise: Command) -> None:
    assert practise("episodes=3", "out=parts.zarr").code == 0
    assert practise("episodes=5", "out=parts.zarr").code == 0
    assert practise("episodes=5", "out=whole.zarr", "batch=5").code == 0
    parts, whole = TrajectoryStore.open("parts.zarr"), TrajectoryStore.open("whole.zarr")
    for column in ("action", "state", "proprio"):
        assert np.array_equal(parts.column(column), whole.column(column)), column
    ended = practise("episodes=5", "out=parts.zarr")
    assert "already recorded: 5 episodes" in ended.out and TrajectoryStore.open("parts.zarr").num_episodes == 5


def test_only_odd_episodes_are_noisy(practise: Command) -> None:
    assert practise("episodes=4", "out=noisy.zarr", "noise=0.5").code == 0
    assert practise("episodes=4", "out=quiet.zarr", "noise=0").code == 0
    noisy, quiet = TrajectoryStore.open("noisy.zarr"), TrajectoryStore.open("quiet.zarr")
    same = [np.array_equal(noisy.episode(k).action[0], quiet.episode(k).action[0]) for k in range(4)]
    assert same == [True, False, True, False]


def test_a_pair_depends_on_its_number_alone(practise: Command) -> None:
    env, store = make_env(env_options("push")), TrajectoryStore.open("recorded.zarr")
    pairs = RecordedPairs(env, store, 8, 0)
    drawn = [pairs.draw(index) for index in range(6)]
    assert [RecordedPairs(env, store, 8, 0).draw(index) for index in reversed(range(6))] == drawn[::-1]
    assert len({pair.start for pair in drawn}) > 3
    rows = {state.tobytes(): row for row, state in enumerate(store.column("state"))}
    for pair in drawn:
        start, goal = (rows[np.array(state).tobytes()] for state in (pair.start, pair.goal))
        assert goal - start == 8 and start // 13 == goal // 13, "8 control steps of one episode"
    env.close()


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("episodes=0", "episodes=0 steps_ahead=8 noise=0.05: 1 to 100,000, at least 1 and 0 to 1 are accepted"),
        ("noise=-1", "episodes=400 steps_ahead=8 noise=-1"),
        ("steps_ahead=13", "steps_ahead=13: no episode of recorded.zarr has so many actions"),
        ("data=none.zarr", "none.zarr"),
        ("env=reacher", "recorded.zarr is a recording of env 'push', not of env 'reacher'"),
        ("out=recorded.zarr", "recorded.zarr"),
    ],
)
def test_what_cannot_be_used(practise: Command, option: str, message: str) -> None:
    before = TrajectoryStore.open("recorded.zarr").num_episodes
    assert_refused(practise(option), message)
    assert TrajectoryStore.open("recorded.zarr").num_episodes == before and not Path("runs/push/practice.zarr").exists()


def test_a_recording_without_states_has_no_place_to_start_from(practise: Command, tmp_path: Path) -> None:
    recorded = TrajectoryStore.open("recorded.zarr")
    spec = recorded.spec.__class__(**{**vars(recorded.spec), "state_size": 0})
    with Recorder(tmp_path / "robot.zarr", spec) as recorder:
        episode = recorded.episode(0)
        images = {name: rows[0] for name, rows in episode.images.items()}
        recorder.step(images, episode.proprio[0], episode.action[0])
        recorder.end_episode(images, episode.proprio[1])
    env = make_env(env_options("push"))
    with pytest.raises(UserError, match="has no simulator states to start from"):
        RecordedPairs(env, TrajectoryStore.open(tmp_path / "robot.zarr"), 1, 0)
    env.close()

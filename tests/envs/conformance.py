"""What every environment owes its users, as tests to inherit: name your class, and a state that breaks it.

Example:
    class TestMine(GoalEnvConformance):
        def make(self):
            return MyEnv()

        def diverging_state(self, env):
            return np.full(4, 1e12)
"""

from __future__ import annotations

import abc
import copy
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from numpy.typing import NDArray

from envs.protocol import Floats, GoalEnv
from worldmodel.core.errors import UserError
from worldmodel.core.spec import HOLD

NUM_STEPS = 12


class GoalEnvConformance(abc.ABC):
    """Inherit and say how the environment is made."""

    simulation_tolerance = 0.0  # of `simulate` against `step`

    @abc.abstractmethod
    def make(self) -> GoalEnv:
        """A fresh environment."""

    def diverging_state(self, env: GoalEnv) -> Floats:
        """A finite state `[N]` from which the next step diverges. Without one, divergence is not tested."""
        pytest.skip("this environment names no state from which it diverges")

    @pytest.fixture
    def env(self) -> Iterator[GoalEnv]:
        env = self.make()
        yield env
        env.close()

    @staticmethod
    def rest(env: GoalEnv) -> NDArray[np.float32]:
        """The action `[A]` under which the robot stays as it is. For many robots it is not zero."""
        spec, proprio = env.action_spec, env.observe()["proprio"]
        low, high = env.action_space.low, env.action_space.high
        action = np.clip(np.zeros(spec.size, np.float32), low, high)
        for dimension, (rest, reading) in enumerate(zip(spec.rest, spec.hold_from, strict=True)):
            if rest == HOLD:
                action[dimension] = high[dimension] if reading is None else proprio[reading]
            elif not isinstance(rest, str):
                action[dimension] = rest
        return np.clip(action, low, high)

    @staticmethod
    def explore(env: GoalEnv, seed: int, num_steps: int = NUM_STEPS) -> tuple[Floats, list[dict[str, Any]], Floats]:
        """Actions `[T, A]`, observations and states `[T, N]` of exploration from where `env` is."""
        explorer, actions, observations, states = env.explorer(np.random.default_rng(seed)), [], [], []
        for _ in range(num_steps):
            actions.append(explorer.act(env))
            observation, _, _, _, info = env.step(actions[-1])
            observations.append(observation)
            states.append(info["state"])
        return np.array(actions), observations, np.array(states)

    @staticmethod
    def assert_same(one: dict[str, Any], two: dict[str, Any]) -> None:
        """Two observations are equal, bit for bit, in all cameras."""
        assert list(one["images"]) == list(two["images"])
        for name, picture in one["images"].items():
            np.testing.assert_array_equal(picture, two["images"][name])
        np.testing.assert_array_equal(one["proprio"], two["proprio"])

    @staticmethod
    def replay(env: GoalEnv, actions: Floats) -> tuple[list[dict[str, Any]], Floats]:
        """Observations and states `[T, N]` of `actions [T, A]` from where `env` is."""
        results = [env.step(action.astype(np.float32)) for action in actions]
        return [r[0] for r in results], np.array([r[4]["state"] for r in results])

    def test_gymnasium_finds_nothing_to_complain_of(self, env: GoalEnv) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            warnings.filterwarnings("ignore", message=".*infinity. This is probably too.*")  # encoders have no bounds
            # Actions are in physical units, and stay so: 0 to 512 pixels is as good as -1 to 1.
            warnings.filterwarnings("ignore", message=".*recommend using a symmetric and normalized space.*")
            check_env(env, skip_render_check=True)  # pictures come from observe() and render_state()

    def test_describes_itself(self, env: GoalEnv) -> None:
        assert env.name and env.control_step_s > 0
        assert env.action_spec.size == env.action_space.shape[0]
        assert np.isfinite(env.action_space.low).all() and np.isfinite(env.action_space.high).all()
        state = env.reset(seed=0)[1]["state"]
        assert set(env.goal_errors(state, state)) == {metric.name for metric in env.metrics}
        assert all(metric.tolerance > 0 and metric.unit for metric in env.metrics)

    def test_cameras_are_as_described(self, env: GoalEnv) -> None:
        observation, info = env.reset(seed=0)
        assert [camera.name for camera in env.cameras] == list(observation["images"])
        goal = env.goal_images(info["state"])
        assert list(goal) == list(observation["images"])
        for camera in env.cameras:
            assert env.observation_space["images"][camera.name].shape == camera.shape
            seen = observation["images"][camera.name]
            assert seen.shape == camera.shape and seen.dtype == np.uint8
            np.testing.assert_array_equal(goal[camera.name], seen)
            np.testing.assert_array_equal(env.render_state(info["state"], camera.name), seen)
        first = env.cameras[0].name
        np.testing.assert_array_equal(env.render_state(info["state"]), observation["images"][first])
        with pytest.raises(UserError, match=rf"unknown camera 'nowhere': choose from .*{first}"):
            env.render_state(info["state"], "nowhere")

    def test_every_camera_sees_the_difference(self, env: GoalEnv) -> None:
        """What no camera sees cannot be a goal, and a camera that sees no difference is broken."""
        states = [env.reset(seed=seed)[1]["state"] for seed in range(3)]
        self.explore(env, 0, 30)
        states.append(env.get_state())
        for camera in env.cameras:
            pictures = {env.render_state(state, camera.name).tobytes() for state in states}
            assert len(pictures) > 1, f"{camera.name} shows {len(states)} different states alike"
        together = {b"".join(p.tobytes() for p in env.goal_images(state).values()) for state in states}
        assert len(together) == len(states), "two different states give the same pictures"

    def test_flags_are_plain(self, env: GoalEnv) -> None:
        """`np.bool_` is no JSON: results could not be written."""
        state = env.reset(seed=0)[1]["state"]
        for goal in (None, state):
            env.set_goal(goal)
            _, reward, terminated, truncated, info = env.step(self.rest(env))
            assert [type(flag) for flag in (terminated, truncated, info["success"], info["diverged"])] == [bool] * 4
            assert type(reward) is float
        assert type(env.is_interesting(state, info["state"])) is bool

    def test_observations_are_finite_and_in_their_space(self, env: GoalEnv) -> None:
        observation, info = env.reset(seed=1)
        _, observations, states = self.explore(env, 1)
        for each in [observation, *observations]:
            assert env.observation_space.contains(each)
            assert np.isfinite(each["proprio"]).all()
            assert all(picture.std() > 1 for picture in each["images"].values())  # a picture, not a blank
        assert np.isfinite(states).all() and np.isfinite(info["state"]).all()
        assert states.dtype == np.float64

    def test_same_seed_same_trajectory(self, env: GoalEnv) -> None:
        first, _ = env.reset(seed=5)
        actions, observations, states = self.explore(env, 5)
        other = self.make()
        try:
            again, _ = other.reset(seed=5)
            actions_again, observations_again, states_again = self.explore(other, 5)
        finally:
            other.close()
        np.testing.assert_array_equal(actions, actions_again)
        np.testing.assert_array_equal(states, states_again)
        for one, two in zip([first, *observations], [again, *observations_again], strict=True):
            self.assert_same(one, two)

    def test_reset_depends_on_the_seed_alone(self, env: GoalEnv) -> None:
        start = env.reset(seed=7)[1]["state"]
        self.explore(env, 0)
        np.testing.assert_array_equal(env.reset(seed=7)[1]["state"], start)
        assert not np.array_equal(env.reset(seed=8)[1]["state"], start)
        assert not np.array_equal(env.reset()[1]["state"], env.reset()[1]["state"])

    def test_a_stored_state_has_the_same_future(self, env: GoalEnv) -> None:
        for seed in range(2):
            env.reset(seed=seed)
            self.explore(env, seed)
            state, present = env.get_state(), env.observe()
            actions, observations, states = self.explore(env, seed + 10)
            env.reset(seed=99)
            env.set_state(state)
            np.testing.assert_array_equal(env.get_state(), state)
            self.assert_same(env.observe(), present)
            observations_again, states_again = self.replay(env, actions)
            np.testing.assert_array_equal(states_again, states)
            self.assert_same(observations_again[-1], observations[-1])

    def test_a_stored_state_holds_all_that_matters(self, env: GoalEnv, monkeypatch: pytest.MonkeyPatch) -> None:
        blank = env.reset(seed=0)[0]
        monkeypatch.setattr(env, "observe", lambda: blank)  # physics alone: many long episodes, quickly
        for seed in range(15):
            env.reset(seed=seed)
            self.explore(env, seed, 30)
            state = env.get_state()
            # Long enough to touch something: contacts betray a solver's memory that was not stored.
            actions, _, states = self.explore(env, seed + 100, 40)
            env.set_state(state)
            np.testing.assert_array_equal(self.replay(env, actions)[1], states, err_msg=f"seed {seed}")

    def test_reset_to_a_state_and_a_goal(self, env: GoalEnv) -> None:
        state = env.reset(seed=2)[1]["state"]
        goal = self.explore(env, 2)[2][-1]
        other = self.make()
        try:
            observation, info = other.reset(seed=0, options={"state": state, "goal": goal})
            np.testing.assert_array_equal(info["state"], state)
            for name, picture in observation["images"].items():
                np.testing.assert_array_equal(picture, env.render_state(state, name))
            assert info["success"] == bool(env.is_success(state, goal))
        finally:
            other.close()
        with pytest.raises(UserError, match=r"start.*state"):
            env.reset(options={"start": state})

    def test_returned_arrays_are_not_shared(self, env: GoalEnv) -> None:
        observation, info = env.reset(seed=0)
        kept, state = copy.deepcopy(observation), info["state"].copy()
        returned = env.get_state(), env.observe()
        self.explore(env, 0)
        self.assert_same(observation, kept)
        np.testing.assert_array_equal(info["state"], state)
        env.set_state(state)
        returned[0][:] = 0
        for picture in returned[1]["images"].values():
            picture[:] = 0
        np.testing.assert_array_equal(env.get_state(), state)
        self.assert_same(env.observe(), kept)

    def test_set_goal_keeps_a_copy(self, env: GoalEnv) -> None:
        goal = env.reset(seed=0)[1]["state"].copy()
        env.set_goal(goal)
        goal[:] = np.nan
        assert env.step(self.rest(env))[4]["success"]

    def test_rendering_a_state_leaves_the_present_alone(self, env: GoalEnv) -> None:
        other_state = env.reset(seed=3)[1]["state"]
        env.reset(seed=4)
        _, _, states = self.explore(env, 4)
        actions, observations, expected = self.explore(env, 14)
        env.set_state(states[-1])
        large = env.render_state(other_state, size=96)
        small = env.goal_images(other_state)
        assert large.shape[0] == 96 and large.dtype == np.uint8
        first = env.cameras[0]
        assert abs(large.shape[1] - 96 * first.width / first.height) <= 0.5  # the proportion stays
        np.testing.assert_array_equal(env.get_state(), states[-1])
        observations_again, states_again = self.replay(env, actions)
        np.testing.assert_array_equal(states_again, expected)
        self.assert_same(observations_again[-1], observations[-1])
        env.set_state(other_state)
        self.assert_same({**env.observe(), "images": small}, env.observe())

    def test_simulation_agrees_with_steps(self, env: GoalEnv) -> None:
        start = env.reset(seed=6)[1]["state"]
        self.explore(env, 6)
        present = env.get_state()
        rng = np.random.default_rng(6)
        actions = rng.uniform(env.action_space.low, env.action_space.high, (3, 8, *env.action_space.shape))
        actions[0] *= 3  # beyond the bounds: both clip
        actions = actions.astype(np.float32)
        simulated = env.simulate(start, actions)
        assert simulated.shape == (3, 8, len(start))
        np.testing.assert_array_equal(env.get_state(), present)
        for sequence, states in zip(actions, simulated, strict=True):
            env.set_state(start)
            np.testing.assert_allclose(self.replay(env, sequence)[1], states, rtol=0, atol=self.simulation_tolerance)

    def test_a_state_is_a_success_at_itself(self, env: GoalEnv) -> None:
        for seed in range(20):
            state = env.reset(seed=seed)[1]["state"]
            assert env.is_success(state, state)
            assert not env.is_interesting(state, state)
            assert all(float(error) == 0 for error in env.goal_errors(state, state).values())

    def test_errors_are_symmetric_and_batched(self, env: GoalEnv) -> None:
        states = np.array([env.reset(seed=seed)[1]["state"] for seed in range(12)])
        forward, backward = env.goal_errors(states[:, None], states), env.goal_errors(states, states[:, None])
        for name, errors in forward.items():
            assert errors.shape == (12, 12)
            assert (errors >= 0).all()
            np.testing.assert_allclose(errors, errors.T, atol=1e-12)
            np.testing.assert_allclose(errors, backward[name], atol=1e-12)
            np.testing.assert_allclose(errors[3, 4], env.goal_errors(states[3], states[4])[name], atol=1e-12)
        success = env.is_success(states[:, None], states)
        assert success.shape == (12, 12) and success.diagonal().all() and not success.all()
        half = np.all([forward[m.name] <= m.tolerance / 2 for m in env.metrics], axis=0)
        np.testing.assert_array_equal(env.is_success(states[:, None], states, scale=0.5), half)

    def test_success_does_not_end_the_episode(self, env: GoalEnv) -> None:
        state = env.reset(seed=0)[1]["state"]
        assert not env.reset(options={"state": state})[1]["success"]  # no goal, no success
        assert env.reset(options={"state": state, "goal": state})[1]["success"]
        _, reward, terminated, truncated, info = env.step(self.rest(env))
        assert info["success"] and reward == 1 and not terminated and not truncated and not info["diverged"]
        env.set_goal(None)
        assert not env.step(self.rest(env))[4]["success"]

    @pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
    def test_a_non_finite_action_is_refused(self, env: GoalEnv, bad: float) -> None:
        env.reset(seed=0)
        before = env.get_state()
        action = self.rest(env)
        action[-1] = bad
        with pytest.raises(UserError, match=str(np.float64(bad))):
            env.step(action)
        np.testing.assert_array_equal(env.get_state(), before)
        with pytest.raises(UserError, match=str(len(action))):
            env.step(np.zeros(len(action) + 1, np.float32))

    def test_a_bad_state_is_refused(self, env: GoalEnv) -> None:
        state = env.reset(seed=0)[1]["state"]
        broken = state.copy()
        broken[0] = np.nan
        for bad in (broken, state[:-1], state[None]):
            with pytest.raises(ValueError, match=f"{len(state)} finite"):
                env.set_state(bad)
        np.testing.assert_array_equal(env.get_state(), state)

    def test_divergence_ends_the_episode(self, env: GoalEnv) -> None:
        env.reset(seed=0)
        state = self.diverging_state(env)
        env.set_goal(state)
        env.set_state(state)
        observation, _, terminated, truncated, info = env.step(self.rest(env))
        assert terminated and info["diverged"] and not truncated and not info["success"]
        assert env.observation_space.contains(observation)
        observation, info = env.reset(seed=0)
        assert not info["diverged"] and env.observation_space.contains(observation)
        assert not env.step(self.rest(env))[2]

    def test_a_diverged_simulation_is_not_a_number(self, env: GoalEnv) -> None:
        good = env.reset(seed=0)[1]["state"]
        actions = np.tile(self.rest(env), (2, 4, 1))
        assert np.isfinite(env.simulate(good, actions)).all()
        assert np.isnan(env.simulate(self.diverging_state(env), actions)).all()
        assert np.isfinite(env.simulate(good, actions)).all()

    def test_paths_lie_in_the_frame(self, env: GoalEnv) -> None:
        env.reset(seed=0)
        _, _, states = self.explore(env, 0)
        paths = env.path_points(states.reshape(2, -1, states.shape[-1]))
        assert paths
        for points in paths.values():
            assert points.shape == (2, NUM_STEPS // 2, 2)
            assert ((points >= 0) & (points <= 1)).all()

    def test_closes_twice(self) -> None:
        env = self.make()
        env.reset(seed=0)
        env.close()
        env.close()

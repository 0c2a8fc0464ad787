"""Environments by name, from configuration and from gymnasium."""

from __future__ import annotations

import os
import subprocess
import sys

import gymnasium
import numpy as np
import pytest

import envs
from envs.dm_control import DmControlEnv
from envs.push import PushConfig, PushEnv
from envs.registry import EnvFamily, describe, env_names, env_options, make_env, make_named, register_all, with_defaults
from worldmodel.core import registry
from worldmodel.core.errors import UserError
from worldmodel.core.spec import EnvironmentSpec


@pytest.fixture
def close_all():
    made = []
    yield made.append
    for env in made:
        env.close()


def test_every_configuration_makes_an_environment(close_all):
    assert {"push", "reacher", "dm_control"} <= set(env_names())
    for name in env_names():
        env = make_named(name)
        close_all(env)
        assert env.observation_space.contains(env.reset(seed=0)[0])


def test_make_env_takes_plain_values(close_all):
    env = make_env({"name": "push", "image_size": 16, "distractors": False})
    close_all(env)
    assert isinstance(env, PushEnv)
    assert env.observation_space["images"]["camera"].shape == (16, 16, 3)


def test_a_suite_task_is_filed_under_domain_and_task(close_all):
    env = make_named("dm_control", domain="pendulum", task="swingup")
    close_all(env)
    assert isinstance(env, DmControlEnv) and env.name == "pendulum_swingup"


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (
            {"name": "pussh"},
            r"unknown env 'pussh': choose from arm_drawer, .*, .*, push_wall, reacher \(did you mean push\?\)",
        ),
        ({"image_size": 64}, r"unknown env ''"),
        ({"name": "dm_control"}, r"dm_control: .*missing.*domain"),
        ({"name": "x", "family": "dm_controll"}, r"unknown env family 'dm_controll': .*did you mean dm_control"),
        (
            {"name": "push", "image_size": 100_000},
            r"image_size 100000 is too large: accepted are 2048 pixels and fewer",
        ),
        ({"name": "arm", "simulated": False}, r"arm is a robot of yours, which nothing here simulates: docs/robot.md"),
        ({"name": "push", "distractor": True}, r"unknown push option 'distractor': .*did you mean distractors"),
        ({"name": "push", "distractors": "maybe"}, r"distractors is 'maybe': expected true or false"),
        ({"name": "push", "image_size": True}, r"image_size is True: expected a whole number"),
        ({"name": "push", "image_size": 2}, r"image_size 2 is too small"),
        (
            {"name": "x", "family": "dm_control", "domain": "reacher", "task": "easy", "fov": 3},
            r"unknown x option 'fov': .*did you mean fovy",
        ),
        ({"name": "x", "family": "dm_control", "domain": "reacher"}, r"x: .*task"),
    ],
)
def test_a_mistake_gets_one_clear_line(config, message):
    with pytest.raises(UserError, match=message) as caught:
        make_env(config)
    assert "\n" not in str(caught.value)


def test_unknown_names_list_the_choices():
    with pytest.raises(UserError, match=r"unknown env 'recher': choose from .*did you mean reacher"):
        env_options("recher")


@pytest.mark.parametrize("name", ["push", "reacher"])
def test_description_is_an_environment_spec(name, close_all):
    options = env_options(name, image_size=32)
    env = make_env(options)
    close_all(env)
    spec = describe(env, options)
    assert (spec.env, spec.only_camera.height) == (name, 32)
    assert spec.control_step_s == env.control_step_s
    observation, info = env.reset(seed=0)
    assert spec.proprio_size == len(observation["proprio"]) and spec.state_size == len(info["state"])
    np.testing.assert_array_equal(np.float32(spec.action.high), env.action_space.high)
    assert spec.simulator.startswith("mujoco 3.")
    assert not {"image_size", "cameras", "family", "name"} & set(spec.options) and spec.options
    assert EnvironmentSpec.from_dict(spec.to_dict()) == spec


@pytest.mark.parametrize("name", ["push", "reacher"])
def test_gymnasium_makes_it(name, close_all):
    register_all()  # a second time, as importing envs did it once
    env = gymnasium.make(f"{name}-v0", image_size=24)
    close_all(env)
    assert env.unwrapped.name == name
    assert env.spec.max_episode_steps is None
    observation, _ = env.reset(seed=0)
    assert observation["images"]["camera"].shape == (24, 24, 3)


def test_several_cameras_of_a_suite_task(close_all):
    cameras = [
        {"name": "top", "camera": "fixed", "height": 32, "width": 48, "fovy": 40},
        {"name": "side", "lookat": [0, 0, 0], "distance": 0.6, "elevation": -30, "height": 40},
    ]
    options = env_options("reacher", cameras=cameras)
    env = make_env(options)
    close_all(env)
    images = env.reset(seed=0)[0]["images"]
    assert {name: picture.shape for name, picture in images.items()} == {"top": (32, 48, 3), "side": (40, 40, 3)}
    assert [camera.name for camera in describe(env, options).cameras] == ["top", "side"]
    with pytest.raises(UserError, match=r"unknown camera option 'hight': .*did you mean height"):
        make_named("reacher", cameras=[{"hight": 3}])
    with pytest.raises(UserError, match=r"cameras are top, top: expected at least one, each name once"):
        make_named("reacher", cameras=[cameras[0], cameras[0]])


def test_a_plug_in_environment_without_options(close_all, monkeypatch):
    monkeypatch.setitem(
        registry._registered["env"], "plain", EnvFamily(None, lambda options: make_named("push", image_size=16))
    )
    assert "plain" in env_names() and env_options("plain") == {"family": "plain", "name": "plain"}
    env = make_named("plain")
    close_all(env)
    assert env.cameras[0].height == 16


def test_a_plug_in_environment_with_options(close_all, monkeypatch):
    family = EnvFamily(with_defaults(PushConfig, {"image_size": 24}), PushEnv)
    monkeypatch.setitem(registry._registered["env"], "small_push", family)
    defaults = {"family": "small_push", "name": "small_push", "image_size": 24, "distractors": False}
    assert env_options("small_push") == defaults
    others = make_named("small_push", name="other"), make_env({"name": "small_push", "image_size": 16})
    for env, size in zip((make_named("small_push"), *others), (24, 24, 16), strict=True):
        close_all(env)
        assert env.cameras[0].height == size
    with pytest.raises(UserError, match=r"unknown PushConfig option 'size': choose from distractors, image_size"):
        with_defaults(PushConfig, {"size": 24})
    with pytest.raises(UserError, match=r"unknown small_push option 'distractor': .*did you mean distractors"):
        make_named("small_push", distractor=True)


def test_a_plug_in_that_fails_says_whose_fault_it_is(monkeypatch):
    def broken(options):
        raise KeyError("motor")

    monkeypatch.setitem(registry._registered["env"], "broken", EnvFamily(None, broken))
    with pytest.raises(UserError, match=r"env broken: 'motor'"):
        make_named("broken")


def test_rendering_works_where_mujoco_was_imported_first():
    """As the import order of most linters has it in a package of the user's."""
    code = (
        "import mujoco; from envs.registry import make_named; env = make_named('push', image_size=16);"
        "assert env.reset(seed=0)[0]['images']['camera'].std() > 1; env.close()"
    )
    environment = {key: value for key, value in os.environ.items() if key not in ("MUJOCO_GL", "PYOPENGL_PLATFORM")}
    subprocess.run([sys.executable, "-c", code], check=True, cwd=f"{envs.__path__[0]}/..", env=environment)


def test_importing_envs_loads_no_simulator():
    code = "import sys, envs, gymnasium; assert 'mujoco' not in sys.modules; assert 'push-v0' in gymnasium.registry"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=f"{envs.__path__[0]}/..")

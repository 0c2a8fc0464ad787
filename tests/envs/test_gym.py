"""Any environment of Gymnasium as a task: two made here, one of them in MuJoCo; others where they are installed."""

from __future__ import annotations

import dataclasses
from typing import Any

import gymnasium
import mujoco
import numpy as np
import pytest
import yaml

from envs.gym import GymConfig, GymGoalEnv, gym_family
from envs.gym_hooks import Hooks
from envs.protocol import Floats, GoalEnv
from tests.envs.conformance import GoalEnvConformance
from worldmodel.core import registry
from worldmodel.core.errors import UserError

XML = """<mujoco>
  <option timestep="0.01"/>
  <worldbody>
    <light pos="0 0 2"/>
    <camera name="top" pos="0 0 1.2"/>
    <geom type="plane" size="1 1 0.1" rgba="0.7 0.7 0.7 1"/>
    <site name="goal_spot" pos="0 0 0.01" size="0.05" rgba="0 1 0 1"/>
    <body name="finger" pos="0 0 0.03">
      <joint name="finger_x" type="slide" axis="1 0 0" range="-0.4 0.4" limited="true" damping="5"/>
      <joint name="finger_y" type="slide" axis="0 1 0" range="-0.4 0.4" limited="true" damping="5"/>
      <geom type="sphere" size="0.03" mass="0.3" rgba="0.1 0.2 0.9 1"/>
      <site name="tip"/>
    </body>
    <body name="box" pos="0.15 0 0.03">
      <freejoint/>
      <geom type="box" size="0.05 0.04 0.03" mass="0.1" rgba="0.9 0.2 0.1 1"/>
    </body>
    <body name="hand" mocap="true" pos="0 0.3 0.1">
      <geom type="sphere" size="0.02" contype="0" conaffinity="0" rgba="0.9 0.9 0.1 1"/>
    </body>
  </worldbody>
  <actuator>
    <velocity joint="finger_x" kv="40" ctrlrange="-0.5 0.5"/>
    <velocity joint="finger_y" kv="40" ctrlrange="-0.5 0.5"/>
  </actuator>
</mujoco>"""


class SlideEnv(gymnasium.Env):
    """Like many of Gymnasium's own: normalised actions, a goal marker, a mocap body, an early end, automatic resets."""

    dt = 0.05

    def __init__(self, render_mode: str | None = None, gain: float = 0.5) -> None:
        assert render_mode is None  # nothing of theirs may be drawn
        self.model = mujoco.MjModel.from_xml_string(XML)
        self.data = mujoco.MjData(self.model)
        self.gain, self.closed = gain, 0
        self.action_space = gymnasium.spaces.Box(-1, 1, (2,), np.float32)
        self.observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (4,), np.float64)

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        mujoco.mj_resetData(self.model, self.data)
        self.model.site("goal_spot").pos[:2] = self.np_random.uniform(-0.3, 0.3, 2)
        self.data.qpos[:2] = self.np_random.uniform(-0.05, 0.05, 2)
        self.data.qpos[2:4] = self.np_random.uniform(0.12, 0.2, 2)
        mujoco.mj_forward(self.model, self.data)
        return self.data.qpos[:4].copy(), {}

    def step(self, action: Any) -> Any:
        assert action.dtype == np.float32 and self.action_space.contains(action)
        self.data.ctrl[:] = self.gain * action
        self.data.mocap_pos[0, 0] += 0.01 * action[0]
        mujoco.mj_step(self.model, self.data, nstep=5)
        return self.data.qpos[:4].copy(), 0.0, True, True, {}

    def close(self) -> None:
        self.closed += 1


class WalkEnv(gymnasium.Env):
    """Not in MuJoCo: a dot on a plane of 100 pixels. It remembers its last step, as a solver would."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 20}  # noqa: RUF012

    def __init__(self, render_mode: str | None = None) -> None:
        assert render_mode == "rgb_array"
        self.action_space = gymnasium.spaces.Box(0, 100, (2,), np.float32)
        self.observation_space = gymnasium.spaces.Box(0, 100, (2,), np.float64)
        self.dot, self.memory = np.zeros(2), np.zeros(2)

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.dot, self.memory = self.np_random.uniform(10, 90, 2), np.zeros(2)
        return self.dot.copy(), {}

    def step(self, action: Any) -> Any:
        self.memory = 0.3 * (action - self.dot) + 0.2 * self.memory
        self.dot = self.dot + self.memory
        if np.abs(self.dot).max() > 1e9:
            self.dot = np.full(2, np.nan)
        return self.dot.copy(), 0.0, False, False, {}

    def render(self) -> Any:
        rows, columns = np.mgrid[:100, :100]
        near = np.exp(-((columns - self.dot[0]) ** 2 + (rows - self.dot[1]) ** 2) / 50)
        return np.stack([255 * near, 0 * near, 255 - 255 * near], -1).astype(np.uint8)


@pytest.fixture(autouse=True)
def registered(monkeypatch):
    monkeypatch.setattr(gymnasium.envs.registration, "registry", dict(gymnasium.registry))
    gymnasium.register("tests/Slide-v0", entry_point=SlideEnv, max_episode_steps=3)
    gymnasium.register("tests/Walk-v0", entry_point=WalkEnv)


SLIDE = GymConfig(
    id="tests/Slide-v0",
    cameras=(
        {"name": "top", "camera": "top", "height": 32, "width": 48},
        {
            "name": "side",
            "lookat": [0, 0, 0],
            "distance": 1.0,
            "azimuth": 45,
            "elevation": -30,
            "height": 40,
            "width": 24,
        },
    ),
    action={"low": [-0.5, -0.5], "high": [0.5, 0.5], "units": ["m/s", "m/s"], "names": ["vx", "vy"]},
    proprio=("site:tip", "joint:finger_x"),
    success=(
        {"of": "body:box", "unit": "cm", "tolerance": 3, "min_change": 4},
        {"of": "angle:box", "unit": "deg", "tolerance": 20, "min_change": 15, "name": "turn"},
    ),
    hidden=("goal",),
)
WALK = GymConfig(
    id="tests/Walk-v0",
    name="walk",
    cameras=({"height": 20},),
    action={"low": [0, 0], "high": [100, 100], "units": ["px", "px"], "rest": ["hold", "hold"], "hold_from": [0, 1]},
    proprio=("state:0,1",),
    success=({"of": "state:0,1", "name": "dot", "unit": "px", "tolerance": 5, "min_change": 10},),
)


def set_dot(env: WalkEnv, state: Floats) -> None:
    env.dot, env.memory = state, np.zeros(2)


WALK_HOOKS = Hooks(lambda env: env.dot, set_dot, paths=lambda states: {"dot": states / 100})


class TestSlide(GoalEnvConformance):
    def make(self) -> GoalEnv:
        return GymGoalEnv(SLIDE)

    def diverging_state(self, env: GoalEnv) -> Floats:
        state = env.get_state()
        state[9:17] = 1e12
        return state


class TestWalk(GoalEnvConformance):
    def make(self) -> GoalEnv:
        return GymGoalEnv(WALK, WALK_HOOKS)

    def diverging_state(self, env: GoalEnv) -> Floats:
        return np.full(2, 1e12)


@pytest.fixture
def slide():
    env = GymGoalEnv(SLIDE)
    yield env
    env.close()


def test_actions_are_physical(slide):
    slide.reset(seed=0)
    start = slide.observe()["proprio"]
    for _ in range(4):
        observation = slide.step(np.array([-0.5, 0.25], np.float32))[0]
    moved = observation["proprio"] - start
    assert -0.11 < moved[0] < -0.08 and 0.04 < moved[1] < 0.055  # 0.2 s at -0.5 and 0.25 m/s, after a start
    assert moved[0] == pytest.approx(moved[3])  # the joint reads what the site does


def test_what_the_environment_draws_of_its_goal_is_hidden(slide):
    state = slide.reset(seed=0)[1]["state"]
    pictures = []
    for seed in range(3):
        slide.reset(seed=seed)
        pictures.append(slide.render_state(state, size=64))
    np.testing.assert_array_equal(pictures[0], pictures[1])
    np.testing.assert_array_equal(pictures[0], pictures[2])
    green = (pictures[0][..., 1].astype(int) > pictures[0][..., 0].astype(int) + 60).any()
    assert not green


def test_errors_are_in_the_units_of_the_configuration(slide):
    state = slide.reset(seed=0)[1]["state"]
    moved = state.copy()
    moved[2] += 0.05
    turned = state.copy()
    turned[5:9] = [np.cos(np.radians(15)), 0, 0, np.sin(np.radians(15))]
    assert slide.goal_errors(moved, state)["box"] == pytest.approx(5.0)
    assert slide.goal_errors(turned, state)["turn"] == pytest.approx(30.0)
    turned[5:9] *= -1  # the same orientation
    assert slide.goal_errors(turned, state)["turn"] == pytest.approx(30.0)
    assert slide.is_interesting(moved, state) and slide.is_interesting(turned, state)
    assert np.isnan(slide.goal_errors(np.full_like(state, np.nan), state)["box"])


@pytest.mark.parametrize("camera", ["top", "side"])
def test_paths_are_where_the_cameras_see_them(camera):
    """Also for a free camera, whose pose the model does not know."""
    cameras = tuple(c for c in SLIDE.cameras if c["name"] == camera)
    env = GymGoalEnv(dataclasses.replace(SLIDE, cameras=cameras, paths=("tip", "box")))
    try:
        rng = np.random.default_rng(0)
        for _ in range(5):
            state = env.reset(seed=0)[1]["state"]
            state[:2], state[2:4] = rng.uniform(-0.2, -0.1, 2), rng.uniform(0.0, 0.1, 2)
            picture = env.render_state(state, size=240).astype(int)
            shape = np.array(picture.shape[1::-1])
            for name, (strong, weak) in {"tip": (2, 0), "box": (0, 2)}.items():
                column, row = np.floor(env.path_points(state)[name] * shape).astype(int)
                pixel = picture[row, column]
                assert pixel[strong] > pixel[weak] + 40, (name, pixel)
    finally:
        env.close()


def test_its_own_end_and_time_limit_do_not_count(slide):
    slide.reset(seed=0)
    for _ in range(10):
        _, _, terminated, truncated, _ = slide.step(np.zeros(2, np.float32))
        assert not terminated and not truncated


def test_it_is_closed(slide):
    inner = slide.world._inner
    slide.close()
    assert inner.closed


def test_actions_as_they_are_without_a_configuration_of_them():
    env = GymGoalEnv(dataclasses.replace(SLIDE, action={}, proprio=(), name=""))
    try:
        assert env.name == "slide_v0" and env.control_step_s == pytest.approx(0.05)
        assert env.action_spec.units == ("control", "control") and env.action_spec.high == (1.0, 1.0)
        assert env.world.proprio_size == 4  # the encoders of two motors: positions and velocities
    finally:
        env.close()


def test_a_file_is_a_task(tmp_path, monkeypatch):
    values = {f.name: getattr(SLIDE, f.name) for f in dataclasses.fields(SLIDE)}
    plain = {k: list(v) if isinstance(v, tuple) else v for k, v in values.items()}
    (tmp_path / "slide.yaml").write_text(yaml.safe_dump({**plain, "make": {"gain": 0.25}}))
    monkeypatch.setitem(registry._registered["env"], "slide", gym_family(tmp_path / "slide.yaml"))
    from envs.registry import describe, env_names, env_options, make_env

    assert "slide" in env_names() and "gym" not in env_names()
    options = env_options("slide")
    env = make_env(options)
    try:
        assert env.name == "slide_v0" and env.world._inner.gain == 0.25
        spec = describe(env, options)
        assert spec.options["id"] == "tests/Slide-v0" and spec.camera_names == ("top", "side")
    finally:
        env.close()
    again = gym_family(SLIDE).build({"name": "other"}, "slide")
    assert again.name == "other"
    again.close()


def test_what_a_simulator_remembers_beside_its_state_is_forgotten_at_each_step():
    env = GymGoalEnv(WALK, WALK_HOOKS)
    env.reset(seed=0)
    env.step(np.array([90, 90], np.float32))
    assert (env.world._inner.memory == 0).all()
    assert env.world.simulator == "tests" and env.control_step_s == 0.05


def judged_by(**changes: Any) -> dict[str, Any]:
    """A configuration whose success is the box's position, but for `changes`."""
    return {"success": ({"of": "body:box", "unit": "cm", "tolerance": 1, "min_change": 1, **changes},)}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"id": "tests/Slid-v0"}, r"gymnasium cannot make tests/Slid-v0: .*Slide"),
        ({"id": "no_such_package:Slide-v0"}, r"gymnasium cannot make no_such_package:Slide-v0: .*no_such_package"),
        ({"id": "tests/Walk-v0", "make": {"render_mode": "rgb_array"}}, r"tests/Walk-v0 is not in MuJoCo"),
        ({"success": ()}, r"success of tests/Slide-v0 is empty"),
        ({"success": ({"of": "body:box", "unit": "cm", "tolerance": 1},)}, r"success: .*min_change"),
        (judged_by(of="body:bx"), r"unknown marker 'bx'.*box"),
        (judged_by(of="angle:bx", unit="deg"), r"unknown body 'bx'.*box"),
        (judged_by(of="joint:x", unit="m"), r"unknown joint 'x'.*finger_x"),
        (judged_by(of="bodi:box"), r"unknown kind of quantity 'bodi:box': .*did you mean body"),
        (judged_by(of="state:x"), r"'state:x' names no numbers"),
        (judged_by(unit="km"), r"unit of body:box 'km'.*cm"),
        (judged_by(tolerance=0), r"tolerance of body:box is 0"),
        ({"proprio": ("site:tp",)}, r"unknown marker 'tp': .*tip"),
        ({"cameras": ({"camera": "topp"},)}, r"unknown camera 'topp': .*top"),
        ({"cameras": ()}, r"cameras are none"),
        ({"cameras": ({"height": 4},)}, r"image_size 4 is too small"),
        ({"cameras": ({"lookat": [0, 0]},)}, r"three coordinates"),
        ({"action": {"low": [-1], "high": [1], "units": ["m/s"]}}, r"tests/Slide-v0 has 1 dimensions: expected 2"),
        ({"action": {"lo": [-1]}}, r"action description has keys"),
    ],
)
def test_a_mistake_gets_one_clear_line(changes, message):
    with pytest.raises(UserError, match=message) as caught:
        GymGoalEnv(dataclasses.replace(SLIDE, **changes))
    assert "\n" not in str(caught.value)

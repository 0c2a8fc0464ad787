"""Options of the arm: what is accepted, and what a new task is made of."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml

from envs.protocol import GoalEnv
from envs.registry import describe, env_options, make_env, make_named
from tests.commands import type_in
from tests.documentation import DOCS, code_of
from worldmodel.core.errors import UserError
from worldmodel.data import TrajectoryStore


@pytest.fixture
def close_all() -> Iterator[Callable[[GoalEnv], None]]:
    made: list[GoalEnv] = []
    yield made.append
    for env in made:
        env.close()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"body": "hnad"}, r"unknown body 'hnad': choose from hand, jaco \(did you mean hand\?\)"),
        ({"cameras": ["top"]}, r"unknown camera 'top': choose from front, side"),
        ({"cameras": []}, r"cameras are none: expected at least one"),
        ({"cameras": ["front", "front"]}, r"cameras are front, front: expected at least one, each name once"),
        ({"goals": ["open"]}, r"unknown kind of goal of arm_push 'open': choose from air, place"),
        ({"goals": []}, r"goals are none"),
        ({"cubes": 0}, r"cubes 0: expected 0 to 4, and at least one without a drawer"),
        ({"cubes": 9}, r"cubes 9: expected 0 to 4"),
        ({"vary": {"lights": True}}, r"unknown vary option 'lights': .*did you mean light"),
        ({"vary": {"light": "bright"}}, r"light is 'bright': expected true or false"),
        ({"cube_tolerance_m": 0}, r"cube_tolerance_m 0 cannot be used: expected metres, above 0"),
        ({"image_size": 2}, r"image_size 2 is too small"),
    ],
)
def test_a_mistake_gets_one_clear_line(options: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        make_named("arm_push", **options)
    assert "\n" not in str(caught.value)


def test_the_body_is_part_of_the_name(close_all: Callable[[GoalEnv], None]) -> None:
    for name, expected in (("arm_push", "arm_push_jaco"), ("arm_push_jaco", "arm_push_jaco"), ("mine", "mine_jaco")):
        env = make_named("arm_push", body="jaco", image_size=8, name=name)
        close_all(env)
        assert env.name == expected


def test_a_recording_of_another_body_is_in_a_folder_of_its_own(tmp_path: Path) -> None:
    small = ("episodes=1", "episode_steps=2", "workers=1", "env.image_size=8", "env.cameras=[side]")
    ended = type_in(tmp_path, "envs.collect", "env=arm_push", "env.body=jaco", *small)
    assert ended.code == 0 and "next: python -m worldmodel.pretrain env=arm_push env.body=jaco" in ended.out, ended
    assert "env.name=arm_push_jaco" in ended.out
    assert TrajectoryStore.open(tmp_path / "runs/arm_push_jaco/data.zarr").spec.env == "arm_push_jaco"


def test_two_cameras_and_all_options_are_described(close_all: Callable[[GoalEnv], None]) -> None:
    options = env_options("arm_drawer", cameras=["side", "front"], image_size=16)
    env = make_env(options)
    close_all(env)
    spec = describe(env, options)
    assert spec.camera_names == ("side", "front")
    assert spec.options["vary"] == dict.fromkeys(("light", "colours", "sizes", "camera", "friction", "mass"), False)


def test_the_documented_task_works(close_all: Callable[[GoalEnv], None]) -> None:
    (text,) = code_of(DOCS / "environments.md", "arm_tidy").values()
    env = make_env({**yaml.safe_load(text), "image_size": 16})
    close_all(env)
    assert [metric.name for metric in env.metrics] == ["cube_1", "cube_2", "drawer"]
    assert env.goal_kinds == ("air", "place", "open", "close")
    assert env.observation_space.contains(env.reset(seed=0)[0])

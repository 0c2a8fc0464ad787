"""`python -m envs.goal`: goal images for everybody."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from envs.goal import GoalConfig, explore_to_goal, save_png
from envs.registry import make_named
from tests.commands import assert_refused, assert_stopped, refuse_to_write, type_in
from worldmodel.core.errors import UserError
from worldmodel.core.options import from_config


def picture(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        assert image.format == "PNG" and image.mode == "RGB"
        return np.asarray(image)


def test_the_command_writes_a_goal_and_says_what_comes_next(tmp_path):
    out = tmp_path / "new folder" / "img.png"
    done = type_in(tmp_path, "envs.goal", "env=push", "seed=3", f"out={out}", "size=96")
    assert done.code == 0, done
    assert str(out) in done.out
    assert "python -m planning.run env=push goal=" in done.out
    assert picture(out).shape == (96, 96, 3)
    assert [file.name for file in out.parent.iterdir()] == ["img.png"]
    env = make_named("push")
    try:
        expected = env.render_state(explore_to_goal(env, seed=3, num_steps=25)[1], size=96)
    finally:
        env.close()
    np.testing.assert_array_equal(picture(out), expected)


def test_every_camera_gets_a_picture_of_its_own(tmp_path):
    cameras = "[{name: top, camera: fixed, height: 24, width: 40}, {name: side, height: 32, width: 16, distance: 0.7}]"
    done = type_in(tmp_path, "envs.goal", "env=reacher", f"env.cameras={cameras}", "out=goals/img.png", "size=48")
    assert done.code == 0, done
    assert picture(tmp_path / "goals" / "img.top.png").shape == (48, 80, 3)
    assert picture(tmp_path / "goals" / "img.side.png").shape == (48, 24, 3)
    assert sorted(file.name for file in (tmp_path / "goals").iterdir()) == ["img.side.png", "img.top.png"]
    assert "goals/img.top.png (80 x 48 pixels)" in done.out and "goals/img.side.png" in done.out
    assert "'goal={top: goals/img.top.png, side: goals/img.side.png}'" in done.out.replace("\n", " ")
    states = []
    for name in ("top", "side"):
        with Image.open(tmp_path / "goals" / f"img.{name}.png") as image:
            states.append((image.text["start_state"], image.text["goal_state"]))
    assert states[0] == states[1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["env=pussh"],
            "unknown env 'pussh': choose from arm_drawer, arm_pick_place, arm_push, dm_control, manipulation, push, "
            "push_two, push_wall, reacher, robot (did you mean push?)",
        ),
        (["sed=3"], "did you mean seed?"),
        (["env=push", "env.distractor=true"], "did you mean env.distractors?"),
        (["out=goal.jpg"], "expected a path that ends in .png"),
    ],
)
def test_a_mistake_ends_in_one_line_and_exit_code_2(tmp_path, arguments, message):
    assert_refused(type_in(tmp_path, "envs.goal", *arguments), message)


@pytest.mark.parametrize(
    "change",
    [
        {"seed": -1},
        {"seed": 2**32},
        {"seed": "three"},
        {"steps": 0},
        {"size": 7},
        {"size": 5000},
        {"size": True},
        {"out": "img"},
        {"out": 3},
    ],
)
def test_values_out_of_range_are_refused(change):
    with pytest.raises(UserError, match=str(next(iter(change)))):
        from_config(GoalConfig, {"seed": 0, "steps": 25, "size": None, "out": "img.png", **change}, "goal")


@pytest.mark.parametrize("name", ["push", "reacher"])
def test_a_goal_is_worth_reaching_and_depends_on_the_seed_alone(name):
    env = make_named(name, image_size=16)
    try:
        goals = [explore_to_goal(env, seed=seed, num_steps=25)[1] for seed in (0, 1, 0)]
        np.testing.assert_array_equal(goals[0], goals[2])
        assert not np.array_equal(goals[0], goals[1])
        assert env.is_interesting(env.reset(seed=0)[1]["state"], goals[0])
    finally:
        env.close()


def test_a_seed_that_leads_nowhere_says_so(monkeypatch):
    monkeypatch.setattr("envs.goal._MAX_EXTRA_STEPS", 3)
    env = make_named("push", image_size=16)
    try:
        monkeypatch.setattr(env, "is_interesting", lambda start, goal: False)
        with pytest.raises(UserError, match=r"seed 4: exploring push leads nowhere in 5 steps"):
            explore_to_goal(env, seed=4, num_steps=2)
    finally:
        env.close()


def test_a_picture_that_cannot_be_written_leaves_the_old_one(tmp_path, monkeypatch):
    path = tmp_path / "img.png"
    save_png(np.zeros((8, 8, 3), np.uint8), path, {}, "push")
    refuse_to_write(monkeypatch, "img.png")
    assert_stopped(type_in(tmp_path, "envs.goal", "env=push", "out=img.png"), "img.png: No space left on device")
    assert picture(path).max() == 0
    assert [file.name for file in tmp_path.iterdir()] == ["img.png"]


def test_a_folder_that_is_a_file_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    assert_refused(type_in(tmp_path, "envs.goal", "env=push", "out=file/img.png"), "out 'file' cannot be written to")

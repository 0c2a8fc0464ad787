"""Goals as they are typed, and what their files say of the simulator."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from envs.registry import env_options, make_env
from planning.evaluation.task import from_images
from tests.commands import Ended, assert_refused
from tests.planning.point_mass import POINT, PointEnv
from worldmodel.core.errors import UserError

Command = Callable[..., Ended]
SMALL = ["planner.options.samples=8", "planner.options.elites=2", "planner.options.iterations=1", "planner.horizon=3"]


def test_states_in_the_picture_decide_start_and_verdict(call: Command, checkpoint: Path, tmp_path: Path) -> None:
    env = make_env(env_options("push"))
    env.reset(seed=5)
    state, text = env.get_state(), PngImagePlugin.PngInfo()
    text.add_text("goal_state", json.dumps(state.tolist()))
    text.add_text("start_state", json.dumps(state.tolist()))
    Image.fromarray(env.render_state(state)).save(tmp_path / "here.png", pnginfo=text)
    env.close()
    ended = call("planning.run", "goal=here.png", f"checkpoint={checkpoint}", "out=there", *SMALL)
    assert ended.code == 0 and "reached after 0 steps, as the simulator judges: " in ended.out, ended
    # The toy model sees no difference either: the two judges agree, and nothing more is said.
    assert "the model, which does not decide" not in ended.out
    result = json.loads(Path("there/result.json").read_text())
    assert result["reached"] and result["judged_by"] == "simulator" and result["steps"] == 0
    np.testing.assert_array_equal(result["states"], [state])


def save_goal(path: Path, env: Any, state: Any, **texts: str) -> None:
    """A picture of `state`, with text chunks."""
    info = PngImagePlugin.PngInfo()
    for name, text in texts.items():
        info.add_text(name, text)
    Image.fromarray(env.render_state(np.array(state))).save(path, pnginfo=info)


def test_a_seed_overrules_the_pictures_start_and_foreign_pictures_are_refused(tmp_path: Path) -> None:
    env, path = PointEnv(), tmp_path / "goal.png"
    states = {"goal_state": "[0.0, 0.5]", "start_state": "[1.0, 1.0]"}
    save_goal(path, env, [0.0, 0.5], **states, environment="point")
    task = from_images(env, POINT, str(path), None)
    assert task.start_state is not None and task.goal_state is not None and not task.notes
    seeded = from_images(env, POINT, path, 4)
    assert seeded.start_state is None and seeded.start_seed == 4
    save_goal(path, env, [1.5, 0.5], **states)  # a picture of something else
    task = from_images(env, POINT, str(path), None)
    assert task.start_state is None and task.goal_state is None
    assert "does not show the simulator state that it holds: only the image is used" in task.notes[0]
    save_goal(path, env, [0.0, 0.5], **states, environment="push")
    with pytest.raises(UserError, match="shows push, not point: expected a picture of point"):
        from_images(env, POINT, str(path), None)
    save_goal(path, env, [0.0, 0.5], goal_state="[1, 2, 3]")  # of before pictures named their environment
    with pytest.raises(UserError, match="holds a state of 3 numbers, and point has states of 2"):
        from_images(env, POINT, str(path), None)


def test_several_goals_are_judged_by_the_last_and_start_with_the_first(tmp_path: Path) -> None:
    env, paths = PointEnv(), [tmp_path / "a.png", tmp_path / "b.png"]
    for path, state in zip(paths, ([0.1, 0.0], [0.5, 0.0]), strict=True):
        save_goal(path, env, state, goal_state=json.dumps(state), start_state=json.dumps([-state[0], 0.0]))
    task = from_images(env, POINT, [str(path) for path in paths], None)
    assert len(task.goals) == 2 and task.goal_state is not None and task.start_state is not None
    assert task.goal_state.tolist() == [0.5, 0.0] and task.start_state.tolist() == [-0.1, 0.0]
    np.testing.assert_array_equal(task.picture, env.render_state(np.array([0.5, 0.0])))


def test_a_push_goal_is_not_for_the_reacher(call: Command) -> None:
    assert call("envs.goal", "env=push", "out=push_goal.png").code == 0
    refused = call("planning.run", "env=reacher", "goal=push_goal.png")
    assert_refused(refused, "goal push_goal.png shows push, not reacher: expected a picture of reacher")


@pytest.mark.parametrize(
    "given", ["goal=[goal.png,goal.png]", "goal={camera: goal.png}", "goal=[{camera: goal.png},goal.png]"]
)
def test_goals_of_all_forms_are_typed(call: Command, checkpoint: Path, goal: Path, given: str) -> None:
    far = "reached_distance=1e-6"
    ended = call("planning.run", given, f"checkpoint={checkpoint}", "budget=2", "out=here", far, *SMALL)
    assert ended.code == 0, ended
    result = json.loads(Path("here/result.json").read_text())
    assert result["sub_goal"] == [0, 0, 0] and result["judged_by"] == "model"
    assert result["goal"] == ("goal.png then goal.png" if "[" in given else "goal.png")


@pytest.mark.parametrize(
    ("picture", "part"),
    [
        (Image.new("L", (64, 64)), "colour mode L"),
        (Image.new("RGBA", (64, 64)), "transparent in places"),
        (Image.new("RGB", (96, 8)), "is 96 x 8 pixels"),
        (Image.new("1", (8000, 8000)), "has 8000 x 8000 pixels: at most 40,000,000"),
        (b"\x89PNG\r\n\x1a\n and no more", "goal.png is"),
    ],
    ids=["grey", "transparent", "flat", "huge", "corrupt"],
)
def test_a_goal_that_cannot_be_used_gets_one_line_and_exit_code_2(
    call: Command, checkpoint: Path, tmp_path: Path, picture: Image.Image | bytes, part: str
) -> None:
    path = tmp_path / "goal.png"
    if isinstance(picture, bytes):
        path.write_bytes(picture)
    else:
        picture.save(path)
    assert_refused(call("planning.run", f"goal={path}", f"checkpoint={checkpoint}"), part)

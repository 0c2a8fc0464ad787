"""A hierarchy in `planning.run`, `planning.evaluate` and a robot's process, with an untrained model of toy size."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import imageio_ffmpeg
import numpy as np
import pytest
import torch

from envs.registry import env_options, make_env
from planning.controller import Controller
from planning.loading import read_pictures
from planning.robot import RobotController
from tests.commands import Ended, assert_refused
from tests.planning.test_controller import make_strategy
from tests.planning.toy_model import make_model
from worldmodel.core.checkpoint import weights_hash
from worldmodel.core.errors import UserError
from worldmodel.core.goal import ImageGoal
from worldmodel.core.observation import Observation
from worldmodel.models.landmarks.building import Considered, build
from worldmodel.models.landmarks.landmarks import PICTURES, LandmarkConfig, save_landmarks
from worldmodel.models.registry import load_model

Command = Callable[..., Ended]
SMALL = ["planner.options.samples=8", "planner.options.elites=2", "planner.options.iterations=1", "planner.horizon=3"]


@pytest.fixture(scope="module")
def landmarks(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Landmarks of the toy checkpoint, from short episodes of exploration."""
    folder, model = tmp_path_factory.mktemp("landmarks"), load_model(str(checkpoint), torch.device("cpu"))
    env, seen = make_env(env_options("push")), []
    for seed in range(6):
        seen.append(env.reset(seed=seed)[0])
        explorer = env.explorer(np.random.default_rng(seed))
        seen += [env.step(explorer.act(env))[0] for _ in range(9)]
    env.close()
    frames = np.stack([one["images"]["camera"] for one in seen])
    config = LandmarkConfig(count=12, every=1, within=3, neighbours=3)
    considered = Considered.of(np.arange(1, 7) * 10, config.every)
    latents = model.observe(None, Observation({"camera": frames}, np.stack([one["proprio"] for one in seen])), None)
    made, chosen = build(model, latents, considered, config, 0, lambda done, total: None)
    save_landmarks(made, folder, weights_hash(model), {})
    np.save(folder / PICTURES, frames[chosen.numpy()], allow_pickle=False)
    return folder


def test_a_run_shows_and_lists_its_sub_goals(call: Command, checkpoint: Path, landmarks: Path) -> None:
    asked = ["seed=3", f"checkpoint={checkpoint}", f"hierarchy={landmarks}", "sub_goals.patience=2", "budget=5"]
    ended = call("planning.run", *asked, "out=here", *SMALL)
    assert ended.code == 0 and "sub_goals.mp4" in ended.out, ended
    result = json.loads(Path("here/result.json").read_text())
    headings = result["headings"]
    assert len(headings) == result["steps"] + 1 == 6
    assert headings[0]["reason"] == "begin" and headings[0]["since"] == 0
    assert {"landmark", "steps", "beyond", "failed"} <= set(headings[0])
    frames, _ = imageio_ffmpeg.count_frames_and_secs("here/sub_goals.mp4")
    assert frames == 6


def test_an_evaluation_with_a_hierarchy_is_another_one(call: Command, checkpoint: Path, landmarks: Path) -> None:
    asked = [f"checkpoint={checkpoint}", "manifest.n=1", "budget=2", "baselines=false", "oracle=false", "reality=0"]
    outs = []
    for more in ([], [f"hierarchy={landmarks}"], [f"hierarchy={landmarks}", "sub_goals.ahead=3"]):
        ended = call("planning.evaluate", *asked, *more, *SMALL)
        assert ended.code == 0, ended
        outs.append(sorted(path.name for path in Path("runs/push/evaluate").iterdir() if path.name != "episodes"))
    assert [len(found) for found in outs] == [1, 2, 3]
    kept = [json.loads((Path("runs/push/evaluate") / name / "results.json").read_text()) for name in outs[-1]]
    assert sorted(str(one["hierarchy"]) for one in kept) == sorted(["None", str(landmarks), str(landmarks)])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["hierarchy=nowhere"], "no landmarks at nowhere: make some with `python -m worldmodel.landmarks`"),
        (["hierarchy=x", "verify=0.1"], "hierarchy=x with verify=0.1: expected one of them"),
        (["hierarchy=x", "monitor=m.json"], "hierarchy=x with monitor=m.json: expected one of them"),
        (["sub_goals.ahead=0"], "ahead 0"),
    ],
)
def test_what_cannot_be_used_gets_one_line(
    call: Command, checkpoint: Path, options: list[str], message: str, tmp_path: Path
) -> None:
    assert_refused(call("planning.run", "seed=3", f"checkpoint={checkpoint}", *options, *SMALL), message)
    assert not (tmp_path / "runs").exists()


def test_a_robot_heads_for_sub_goals(checkpoint: Path, landmarks: Path) -> None:
    env = make_env(env_options("push"))
    goal = env.goal_images(env.reset(seed=4)[1]["state"])["camera"]
    seen = env.reset(seed=5)[0]
    env.close()
    options = [option.removeprefix("planner.") for option in SMALL]
    with RobotController(str(checkpoint), goal, options, "cpu", threads=1, hierarchy=landmarks) as controller:
        decision = controller.act(seen["images"]["camera"], seen["proprio"])
    (heading,) = decision.details.headings
    assert heading is not None and heading.reason == "begin"
    with pytest.raises(UserError, match=r"with verify=0.2: expected one of them"):
        RobotController(str(checkpoint), goal, options, "cpu", hierarchy=landmarks, verify=0.2)


def test_without_a_hierarchy_no_decision_has_a_heading(spec) -> None:
    model, env = make_model(spec), make_env(env_options("push"))
    seen = env.reset(seed=4)[0]
    env.close()
    controller = Controller(model, make_strategy(), [ImageGoal(seen["images"])], torch.device("cpu"))
    assert controller.act(Observation.stack([Observation.of(seen)])).headings == ()


@pytest.mark.parametrize("content", [b"", b"no array", None])
def test_pictures_that_are_none_are_left_out(tmp_path: Path, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / PICTURES).write_bytes(content)
    assert read_pictures(tmp_path) is None

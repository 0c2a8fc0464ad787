"""An arm with two cameras, absolute joint targets with limits on their rates, and a gripper: from typing to acting."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from envs.registry import describe, env_options, make_env
from planning.evaluation.task import Task
from tests.commands import Ended, assert_refused
from tests.envs import jointed_arm
from tests.planning.optimisers.conformance import assert_allowed
from tests.planning.toy_model import save_model
from worldmodel.core.goal import ImageGoal
from worldmodel.core.spec import EnvironmentSpec

SMALL = ["planner.options.samples=8", "planner.options.elites=2", "planner.options.iterations=1", "planner.horizon=3"]


@pytest.fixture(autouse=True)
def _known() -> Iterator[None]:
    with jointed_arm.known():
        yield


@pytest.fixture
def spec() -> EnvironmentSpec:
    options = env_options("jointed")
    env = make_env(options)
    try:
        return describe(env, options)
    finally:
        env.close()


@pytest.fixture
def checkpoint(spec: EnvironmentSpec, tmp_path: Path) -> Path:
    return save_model(tmp_path / "model", spec, patch=8)


def test_it_is_run_toward_pictures_of_both_cameras(
    call: Callable[..., Ended], spec: EnvironmentSpec, checkpoint: Path
) -> None:
    rng = np.random.default_rng(0)
    for camera in spec.cameras:
        photo = rng.integers(0, 256, (50, 70, 3), np.uint8)  # of no camera's proportions
        Image.fromarray(photo).save(f"{camera.name}.png")
    first, second = spec.camera_names
    pictures = f"{{{first}: {first}.png, {second}: {second}.png}}"
    given = ["env=jointed", "checkpoint=model", "budget=3", "out=here", "reached_distance=1e-6", *SMALL]
    for goal in (f"goal={pictures}", f"goal=[{pictures},{pictures}]"):
        ended = call("planning.run", goal, "goal_fit=letterbox", *given)
        assert ended.code == 0, ended
        assert json.loads(Path("here/result.json").read_text())["steps"] == 3
    assert_refused(
        call("planning.run", goal, *given, "command=[1]"), "command is int64 [1]: expected finite numbers [7]"
    )
    assert_refused(call("planning.run", f"goal={first}.png", *given), "has several cameras: expected goal='{")
    assert_refused(call("planning.run", f"goal={{{first}: {first}.png}}", *given), f"goal has no picture of {second}")


def test_it_is_evaluated_with_baselines_that_hold(call: Callable[..., Ended], checkpoint: Path) -> None:
    given = [
        "env=jointed",
        "checkpoint=model",
        "manifest.seed=0",
        "manifest.n=2",
        "manifest.steps_ahead=10",
        "budget=2",
    ]
    ended = call("planning.evaluate", *given, "batch=2", "videos=1", "reality=2", "out=here", *SMALL)
    assert ended.code == 0, ended
    results = json.loads(Path("here/results.json").read_text())
    assert (
        results["n"] == 2 and set(results["floors"]) == {"no_op", "random", "explorer"} and results["ceiling"]["n"] == 2
    )


def test_what_is_commanded_holds_all_limits(
    call: Callable[..., Ended], spec: EnvironmentSpec, checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commanded: list[np.ndarray] = []
    whole = jointed_arm.ArmEnv.step

    def step(self: jointed_arm.ArmEnv, action: np.ndarray) -> object:
        commanded.append(np.array(action))
        return whole(self, action)

    monkeypatch.setattr(jointed_arm.ArmEnv, "step", step)
    arguments = ["env=jointed", "checkpoint=model", "seed=1", "budget=6", "out=here", *SMALL]
    monkeypatch.setattr("planning.run._choose_task", _photo_task(spec))
    assert call("planning.run", *arguments, "reached_distance=1e-6").code == 0
    actions = torch.from_numpy(np.array(commanded, np.float32))[None]
    assert actions.shape == (1, 6, spec.action.size)
    assert_allowed(actions[:, 1:], actions[:, 0], spec.action, spec.control_step_s)


def _photo_task(spec: EnvironmentSpec) -> Callable[..., object]:
    pictures = {camera.name: np.zeros(camera.shape, np.uint8) for camera in spec.cameras}
    task = Task((ImageGoal(pictures),), next(iter(pictures.values())), None, 1, None, "a photo")
    return lambda options, env, spec: task

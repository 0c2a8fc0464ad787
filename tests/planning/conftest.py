"""Fixtures of the tests that type planning's commands."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from envs.registry import describe, env_options, make_env
from tests.commands import Ended, type_in
from tests.planning.toy_model import save_model
from worldmodel.core.spec import EnvironmentSpec


@pytest.fixture(scope="session")
def spec() -> EnvironmentSpec:
    options = env_options("push")
    env = make_env(options)
    env.close()
    return describe(env, options)


@pytest.fixture(scope="session")
def checkpoint(spec: EnvironmentSpec, tmp_path_factory: pytest.TempPathFactory) -> Path:
    env = make_env(env_options("push"))
    frames = np.stack([env.reset(seed=seed)[0]["images"]["camera"] for seed in range(24)])
    env.close()
    return save_model(tmp_path_factory.mktemp("checkpoint"), spec, {"camera": frames})


@pytest.fixture
def call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Ended]:
    """Type a command in an empty folder, which is the working directory of the test too."""
    monkeypatch.chdir(tmp_path)
    return lambda module, *arguments: type_in(tmp_path, module, *arguments)


@pytest.fixture(scope="session")
def recording(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three episodes of 12 actions in `push`, to be copied."""
    folder = tmp_path_factory.mktemp("recording")
    options = ["env=push", "episodes=3", "episode_steps=12", "workers=1", "out=recorded.zarr"]
    assert type_in(folder, "envs.collect", *options).code == 0
    return folder / "recorded.zarr"


@pytest.fixture
def goal(tmp_path: Path) -> Path:
    """A goal picture without any states in it."""
    env = make_env(env_options("push"))
    env.reset(seed=3)
    Image.fromarray(env.render_state(env.get_state(), size=100)).save(tmp_path / "goal.png")
    env.close()
    return tmp_path / "goal.png"

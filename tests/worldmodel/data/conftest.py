"""A small made-up robot and its recordings."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from worldmodel.core.spec import ActionSpec, one_camera
from worldmodel.data import EnvironmentSpec, Episode, EpisodeWriter, TrajectoryStore

SPEC = EnvironmentSpec(
    env="toy",
    cameras=one_camera(8),
    control_step_s=0.1,
    action=ActionSpec((-1.0, -1.0), (1.0, 1.0), ("m/s", "m/s")),
    proprio_size=3,
    state_size=5,
    simulator="none 1.0",
    options={"distractors": False},
)
LENGTHS = (20, 7, 33, 1, 40)


def _make_episode(index: int, num_steps: int = 20, spec: EnvironmentSpec = SPEC) -> Episode:
    rng = np.random.default_rng(index)
    rows = num_steps + 1
    images = {c.name: rng.integers(0, 256, (rows, *c.shape), dtype=np.uint8) for c in spec.cameras}
    if index == 0:
        for pictures in images.values():
            pictures[:18] = 0  # a whole chunk of black frames, which zarr would like to leave out
    low, high = spec.action.bounds
    action = rng.uniform(low, high, (rows, spec.action.size)).astype(np.float32)
    action[-1] = 0
    proprio = rng.standard_normal((rows, spec.proprio_size)).astype(np.float32)
    return Episode(images, action, proprio, rng.standard_normal((rows, spec.state_size)), seed=1000 + index)


def _write_store(path: Path, lengths: tuple[int, ...] = LENGTHS, first: int = 0) -> TrajectoryStore:
    with EpisodeWriter(path, SPEC, {"seed": 0}, episodes_per_commit=2) as writer:
        for index, num_steps in enumerate(lengths, start=first):
            writer.append(_make_episode(index, num_steps))
    return TrajectoryStore.open(path)


@pytest.fixture(scope="session")
def spec() -> EnvironmentSpec:
    return SPEC


@pytest.fixture(scope="session")
def make_episode() -> Callable[..., Episode]:
    """`make_episode(index, num_steps)`: content determined by the arguments."""
    return _make_episode


@pytest.fixture(scope="session")
def write_store() -> Callable[..., TrajectoryStore]:
    """`write_store(path, lengths, first)`: append episodes number `first` and following, and read back."""
    return _write_store


@pytest.fixture(scope="session")
def _pristine_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return _write_store(tmp_path_factory.mktemp("pristine") / "data.zarr").path


@pytest.fixture
def store(tmp_path: Path, _pristine_store: Path) -> TrajectoryStore:
    """Five episodes of 20, 7, 33, 1 and 40 actions: 106 rows. A copy of its own for each test to damage."""
    return TrajectoryStore.open(shutil.copytree(_pristine_store, tmp_path / "data.zarr"))

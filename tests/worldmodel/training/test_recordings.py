"""What the training commands make of a recording before they train."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.worldmodel.toy import SIDE, TOP, TWO_CAMERAS, make_episode, write_store
from worldmodel.core.errors import UserError
from worldmodel.data import TrajectoryStore
from worldmodel.training.recordings import load_cameras, open_recording


@contextlib.contextmanager
def counting(title: str) -> Iterator[Callable[[int, int], None]]:
    assert title == "decode frames"
    yield lambda done, total: None


@pytest.mark.parametrize("env", [{"name": "toy"}, {"name": "arm", "simulated": False}])
def test_a_recording_is_of_the_environment_that_is_named_or_of_a_robot(
    toy_store: TrajectoryStore, env: dict[str, Any]
) -> None:
    assert open_recording(str(toy_store.path), env).num_episodes == 24


@pytest.mark.parametrize("env", [{"name": "push"}, {"name": "push", "simulated": True}, {}])
def test_a_recording_of_another_environment_is_refused_with_both(
    toy_store: TrajectoryStore, env: dict[str, Any]
) -> None:
    expected = rf"data.zarr is a recording of env 'toy', not of env {env.get('name')!r}.*env=robot env\.name=NAME"
    with pytest.raises(UserError, match=expected):
        open_recording(str(toy_store.path), env)


def test_frames_come_by_camera(tmp_path: Path) -> None:
    store = write_store(tmp_path / "data.zarr", 2, TWO_CAMERAS)
    frames = load_cameras(store, tmp_path / "frames.npy", counting)
    assert list(frames) == [TOP, SIDE]
    for camera, pixels in frames.items():
        np.testing.assert_array_equal(pixels[:13], make_episode(0, spec=TWO_CAMERAS).images[camera])

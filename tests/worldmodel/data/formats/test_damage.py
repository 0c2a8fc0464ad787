"""Whatever is wrong with a file, it ends in one line that names it, never in a traceback."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st

from worldmodel.core.errors import UserError
from worldmodel.core.spec import ActionSpec, one_camera
from worldmodel.data import EnvironmentSpec, Episode, EpisodeWriter, TrajectoryStore
from worldmodel.data.formats.exporting import ExportOptions
from worldmodel.data.formats.lerobot_export import export_lerobot
from worldmodel.data.formats.plan import ImportOptions, plan_import
from worldmodel.data.formats.registry import open_source


def quiet(done: int, total: int) -> None:
    assert 0 < done <= total


def robomimic(folder: Path, episodes: list) -> Path:
    with h5py.File(folder / "data.hdf5", "w") as file:
        data = file.create_group("data")
        data.attrs["env_args"] = json.dumps({"env_kwargs": {"control_freq": 20}})
        for index, episode in enumerate(episodes):
            demo = data.create_group(f"demo_{index}")
            demo["actions"] = episode.action
            demo.create_dataset("obs/image", data=episode.pixels[:-1], compression="gzip")
    return folder / "data.hdf5"


def diffusion_policy(folder: Path, episodes: list) -> Path:
    group = zarr.create_group(folder / "data", zarr_format=2)
    group.create_array("data/img", data=np.concatenate([e.pixels[:-1] for e in episodes]), chunks=(5, 12, 16, 3))
    group.create_array("data/action", data=np.concatenate([e.action for e in episodes]))
    group.create_array("meta/episode_ends", data=np.cumsum([len(e.action) for e in episodes]))
    return Path(shutil.make_archive(str(folder / "data.zarr"), "zip", folder / "data"))


def lerobot(folder: Path, episodes: list) -> Path:
    spec = EnvironmentSpec("toy", one_camera(12), 0.1, ActionSpec((-1.0, -1.0), (1.0, 1.0), ("", "")), 3, 4, "none")
    with EpisodeWriter(folder / "store.zarr", spec) as writer:
        for e in episodes:
            action = np.concatenate([e.action, np.zeros((1, 2))]).astype(np.float32)
            writer.append(
                Episode({"camera": np.ascontiguousarray(e.pixels[:, :, :12])}, action, e.proprio, e.state, seed=0)
            )
    export_lerobot(TrajectoryStore.open(folder / "store.zarr"), folder / "exported", ExportOptions(), quiet)
    return folder / "exported"


WRITERS = {"robomimic": robomimic, "diffusion_policy": diffusion_policy, "lerobot": lerobot}


@pytest.fixture(scope="module", params=WRITERS)
def original(request, tmp_path_factory, recorded) -> tuple[str, Path]:
    return request.param, WRITERS[request.param](tmp_path_factory.mktemp(request.param), recorded)


def read_all(format_name: str, path: Path) -> Iterator[Any]:
    """Every number and picture that an import would read."""
    with open_source(format_name, path) as source:
        rate = 10.0 if source.facts.rate_hz is None else None
        plan = plan_import(source, ImportOptions(proprio=["none"], rate_hz=rate), quiet)
        for number, rows in plan.episodes:
            yield source.column(number, plan.choice.action[0].name, rows - 1)
            for camera in plan.cameras.values():
                for frame in source.frames(number, camera.column, rows):
                    yield camera.fit(frame, "frame")


@dataclasses.dataclass(frozen=True)
class Damage:
    """Bytes `at` a part of a file are exchanged, or the file ends there."""

    file: float
    at: float
    content: bytes

    def apply(self, root: Path) -> None:
        files = sorted(p for p in root.rglob("*") if p.is_file()) if root.is_dir() else [root]
        path = files[int(self.file * len(files))]
        content = bytearray(path.read_bytes())
        start = int(self.at * len(content))
        content[start : start + len(self.content) or None] = self.content
        path.write_bytes(content)


_PARTS = st.floats(0, 1, exclude_max=True)


@settings(max_examples=20, derandomize=True)  # the same damage every time
@given(st.builds(Damage, _PARTS, _PARTS, st.binary(max_size=8)))
def test_damage_ends_in_one_line(original: tuple[str, Path], tmp_path_factory, damage: Damage) -> None:
    format_name, path = original
    copy = tmp_path_factory.mktemp("damaged") / path.name
    (shutil.copytree if path.is_dir() else shutil.copy)(path, copy)
    damage.apply(copy)
    try:
        for _ in read_all(format_name, copy):
            pass
    except UserError as error:
        assert str(copy.parent) in str(error) or "--" in str(error)


def test_without_damage_there_is_no_line(original: tuple[str, Path]) -> None:
    assert len(list(read_all(*original))) >= 15

"""Two cameras of different shapes, all the way: record, pretrain, train, load, observe, imagine, measure."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch

from tests.worldmodel.commands import TOY, run
from tests.worldmodel.toy import SIDE, TOP, TWO_CAMERAS, make_episode, write_store
from worldmodel.core.goal import ImageGoal
from worldmodel.core.observation import Observation
from worldmodel.encoders.registry import load_encoder
from worldmodel.models.registry import load_model


def test_two_cameras_of_different_shapes_go_all_the_way(tmp_path: Path) -> None:
    store = write_store(tmp_path / "data.zarr", spec=TWO_CAMERAS)
    for module in ("worldmodel.pretrain", "worldmodel.train"):
        ended = run(module, ("device=cpu", f"data={store.path}", *TOY[module]), tmp_path)
        assert ended.exit_code == 0, ended
    runs = tmp_path / "runs" / "toy"
    assert {"frames.top.npy", "frames.side.npy"} <= {path.name for path in runs.iterdir()}
    log = [json.loads(line) for line in (runs / "encoder" / "log.jsonl").read_text().splitlines()]
    (health, _) = (entry for entry in log if "top/spread" in entry)
    assert {f"{camera}/probe_r2" for camera in (TOP, SIDE)} <= set(health)
    assert all(p.exists() for c in (TOP, SIDE) for p in [runs / "model" / "cameras" / c / "keypoints" / "log.jsonl"])

    model = load_model(str(runs / "model"), torch.device("cpu"))
    assert model.spec == TWO_CAMERAS
    encoder = load_encoder(runs / "encoder", TWO_CAMERAS.cameras)
    for name, value in encoder.state_dict().items():
        torch.testing.assert_close(model.encoder.state_dict()[name], value, atol=1e-3, rtol=1e-3)  # float16 on disk
    episode, latent = make_episode(99, spec=TWO_CAMERAS), None
    for step in range(3):
        images = {camera: image[step][None] for camera, image in episode.images.items()}
        latent = model.observe(latent, Observation(images, episode.proprio[step][None]), None)
    assert latent is not None
    goals = [ImageGoal({c: image[step] for c, image in episode.images.items()}) for step in (2, 12)]
    here, there = (float(model.distance(latent, model.goal(goal))) for goal in goals)
    assert 0 <= here < there
    ahead = model.imagine(latent, torch.from_numpy(np.random.default_rng(0).uniform(-4, 4, (1, 5, 4, 2))).float())
    assert model.distance(ahead, model.goal(goals[1])).shape == (1, 5, 4)

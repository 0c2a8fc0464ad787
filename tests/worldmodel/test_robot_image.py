"""`python -m worldmodel.train state.robot_width=N`: the robot is learned first, and taken out of the images."""

from __future__ import annotations

from pathlib import Path

import torch

from tests.worldmodel.commands import TOY, run
from worldmodel.data import TrajectoryStore
from worldmodel.models.keypoint.model import KeypointModel
from worldmodel.models.registry import load_model

TRAIN, CPU = "worldmodel.train", "device=cpu"


def test_a_robot_that_is_taken_out_of_the_images_is_trained_by_the_same_command(
    tmp_path: Path, toy_store: TrajectoryStore
) -> None:
    few = ("robot_trainer.steps=4", "state_trainer.steps=2", "appearance_trainer.steps=2", "trainer.steps=2")
    options = (f"data={toy_store.path}", "encoder_from=random", CPU, *few)
    ended = run(TRAIN, (*TOY[TRAIN], *options, "state.robot_width=8"), tmp_path)
    assert ended.exit_code == 0, ended
    model = load_model(tmp_path / "runs" / "toy" / "model", torch.device("cpu"))
    assert isinstance(model, KeypointModel)
    camera = model.spec.camera_names[0]
    assert model.view(camera).keypoints.robot_image is not None
    assert "robot_tokens_r2" in (tmp_path / f"runs/toy/model/cameras/{camera}/robot/log.jsonl").read_text()
    tuned = run(TRAIN, (*TOY[TRAIN], *options, "state.robot_width=8", "tuning.encoder=all", "out=tuned"), tmp_path)
    assert tuned.exit_code == 2 and "state.robot_width=8: expected 0" in tuned.stderr, tuned

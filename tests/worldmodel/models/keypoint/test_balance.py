"""Weights of keypoints, by which every thing counts alike."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.worldmodel.toy import COMPRESSION, ENCODER, MODEL, SPEC, STATE
from worldmodel.core.errors import UserError
from worldmodel.core.spec import CameraSpec
from worldmodel.models.keypoint.balance import balanced_weights
from worldmodel.models.keypoint.model import KeypointModel
from worldmodel.models.keypoint.predictor import Belief
from worldmodel.models.keypoint.view import View
from worldmodel.models.registry import load_model

EPISODES, LENGTH = 40, 50
ENDS = np.arange(1, EPISODES + 1) * LENGTH


def paths(seed: int, scale: float = 0.05) -> Tensor:
    """A thing that is moved in some episodes and rests in the others, `[R, 2]`."""
    rng = np.random.default_rng(seed)
    steps = rng.normal(0, scale, (EPISODES, LENGTH, 2)) * rng.integers(0, 2, (EPISODES, 1, 1))
    return torch.from_numpy(np.cumsum(steps, axis=1).reshape(-1, 2)).float()


def on(thing: Tensor, count: int) -> list[Tensor]:
    """Keypoints that follow a thing."""
    generator = torch.Generator().manual_seed(9)
    return [thing + offset + 0.002 * torch.randn(thing.shape, generator=generator) for offset in torch.rand(count)]


def test_every_thing_counts_alike() -> None:
    weights = balanced_weights(torch.stack(on(paths(1), 6) + on(paths(2), 1), dim=1), ENDS)
    assert weights.mean() == pytest.approx(1)
    assert weights[:6].sum() == pytest.approx(float(weights[6]), rel=0.15)


def test_a_keypoint_that_only_wobbles_hardly_counts() -> None:
    thing = paths(1)
    weights = balanced_weights(torch.stack([*on(thing, 2), 0.05 * thing], dim=1), ENDS)
    assert weights[2] < 0.01 * weights[0]


@pytest.mark.parametrize("length", [LENGTH, 2])
def test_where_nothing_moves_all_count_alike(length: int) -> None:
    ends = np.arange(1, 4) * length
    assert balanced_weights(torch.ones(3 * length, 4, 2), ends).tolist() == [1, 1, 1, 1]


def test_jumps_between_episodes_are_no_motion() -> None:
    jumping = torch.arange(EPISODES).repeat_interleave(LENGTH)[:, None] * torch.ones(1, 2)
    weights = balanced_weights(torch.stack([paths(1), jumping], dim=1), ENDS)
    assert weights.tolist() == pytest.approx([2, 0])


def test_only_a_balanced_state_has_weights() -> None:
    def view(balanced: bool) -> View:
        return View(CameraSpec("side", 32, 48), ENCODER, COMPRESSION, dataclasses.replace(STATE, balanced=balanced), 2)

    assert "keypoint_weight" in view(True).state_dict() and "keypoint_weight" not in view(False).state_dict()
    assert view(False).places_weight == 1


BALANCED = dataclasses.replace(STATE, balanced=True)


def weighted(weight: list[float]) -> KeypointModel:
    model = KeypointModel(SPEC, dataclasses.replace(MODEL, state=BALANCED))
    (camera,) = SPEC.camera_names
    kept = model.view(camera).keypoint_weight
    assert kept is not None
    kept.copy_(torch.tensor(weight))
    return model


def test_the_distance_and_the_loss_have_the_weights() -> None:
    model, size = weighted([2.5, 0.5, 0.0]), STATE.size
    nothing = Belief(torch.zeros(1, size), torch.zeros(1, size), torch.zeros(1, 2))
    for coordinate, expected in ((0, 2.5), (1, 2.5), (3, 0.5), (5, 0.0), (6, MODEL.distance.appearance_weight**2)):
        moved = torch.zeros(1, size)
        moved[0, coordinate] = 3.0
        distance = float(model.distance(dataclasses.replace(nothing, state=moved), nothing))
        assert distance == pytest.approx(3 * expected**0.5, abs=1e-5)
    assert model.state_weight().tolist() == [2.5, 2.5, 0.5, 0.5, 0.0, 0.0, 1.0, 1.0]


def test_weights_are_kept_in_the_checkpoint(tmp_path: Path) -> None:
    weighted([2.5, 0.5, 0.0]).save(tmp_path, {})
    loaded = load_model(str(tmp_path), torch.device("cpu"))
    assert isinstance(loaded, KeypointModel)
    assert loaded.state_weight().tolist()[:6] == [2.5, 2.5, 0.5, 0.5, 0.0, 0.0]


def test_a_checkpoint_with_a_negative_weight_is_refused(tmp_path: Path) -> None:
    weighted([2.5, -0.5, 1.0]).save(tmp_path, {})
    with pytest.raises(UserError, match=r"keypoint_weight of camera .* at least 0"):
        load_model(str(tmp_path), torch.device("cpu"))

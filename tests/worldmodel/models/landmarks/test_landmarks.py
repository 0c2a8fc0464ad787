"""Landmarks of small models: they cover what is recorded, come back from a checkpoint, and belong to one model."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.worldmodel.checkpoints import edit_config, edit_tensors
from tests.worldmodel.models.conformance import observe_rows
from tests.worldmodel.models.tokens import small
from tests.worldmodel.toy import SPEC, TWO_CAMERAS, make_model
from worldmodel.core.checkpoint import weights_hash
from worldmodel.core.errors import UserError
from worldmodel.core.goal import ImageGoal
from worldmodel.models.contract import WorldModel
from worldmodel.models.landmarks.building import Considered, build, cover
from worldmodel.models.landmarks.landmarks import (
    LandmarkConfig,
    Landmarks,
    distances,
    load_landmarks,
    save_landmarks,
)

MODELS: dict[str, Callable[[], WorldModel]] = {
    "keypoint": make_model,
    "keypoint of two cameras": lambda: make_model(spec=TWO_CAMERAS),
    "tokens of two cameras": lambda: small.make_model(small.TWO_CAMERAS),
}
CONFIG = LandmarkConfig(count=8, every=2, within=4, neighbours=2)
ENDS = np.array([12, 24, 36])


def ignore(done: int, total: int) -> None:
    pass


@pytest.fixture(params=MODELS)
def model(request: pytest.FixtureRequest) -> WorldModel:
    return MODELS[request.param]()


def make_landmarks(model: WorldModel, config: LandmarkConfig = CONFIG) -> Landmarks:
    considered = Considered.of(ENDS, config.every)
    latents = model.observe(None, observe_rows(model.spec, len(considered.rows), 0), None)
    return build(model, latents, considered, config, 0, ignore)[0]


def goal_of(model: WorldModel, seed: int = 5):
    seen = observe_rows(model.spec, 1, seed)
    return model.goal(ImageGoal({name: image[0] for name, image in seen.images.items()}))


def test_considered_frames_are_of_whole_episodes() -> None:
    considered = Considered.of(np.array([5, 8]), 2)
    assert considered.rows.tolist() == [0, 2, 4, 5, 7]
    assert considered.episode.tolist() == [0, 0, 0, 1, 1]


@pytest.mark.parametrize(
    ("config", "message"),
    [(LandmarkConfig(count=19, every=2, within=4), "18 frames"), (LandmarkConfig(8, 2, 14, 2), "within=14")],
)
def test_a_recording_that_is_too_small_is_refused(config: LandmarkConfig, message: str) -> None:
    with pytest.raises(UserError, match=message):
        Considered.of(ENDS, config.every).require(config)


@pytest.mark.parametrize(
    ("options", "message"),
    [({"count": 0}, "at least 1"), ({"within": 4}, "within 4 must be at least every 5"), ({"detour": 0}, "detour 0")],
)
def test_options_that_make_no_sense_are_refused(options: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        LandmarkConfig(**options)


def test_every_landmark_is_the_farthest_from_those_before(model: WorldModel) -> None:
    latents = model.observe(None, observe_rows(model.spec, 20, 0), None)
    found = cover(model, latents, 6, 0, ignore)
    table = torch.stack([distances(model, latents, latents.rows(slice(i, i + 1))) for i in range(20)])
    for place in range(1, 6):
        nearest = table[:, found.chosen[:place]].amin(1)
        assert nearest[found.chosen[place]] == nearest.max()
    torch.testing.assert_close(found.distance, table[:, found.chosen].amin(1))
    assert torch.equal(found.nearest, table[:, found.chosen].argmin(1))


def test_a_recorded_way_is_as_long_as_it_took_and_what_it_leaves_to_travel(model: WorldModel) -> None:
    config = dataclasses.replace(CONFIG, count=18, within=2)  # every frame is a landmark
    landmarks = make_landmarks(model, config)
    edges, per_unit, recorded = landmarks.edges, landmarks.per_unit, 0
    for start, end, steps in zip(edges.start.tolist(), edges.end.tolist(), edges.steps.tolist(), strict=True):
        between = distances(model, landmarks.latents, landmarks.latents.rows(slice(end, end + 1)))[start]
        straight = 1 + per_unit * float(between)
        if steps != pytest.approx(straight, rel=1e-2):
            assert steps == pytest.approx(2.0, rel=1e-2)
            recorded += 1
    assert recorded > 0


def test_the_way_ends_at_the_goal(model: WorldModel) -> None:
    landmarks = make_landmarks(model)
    goal = goal_of(model)
    guide = landmarks.toward(goal)
    here = goal_of(model, 6)
    last = guide.propose(here, ahead=1e9)
    assert last.landmark is None and last.latent is goal and last.beyond == 0
    near = guide.propose(here, ahead=1e-3)
    assert near.landmark is not None and near.beyond <= near.steps < np.inf
    there = guide.propose(goal, ahead=1.0)
    assert there.landmark is None and there.steps <= 1.0


def test_an_avoided_landmark_is_not_proposed_again(model: WorldModel) -> None:
    guide, here = make_landmarks(model).toward(goal_of(model)), goal_of(model, 6)
    first = guide.propose(here, ahead=1e-3)
    assert first.landmark is not None
    other = guide.propose(here, 1e-3, frozenset({first.landmark}))
    assert other.landmark != first.landmark and other.steps == first.steps


def test_a_checkpoint_brings_the_same_landmarks_back(model: WorldModel, tmp_path: Path) -> None:
    landmarks = make_landmarks(model)
    save_landmarks(landmarks, tmp_path, weights_hash(model), {"made_by": "a test"})
    loaded = load_landmarks(tmp_path, model)
    assert loaded.config == landmarks.config and loaded.pace == pytest.approx(landmarks.pace)
    assert torch.equal(loaded.edges.start, landmarks.edges.start)
    assert torch.equal(loaded.edges.steps, landmarks.edges.steps)
    for name, value in landmarks.latents.tensors().items():
        torch.testing.assert_close(loaded.latents.tensors()[name], value, rtol=1e-3, atol=1e-3)
    goal, here = goal_of(model), goal_of(model, 6)
    before, after = (one.toward(goal).propose(here, 2.0) for one in (landmarks, loaded))
    assert before.landmark == after.landmark and before.steps == pytest.approx(after.steps, rel=1e-2)


def test_landmarks_belong_to_one_model(tmp_path: Path) -> None:
    model, other = make_model(0), make_model(1)
    with pytest.raises(UserError, match=r"no landmarks at .*python -m worldmodel.landmarks"):
        load_landmarks(tmp_path, model)
    save_landmarks(make_landmarks(model), tmp_path, weights_hash(model), {})
    with pytest.raises(UserError, match="made for another world model"):
        load_landmarks(tmp_path, other)


def test_a_damaged_file_is_refused(tmp_path: Path) -> None:
    model = make_model(spec=SPEC)
    save_landmarks(make_landmarks(model), tmp_path, weights_hash(model), {})
    edit_tensors(tmp_path, lambda tensors: tensors["edge_end"].fill_(8))
    with pytest.raises(UserError, match="edges to landmarks that it does not have: expected numbers below 8"):
        load_landmarks(tmp_path, model)
    edit_config(tmp_path, lambda config: config["landmarks"].update(count=9))
    with pytest.raises(UserError):
        load_landmarks(tmp_path, model)

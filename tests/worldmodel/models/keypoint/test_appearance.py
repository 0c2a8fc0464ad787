"""The appearance embedding: what rests keeps it, frames with their things in the same places are told apart by it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tests.worldmodel.toy import make_trainer_config
from worldmodel.models.features import VariedTokens
from worldmodel.models.keypoint.appearance import AppearanceEmbedding, principal_places, rests
from worldmodel.models.keypoint.appearance_training import (
    AppearanceTask,
    AppearanceTrainingConfig,
    GroupSampler,
    VariedStates,
)
from worldmodel.training.trainer import Trainer

CPU = torch.device("cpu")
EPISODES, LENGTH = 60, 12
ENDS = np.arange(1, EPISODES + 1) * LENGTH
OPTIONS = AppearanceTrainingConfig(group=16, pool=600)
NONE = VariedStates(torch.zeros(0, 5), VariedTokens.none((0, 1, 1)))


def recording(seed: int = 0) -> tuple[Tensor, Tensor]:
    """Raw states `[R, 5]` and angles `[R]` of a thing that stays in one place per episode, and turns in half of them.

    The state holds its place, and its angle in a basis that turns with the place, with a disturbance beside it.
    """
    rng = np.random.default_rng(seed)
    place = rng.uniform(-0.8, 0.8, (EPISODES, 1, 2)).repeat(LENGTH, axis=1)
    speed = np.where(rng.random((EPISODES, 1)) < 0.5, 0.0, 0.25)
    angle = rng.uniform(0, 2 * np.pi, (EPISODES, 1)) + speed * np.arange(LENGTH)
    # A turning thing moves its keypoint a little: that is how it is seen not to rest.
    moving = place + 0.05 * np.stack([np.cos(angle), np.sin(angle)], -1) * (speed[..., None] > 0)
    phase = angle + 3 * place[..., 0]
    disturbance = rng.standard_normal((EPISODES, LENGTH))
    code = np.concatenate([moving, np.stack([np.cos(phase), np.sin(phase), disturbance], -1)], -1)
    return torch.from_numpy(code.reshape(-1, 5).astype(np.float32)), torch.from_numpy(angle.reshape(-1))


def make_sampler(raw: Tensor, options: AppearanceTrainingConfig = OPTIONS, seed: int = 0) -> GroupSampler:
    return GroupSampler(raw, 1, ENDS, np.arange(len(raw)), options, seed)


# --- what rests ------------------------------------------------------------------------------------------------------


def test_a_scene_rests_until_something_moves_or_the_episode_ends() -> None:
    places = torch.tensor([[0.0, 0], [0.01, 0], [0.5, 0], [0.51, 0], [0.51, 0], [0.9, 0]])
    assert rests(places, np.array([4, 6]), 0.1).tolist() == [0, 0, 1, 1, 2, 3]


def test_movement_is_the_mean_over_keypoints() -> None:
    places = torch.zeros(2, 8)
    places[1, 0] = 0.2  # one of four keypoints: 0.1 root mean square
    assert rests(places, np.array([2]), 0.11).tolist() == [0, 0]
    assert rests(places, np.array([2]), 0.09).tolist() == [0, 1]


def test_principal_places_keep_what_varies_and_their_distances() -> None:
    generator = torch.Generator().manual_seed(0)
    thing = torch.randn(500, 2, generator=generator)
    keypoints = torch.cat([thing, thing + 0.02 * torch.randn(500, 2, generator=generator)], 1)
    kept = principal_places(keypoints)
    assert kept.shape == (500, 2)
    torch.testing.assert_close(torch.pdist(kept), torch.pdist(keypoints), atol=0.1, rtol=0.05)


# --- groups ----------------------------------------------------------------------------------------------------------


@given(seed=st.integers(0, 50), step=st.integers(0, 1000))
@settings(max_examples=20, deadline=None)
def test_partners_are_near_in_time_or_at_rest_and_of_the_same_episode(seed: int, step: int) -> None:
    raw, _ = recording()
    groups = make_sampler(raw, seed=seed).sample(step, 64)
    assert groups.anchors.shape == groups.partners.shape == groups.at_rest.shape == (4, 16)
    assert (groups.anchors // LENGTH == groups.partners // LENGTH).all()
    apart = np.abs(groups.anchors - groups.partners)
    assert (apart[~groups.at_rest] <= OPTIONS.gap).all()
    still = rests(raw[:, :2], ENDS, OPTIONS.rest).numpy()
    assert (still[groups.anchors] == still[groups.partners])[groups.at_rest].all()


def test_a_group_has_its_things_in_the_same_places() -> None:
    raw, _ = recording()
    anchors = make_sampler(raw).sample(0, 160).anchors
    within = (raw[anchors][..., :2] - raw[anchors][:, :1, :2]).norm(dim=-1).mean()
    assert within < 0.3 * torch.pdist(raw[:, :2]).mean()


def test_groups_depend_on_seed_and_step_alone() -> None:
    raw, _ = recording()
    first, again, other = (make_sampler(raw, seed=s).sample(3, 64) for s in (1, 1, 2))
    assert (first.anchors == again.anchors).all() and (first.partners == again.partners).all()
    assert (first.anchors != other.anchors).any()


def test_only_the_rows_that_are_given_are_anchors() -> None:
    raw, _ = recording()
    rows = np.arange(120)
    sampler = GroupSampler(raw, 1, ENDS, rows, OPTIONS, 0)
    assert sampler.sample(0, 64).anchors.max() < 120


# --- training --------------------------------------------------------------------------------------------------------


def test_the_embedding_follows_the_angle_and_not_the_disturbance(tmp_path: Path) -> None:
    raw, angle = recording()
    torch.manual_seed(0)
    embedding, sampler = AppearanceEmbedding(5, 2, 64), make_sampler(raw)
    embedding.calibrate(raw)
    task = AppearanceTask(embedding, OPTIONS, raw, NONE, sampler, sampler.sample(10**6, 128), 256, CPU)
    before = task.loss(10**6)["contrast"].item()
    config = make_trainer_config(400, 256, 3e-3)
    Trainer(task, config, tmp_path, CPU).run("appearance")
    assert task.loss(10**6)["contrast"].item() < before - 0.1
    assert task.evaluate(400)["rest_distance"] < 0.5
    with torch.no_grad():
        noisy = raw.clone()
        noisy[:, 4] = noisy[:, 4].flip(0)
        turned = embedding(raw).roll(1, 0)
        assert (embedding(noisy) - embedding(raw)).norm(dim=1).median() < 0.3 * (turned - embedding(raw)).norm(
            dim=1
        ).median() + 0.1
        near = [(embedding(raw)[i] - embedding(raw)[j]).norm() for i, j in _same_place_pairs(angle, turned_by=0.2)]
        far = [(embedding(raw)[i] - embedding(raw)[j]).norm() for i, j in _same_place_pairs(angle, turned_by=2.0)]
    assert torch.stack(near).median() < 0.5 * torch.stack(far).median()


def _same_place_pairs(angle: Tensor, turned_by: float) -> list[tuple[int, int]]:
    """Rows of one episode between which the thing has turned about that much."""
    pairs = [(LENGTH * e + i, LENGTH * e + j) for e in range(EPISODES) for i in range(LENGTH) for j in range(i)]
    return [
        (i, j) for i, j in pairs if float(angle[i] - angle[j]) > 0.1 and abs(angle[i] - angle[j] - turned_by) < 0.15
    ]


def test_the_loss_is_its_equation() -> None:
    raw, _ = recording()
    embedding, sampler = AppearanceEmbedding(5, 3, 8), make_sampler(raw)
    task = AppearanceTask(embedding, OPTIONS, raw, NONE, sampler, sampler.sample(0, 32), 32, CPU)
    groups, values = sampler.sample(7, 32), task.loss(7)
    total, resting = [], []
    for anchors, partners, at_rest in zip(groups.anchors, groups.partners, groups.at_rest, strict=True):
        a, b = embedding(raw[anchors]), embedding(raw[partners])
        for i in range(len(a)):
            others = [a[i] @ (b[j] if i == j else a[j]) / OPTIONS.temperature for j in range(len(b))]
            scores = torch.stack(others)
            total.append(-(scores[i] - scores.logsumexp(0)))
            resting.append((a[i] - b[i]).pow(2).sum() * bool(at_rest[i]))
    contrast, rest = torch.stack(total).mean(), torch.stack(resting).mean()
    torch.testing.assert_close(values["contrast"], contrast)
    torch.testing.assert_close(values["loss"], contrast + OPTIONS.rest_weight * rest)


def test_partners_are_seen_in_varied_images_where_there_are_some() -> None:
    raw = torch.arange(8.0)[:, None].repeat(1, 5)
    varied = VariedStates(100 + raw[::2], VariedTokens(np.zeros((4, 1, 1), np.float16), 2))
    rows = np.array([[0, 1], [4, 7]])
    assert varied.in_place_of(raw[rows], rows)[..., 0].tolist() == [[100, 1], [104, 7]]
    assert torch.equal(NONE.in_place_of(raw[rows], rows), raw[rows])


@pytest.mark.parametrize(
    "options",
    [{"group": 1}, {"gap": 0}, {"temperature": 0.0}, {"rest": -0.1}, {"rest_weight": -1.0}, {"pool": 5}],
)
def test_impossible_options_are_refused(options: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(options))):
        AppearanceTrainingConfig(**options)  # type: ignore[arg-type]

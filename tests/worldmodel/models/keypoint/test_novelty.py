"""Images like those of the training are known, and others are not."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.planning.test_robot import SIZE, SPEC, draw
from tests.planning.toy_model import make_model
from worldmodel.core.errors import UserError
from worldmodel.core.goal import ImageGoal
from worldmodel.core.observation import Observation
from worldmodel.models import registry
from worldmodel.models.keypoint.model import KeypointModel
from worldmodel.models.keypoint.novelty import Novelty
from worldmodel.models.keypoint.novelty_training import calibrate_novelty

TOKENS, CHANNELS = 4, 3


def tokens(count: int, seed: int) -> Tensor:
    """Correlated tokens `[B, N, C]`, of another mean and spread at every position."""
    generator = torch.Generator().manual_seed(seed)
    mix = torch.randn(TOKENS, CHANNELS, CHANNELS, generator=torch.Generator().manual_seed(99))
    return torch.einsum("bnc,ncd->bnd", torch.randn(count, TOKENS, CHANNELS, generator=generator), mix) + 5


@pytest.fixture(scope="module")
def model() -> KeypointModel:
    rng = np.random.default_rng(0)
    frames = np.stack([draw(rng.uniform(0, 26, 2)) for _ in range(64)])
    return make_model(SPEC, {"camera": frames}, novelty=True)


def test_novelty_is_its_equation() -> None:
    novelty, known = Novelty(TOKENS, CHANNELS), tokens(5000, 0)
    novelty.fit(known)
    one = tokens(7, 1) * 1.5
    variance = torch.stack([torch.cov(known[:, n].T, correction=0) for n in range(TOKENS)])
    ridge = 0.05 * torch.stack([v.diagonal() for v in variance]).mean() * torch.eye(CHANNELS)
    off = one - known.mean(0)
    expected = torch.einsum("bnc,ncd,bnd->bn", off, torch.linalg.inv(variance + ridge), off).mean(1) / CHANNELS
    torch.testing.assert_close(novelty(one), expected, rtol=1e-3, atol=1e-3)


def test_the_mean_over_the_training_is_about_one_and_what_is_far_off_is_new() -> None:
    novelty = Novelty(TOKENS, CHANNELS)
    novelty.fit(tokens(5000, 0))
    # A little less than 1, since the shrinkage makes every variance larger.
    assert 0.6 < float(novelty(tokens(5000, 1)).mean()) < 1.02
    assert float(novelty(tokens(100, 2) + 20).min()) > float(novelty(tokens(5000, 3)).max())


def test_what_never_changes_has_a_finite_novelty() -> None:
    novelty = Novelty(TOKENS, CHANNELS)
    novelty.fit(torch.ones(10, TOKENS, CHANNELS))
    assert bool(novelty(torch.ones(2, TOKENS, CHANNELS)).isfinite().all())


def test_a_noise_image_is_new_and_an_image_of_the_task_is_not(model: KeypointModel) -> None:
    rng = np.random.default_rng(1)

    def of(image: np.ndarray) -> float:
        return float(model.novelty(model.goal(ImageGoal({"camera": image}))))

    known = [of(draw(rng.uniform(0, 26, 2))) for _ in range(20)]
    noise = [of(rng.integers(0, 256, (SIZE, SIZE, 3), np.uint8)) for _ in range(20)]
    assert min(noise) > model.novelty_limit and min(noise) > max(known)
    assert np.mean(np.array(known) <= model.novelty_limit) >= 0.8


def test_observation_and_goal_of_one_image_are_equally_new(model: KeypointModel) -> None:
    image = draw(np.array([3.0, 9.0]))
    seen = model.observe(None, Observation({"camera": image[None]}, np.zeros((1, 2), np.float32)), None)
    torch.testing.assert_close(model.novelty(seen), model.novelty(model.goal(ImageGoal({"camera": image}))))
    with pytest.raises(UserError, match="expected an observation"):
        model.novelty(model.imagine(seen, torch.zeros(1, 1, 2, 2)))


def test_the_limit_is_the_largest_of_the_kinds_quantiles(model: KeypointModel) -> None:
    limit = model.novelty_limit
    plain = model.tokens("camera", torch.zeros(3, SIZE, SIZE, 3, dtype=torch.uint8))
    other = model.tokens("camera", torch.full((3, SIZE, SIZE, 3), 255, dtype=torch.uint8))
    report = calibrate_novelty(model, [{"camera": plain}, {"camera": other}])
    assert model.novelty_limit == pytest.approx(max(report["original"][-1], report["varied"][-1]))
    model.largest_novelty.fill_(limit)


def test_a_checkpoint_keeps_novelty_and_one_without_it_loads(model: KeypointModel, tmp_path: Path) -> None:
    model.save(tmp_path / "with", {})
    read = registry.load_model(str(tmp_path / "with"), torch.device("cpu"))
    assert isinstance(read, KeypointModel) and read.has_novelty
    assert read.novelty_limit == pytest.approx(model.novelty_limit)
    make_model(SPEC).save(tmp_path / "without", {})
    old = registry.load_model(str(tmp_path / "without"), torch.device("cpu"))
    assert not old.has_novelty
    assert not any("novelty" in name for name in old.state_dict())
    assert dataclasses.asdict(read.config.state)["novelty"] is True

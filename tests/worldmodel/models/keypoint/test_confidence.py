"""Bounds hold as often as they say, and are narrower where errors are smaller."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from worldmodel.models.keypoint.confidence import Confidence
from worldmodel.models.keypoint.confidence_training import coverage, cross_fitted_coverage, judge

STEPS = 3


def draw(count: int, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Errors `[B, H]` that grow with disagreement, with strangeness and by step."""
    generator = torch.Generator().manual_seed(seed)
    disagreement = torch.rand(count, STEPS, generator=generator) + 0.05
    strangeness = torch.rand(count, STEPS, generator=generator) + 0.5
    noise = torch.randn(count, STEPS, generator=generator).exp()
    return noise * disagreement * strangeness.sqrt() * torch.arange(1, STEPS + 1), disagreement, strangeness


@pytest.fixture(scope="module")
def fitted() -> Confidence:
    confidence = Confidence(STEPS)
    confidence.fit(*draw(8000, 0))
    return confidence


@pytest.mark.parametrize("level", [0.5, 0.8, 0.9, 0.95])
def test_bounds_cover_as_often_as_they_say(fitted: Confidence, level: float) -> None:
    errors, *doubts = draw(8000, 1)
    covered = (errors <= fitted.bound(*doubts, level)).float().mean(0)
    assert torch.allclose(covered, torch.tensor(level), atol=0.02), covered


def test_doubt_tells_large_errors_from_small_ones(fitted: Confidence) -> None:
    errors, *doubts = draw(8000, 2)
    report = coverage(errors, *judge(fitted, *doubts))
    assert min(report["auroc"]) > 0.7 and report["rollouts"] == 8000
    shuffled = errors[torch.randperm(8000, generator=torch.Generator().manual_seed(0))]
    assert max(coverage(shuffled, *judge(fitted, *doubts))["auroc"]) < 0.55


def test_no_rollout_is_judged_by_a_calibration_that_has_seen_it() -> None:
    errors, *doubts = draw(6000, 6)
    report = cross_fitted_coverage(errors, *doubts)
    assert report["rollouts"] == 6000
    assert report["coverage"]["0.9"] == pytest.approx([0.9] * STEPS, abs=0.02)
    # A calibration that had seen the last fold's errors would cover 95 % of all.
    errors[5000:] *= 100
    assert max(cross_fitted_coverage(errors, *doubts)["coverage"]["0.95"]) < 5 / 6 + 0.01


def test_the_probability_is_the_inverse_of_the_bound(fitted: Confidence) -> None:
    _, *doubts = draw(100, 3)
    bounds = fitted.bound(*doubts, 0.8)
    for row in range(3):
        for step in range(STEPS):
            one = [part[row] for part in doubts]
            assert float(fitted.probability(*one, float(bounds[row, step]) * 1.0001)[step]) == pytest.approx(
                0.8, abs=0.011
            )


def test_probabilities_are_probabilities_and_grow_with_the_error_that_is_allowed(fitted: Confidence) -> None:
    _, *doubts = draw(50, 4)
    probabilities = torch.stack([fitted.probability(*doubts, error) for error in (0.0, 0.1, 0.5, 2.0, 1e6)])
    assert (probabilities.diff(dim=0) >= 0).all()
    assert (probabilities[0] == 0).all() and (probabilities[-1] == 1).all()


def test_beyond_the_last_step_the_last_one_holds(fitted: Confidence) -> None:
    doubts = torch.full((2, STEPS + 4), 0.3), torch.ones(2, STEPS + 4)
    bound = fitted.bound(*doubts, 0.9)
    assert bound.shape == (2, STEPS + 4)
    assert torch.equal(bound[:, STEPS - 1 :], bound[:, STEPS - 1 : STEPS].expand(-1, 5))


def test_leading_dimensions_are_kept(fitted: Confidence) -> None:
    _, *doubts = draw(24, 5)
    flat = fitted.probability(*doubts, 0.5)
    shaped = fitted.probability(*(part.reshape(2, 3, 4, STEPS) for part in doubts), 0.5)
    assert torch.equal(shaped.reshape(24, STEPS), flat)

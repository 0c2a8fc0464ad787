"""Health figures against cases whose answer is known."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from worldmodel.encoders.jepa.health import effective_rank, linear_probe, spread


def with_variances(variances: list[float]) -> Tensor:
    """Frames of one token whose covariance is diagonal: `[2 D, 1, D]`."""
    size = len(variances)
    rows = torch.diag(torch.tensor(variances, dtype=torch.float32).mul(size).sqrt())
    return torch.cat([rows, -rows])[:, None]


def test_spread_does_not_count_what_depends_on_the_place_alone() -> None:
    places = 10 * torch.randn(16, 8, generator=torch.Generator().manual_seed(0))
    assert spread(places.expand(20, -1, -1)) < 1e-5
    signs = torch.tensor([1.0, -1.0]).repeat(10)[:, None, None]
    assert spread(places + 0.5 * signs) == pytest.approx(0.5, rel=1e-4)


@pytest.mark.parametrize("rank", [1, 3, 8])
def test_effective_rank_counts_equal_directions(rank: int) -> None:
    features = with_variances([2.0] * rank + [0.0] * (8 - rank))
    assert effective_rank(features) == pytest.approx(rank, rel=1e-3)
    rotation = torch.linalg.qr(torch.randn(8, 8, generator=torch.Generator().manual_seed(0))).Q
    assert effective_rank(7.0 * features @ rotation) == pytest.approx(rank, rel=1e-3)


@given(variances=st.lists(st.floats(0.01, 10.0), min_size=2, max_size=12))
@settings(max_examples=40, deadline=None)
def test_effective_rank_is_the_exponential_of_the_entropy(variances: list[float]) -> None:
    shares = [v / sum(variances) for v in variances]
    expected = math.exp(-sum(p * math.log(p) for p in shares))
    assert effective_rank(with_variances(variances)) == pytest.approx(expected, rel=1e-2)


def test_effective_rank_of_features_that_depend_on_the_place_alone_says_collapse() -> None:
    assert effective_rank(torch.randn(1, 16, 8).expand(10, -1, -1)) <= 1.5


def probe_case(num_train: int, width: int) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(num_train + 60, width, generator=generator)
    readout = torch.randn(width, 2, generator=generator)
    return x, x @ readout + 3.0, torch.randn(len(x), 1, generator=generator)


def test_probe_recovers_a_linear_map_and_nothing_else() -> None:
    x, linear, noise = probe_case(num_train=300, width=20)
    y = torch.cat([linear, noise, torch.full_like(noise, 4.0)], dim=1)
    score = linear_probe(x[:300], y[:300], x[300:], y[300:], ridge=1e-4)
    assert score.shape == (4,)
    assert score[:2].min() > 0.999
    assert score[2] < 0.1
    assert torch.isnan(score[3]), "what does not vary cannot be explained"


def test_probe_works_where_features_are_wider_than_frames_are_many() -> None:
    generator = torch.Generator().manual_seed(1)
    hidden = torch.randn(160, 3, generator=generator)
    x = hidden @ torch.randn(3, 500, generator=generator)
    score = linear_probe(x[:100], hidden[:100], x[100:], hidden[100:], ridge=1e-3)
    assert score.min() > 0.99


def test_probe_is_judged_on_the_held_out_rows() -> None:
    """More weights than rows fit any training target; the score must not see that."""
    generator = torch.Generator().manual_seed(2)
    x, y = torch.randn(100, 400, generator=generator), torch.randn(100, 1, generator=generator)
    assert linear_probe(x[:50], y[:50], x[50:], y[50:])[0] < 0.2


def test_probe_does_not_care_for_the_features_scale() -> None:
    x, linear, _ = probe_case(num_train=100, width=10)
    small, large = (linear_probe(s * x[:100], linear[:100], s * x[100:], linear[100:]) for s in (1e-2, 1e2))
    torch.testing.assert_close(small, large, atol=1e-3, rtol=1e-3)


def test_probe_of_features_that_are_all_alike_finds_nothing() -> None:
    _, linear, _ = probe_case(num_train=100, width=10)
    x = torch.full((len(linear), 10), 0.25)
    assert linear_probe(x[:100], linear[:100], x[100:], linear[100:]).max() < 0.01

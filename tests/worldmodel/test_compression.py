"""Principal components of frozen features."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from configs.command import UserError
from worldmodel.compression import Compression, CompressionConfig

TOKENS, WIDTH = 6, 5


def low_rank_tokens(rank: int = 3, rows: int = 80, seed: int = 0) -> Tensor:
    """Tokens `[R, 6, 5]` around a large mean that vary in `rank` directions, each half as much as the one before."""
    generator = torch.Generator().manual_seed(seed)
    directions = torch.linalg.qr(torch.randn(TOKENS * WIDTH, rank, generator=generator)).Q
    weights = torch.randn(rows, rank, generator=generator) * 0.5 ** torch.arange(rank)
    mean = 10 * torch.randn(TOKENS * WIDTH, generator=torch.Generator().manual_seed(99))
    return (mean + weights @ directions.T).unflatten(1, (TOKENS, WIDTH))


def fitted(tokens: Tensor, **options: float) -> tuple[Compression, float]:
    config = CompressionConfig(**{"channels": WIDTH, "size": 3, **options})  # type: ignore[arg-type]
    compression = Compression(config, TOKENS, WIDTH)
    return compression, compression.fit(tokens)


@pytest.mark.parametrize("whitening", [0.0, 0.5, 1.0])
def test_what_varies_in_few_directions_is_kept_whole(whitening: float) -> None:
    tokens = low_rank_tokens()
    compression, kept = fitted(tokens, whitening=whitening)
    assert kept == pytest.approx(1.0, abs=1e-5)
    z = compression(tokens)
    assert z.shape == (80, 3)
    torch.testing.assert_close(z.mean(0), torch.zeros(3), atol=1e-4, rtol=0)
    assert z.pow(2).mean().item() == pytest.approx(1.0, rel=1e-3)


@pytest.mark.parametrize("whitening", [0.0, 0.5, 1.0])
def test_the_distance_is_that_of_the_tokens_whatever_the_whitening(whitening: float) -> None:
    tokens = low_rank_tokens()
    compression, _ = fitted(tokens, whitening=whitening)
    z = compression(tokens)
    distance = compression.distance(z[:40], z[40:])
    between = (tokens[:40] - tokens[40:]).pow(2).sum((1, 2))
    variance = (tokens - tokens.mean(0)).pow(2).sum((1, 2)).mean()
    torch.testing.assert_close(distance, between / variance, rtol=1e-3, atol=1e-4)


def test_unrelated_frames_are_about_two_apart() -> None:
    compression, _ = fitted(low_rank_tokens(rows=4000))
    z = compression(low_rank_tokens(rows=4000))
    assert compression.distance(z[:2000], z[2000:]).mean().item() == pytest.approx(2.0, rel=0.1)


@pytest.mark.parametrize(("whitening", "ratio"), [(0.0, 2.0), (0.5, 2.0**0.5), (1.0, 1.0)])
def test_whitening_evens_the_directions_out(whitening: float, ratio: float) -> None:
    tokens = low_rank_tokens(rows=4000)
    std = fitted(tokens, whitening=whitening)[0](tokens).std(0)
    assert (std[0] / std[1]).item() == pytest.approx(ratio, rel=0.1)
    assert (std[1] / std[2]).item() == pytest.approx(ratio, rel=0.1)


def test_directions_of_largest_variance_come_first_and_are_orthonormal() -> None:
    tokens = low_rank_tokens(rank=5)
    compression, kept = fitted(tokens, size=2)
    variances = torch.linalg.svdvals((tokens - tokens.mean(0)).flatten(1)).pow(2)
    assert kept == pytest.approx((variances[:2].sum() / variances.sum()).item(), rel=1e-4)
    for basis in (compression.channel_basis, compression.joint_basis):
        torch.testing.assert_close(basis.T @ basis, torch.eye(basis.shape[1]), atol=1e-5, rtol=0)


def test_the_same_frames_give_the_same_bits() -> None:
    first, again = (fitted(low_rank_tokens())[0].state_dict() for _ in range(2))
    assert all(torch.equal(first[name], again[name]) for name in first)


def test_no_more_is_kept_than_there_is() -> None:
    compression = Compression(CompressionConfig(channels=16, size=512), TOKENS, WIDTH)
    assert compression.size == TOKENS * WIDTH
    compression.fit(low_rank_tokens(rows=10))
    assert bool(compression(low_rank_tokens(seed=1)).isfinite().all())


def test_a_recording_in_which_nothing_moves_is_refused() -> None:
    with pytest.raises(UserError, match="12 frames are all alike"):
        fitted(torch.ones(12, TOKENS, WIDTH))


@pytest.mark.parametrize(
    ("options", "named"),
    [({"channels": 0}, "channels"), ({"size": 0}, "size"), ({"fit_frames": 0}, "fit_frames"),
     ({"whitening": 1.5}, "whitening 1.5")],
)  # fmt: skip
def test_impossible_options_are_refused(options: dict[str, float], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        CompressionConfig(**options)  # type: ignore[arg-type]

"""Principal components of frozen features."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from worldmodel.core.errors import UserError
from worldmodel.models.compression import Compression, CompressionConfig

TOKENS, WIDTH = 6, 5


def low_rank_tokens(rank: int = 3, rows: int = 80, seed: int = 0) -> Tensor:
    """Tokens `[R, 6, 5]` around a large mean that vary in `rank` directions, each half as much as the one before."""
    generator = torch.Generator().manual_seed(seed)
    directions = torch.linalg.qr(torch.randn(TOKENS * WIDTH, rank, generator=generator)).Q
    weights = torch.randn(rows, rank, generator=generator) * 0.5 ** torch.arange(rank)
    mean = 10 * torch.randn(TOKENS * WIDTH, generator=torch.Generator().manual_seed(99))
    return (mean + weights @ directions.T).unflatten(1, (TOKENS, WIDTH))


def fitted(tokens: Tensor, channels: int = WIDTH) -> tuple[Compression, float]:
    compression = Compression(CompressionConfig(channels=channels), TOKENS, WIDTH)
    return compression, compression.fit(tokens[None])


def test_all_channels_keep_everything() -> None:
    tokens = low_rank_tokens()
    compression, kept = fitted(tokens)
    assert kept == pytest.approx(1.0, abs=1e-5)
    z = compression(tokens)
    assert z.shape == (80, TOKENS, WIDTH)
    back = z * compression.std @ compression.basis.T + compression.mean
    torch.testing.assert_close(back, tokens, atol=1e-3, rtol=1e-3)


def test_every_channel_varies_alike_around_the_mean_of_its_place() -> None:
    z = fitted(low_rank_tokens(rank=20, rows=400))[0](low_rank_tokens(rank=20, rows=400))
    torch.testing.assert_close(z.mean(0), torch.zeros(TOKENS, WIDTH), atol=1e-3, rtol=0)
    torch.testing.assert_close(z.pow(2).mean((0, 1)), torch.ones(WIDTH), rtol=1e-3, atol=0)


def test_channels_of_largest_variance_come_first_and_are_orthonormal() -> None:
    tokens = low_rank_tokens(rank=5)
    compression, kept = fitted(tokens, channels=2)
    centred = (tokens - tokens.mean(0)).flatten(0, 1)
    variances = torch.linalg.svdvals(centred).pow(2)
    assert kept == pytest.approx((variances[:2].sum() / variances.sum()).item(), rel=1e-4)
    torch.testing.assert_close(compression.basis.T @ compression.basis, torch.eye(2), atol=1e-5, rtol=0)
    assert compression.std[0] > compression.std[1]


def test_the_same_frames_give_the_same_bits() -> None:
    first, again = (fitted(low_rank_tokens())[0].state_dict() for _ in range(2))
    assert all(torch.equal(first[name], again[name]) for name in first)


def test_no_more_is_kept_than_there_is() -> None:
    compression = Compression(CompressionConfig(channels=16), TOKENS, WIDTH)
    assert compression.channels == WIDTH
    compression.fit(low_rank_tokens(rank=1, rows=10)[None])
    assert bool(compression(low_rank_tokens(seed=1)).isfinite().all())


def test_a_recording_in_which_nothing_moves_is_refused() -> None:
    with pytest.raises(UserError, match="12 frames each of 1 episodes are all alike"):
        fitted(torch.ones(12, TOKENS, WIDTH))


def test_what_differs_between_episodes_only_takes_no_channel() -> None:
    within = low_rank_tokens(rank=2).unflatten(0, (8, 10))
    floor = 100 * torch.randn(8, 1, 1, WIDTH, generator=torch.Generator().manual_seed(5))
    plain, dressed = (Compression(CompressionConfig(channels=2), TOKENS, WIDTH) for _ in range(2))
    assert dressed.fit(within + floor) == pytest.approx(plain.fit(within), rel=1e-6)
    torch.testing.assert_close(dressed.basis, plain.basis)
    torch.testing.assert_close(dressed.std, plain.std)


@pytest.mark.parametrize("options", [{"channels": 0}, {"frames_per_episode": 1}, {"fit_frames": 15}])
def test_impossible_options_are_refused(options: dict[str, int]) -> None:
    name, value = next(iter(options.items()))
    with pytest.raises(ValueError, match=f"{name}={value}"):
        CompressionConfig(**options)

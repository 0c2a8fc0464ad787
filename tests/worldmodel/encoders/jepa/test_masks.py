"""Multi-block masks."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from worldmodel.encoders.base import Grid
from worldmodel.encoders.jepa.masks import SHORT_RANGE, Mask, MaskConfig, sample_mask

configs = st.builds(
    MaskConfig,
    blocks=st.integers(1, 10),
    spatial_scale=st.floats(0.01, 0.99),
    aspect_ratio=st.sampled_from([(0.75, 1.5), (1.0, 1.0), (0.1, 8.0)]),
)


@given(
    config=configs,
    batch=st.integers(1, 5),
    frames=st.integers(1, 4),
    grid=st.builds(Grid, st.integers(2, 9), st.integers(1, 9)),
    seed=st.integers(0, 2**32 - 1),
)
@settings(max_examples=150, deadline=None)
def test_a_mask_divides_every_frame_alike(config: MaskConfig, batch: int, frames: int, grid: Grid, seed: int) -> None:
    mask = sample_mask(config, batch, frames, grid, np.random.default_rng(seed))
    places = grid.tokens
    assert mask.visible.shape[1] > 0
    assert mask.hidden.shape[1] > 0
    for visible, hidden in zip(mask.visible, mask.hidden, strict=True):
        assert torch.equal(torch.cat([visible, hidden]).sort().values, torch.arange(frames * places))
        assert bool((visible.diff() > 0).all())
        assert bool((hidden.diff() > 0).all())
        by_frame = visible.reshape(frames, -1) - places * torch.arange(frames)[:, None]
        assert torch.equal(by_frame, by_frame[:1].expand_as(by_frame)), "the same places in every frame"


def test_the_generator_alone_decides() -> None:
    first, again = (sample_mask(SHORT_RANGE, 4, 2, Grid(8, 8), np.random.default_rng(7)) for _ in range(2))
    other = sample_mask(SHORT_RANGE, 4, 2, Grid(8, 8), np.random.default_rng(8))
    assert torch.equal(first.visible, again.visible)
    assert torch.equal(first.hidden, again.hidden)
    assert first.visible.shape != other.visible.shape or not torch.equal(first.visible, other.visible)
    assert not torch.equal(first.visible[0], first.visible[1]), "each clip has a mask of its own"


def hidden_fraction(config: MaskConfig, grid: int, draws: int = 200) -> float:
    rng = np.random.default_rng(0)
    masks = [sample_mask(config, 1, 1, Grid(grid, grid), rng) for _ in range(draws)]
    return float(np.mean([mask.hidden.shape[1] / grid**2 for mask in masks]))


@pytest.mark.parametrize("scale", [0.15, 0.4, 0.7])
def test_one_block_hides_its_share(scale: float) -> None:
    assert hidden_fraction(MaskConfig(1, scale), grid=16) == pytest.approx(scale, rel=0.1)


def test_the_two_masks_of_vjepa_hide_most_of_the_frame() -> None:
    """About 90 % on average by the paper's account; blocks overlap, and small grids round."""
    assert 0.6 < hidden_fraction(SHORT_RANGE, grid=8) < 0.85
    assert 0.8 < hidden_fraction(MaskConfig(2, 0.7), grid=8) < 0.97


def test_a_single_block_is_a_rectangle_within_its_aspect_ratio() -> None:
    rng = np.random.default_rng(1)
    for _ in range(50):
        hidden = np.zeros(256, bool)
        hidden[sample_mask(MaskConfig(1, 0.3), 1, 1, Grid(16, 16), rng).hidden[0].numpy()] = True
        rows, columns = np.nonzero(hidden.reshape(16, 16))
        height, width = np.ptp(rows) + 1, np.ptp(columns) + 1
        assert hidden.sum() == height * width
        assert 0.65 < height / width < 1.75  # 0.75 to 1.5, and half a token of rounding


@pytest.mark.parametrize(("blocks", "scale"), [(0, 0.5), (1, 0.0), (1, 1.0), (1, float("nan"))])
def test_impossible_masks_are_refused(blocks: int, scale: float) -> None:
    with pytest.raises(ValueError, match="spatial_scale"):
        MaskConfig(blocks, scale)


def test_a_mask_moves_to_a_device() -> None:
    mask = Mask(torch.tensor([[0]]), torch.tensor([[1]])).to(torch.device("meta"))
    assert mask.visible.is_meta
    assert mask.hidden.is_meta

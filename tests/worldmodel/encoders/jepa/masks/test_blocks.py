"""Multi-block masks."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from worldmodel.core.errors import UserError
from worldmodel.encoders.base import Grid
from worldmodel.encoders.jepa.masks import SHORT_RANGE, Mask, MultiBlock, OfficialMultiBlock

configs = st.builds(
    MultiBlock,
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
@settings(max_examples=60, deadline=None)
def test_a_mask_divides_every_frame_alike(config: MultiBlock, batch: int, frames: int, grid: Grid, seed: int) -> None:
    mask = config(batch, frames, grid, np.random.default_rng(seed))
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
    first, again = (SHORT_RANGE(4, 2, Grid(8, 8), np.random.default_rng(7)) for _ in range(2))
    other = SHORT_RANGE(4, 2, Grid(8, 8), np.random.default_rng(8))
    assert torch.equal(first.visible, again.visible)
    assert torch.equal(first.hidden, again.hidden)
    assert first.visible.shape != other.visible.shape or not torch.equal(first.visible, other.visible)
    assert not torch.equal(first.visible[0], first.visible[1]), "each clip has a mask of its own"


def hidden_fraction(config: MultiBlock, grid: int, draws: int = 200) -> float:
    rng = np.random.default_rng(0)
    masks = [config(1, 1, Grid(grid, grid), rng) for _ in range(draws)]
    return float(np.mean([mask.hidden.shape[1] / grid**2 for mask in masks]))


@pytest.mark.parametrize("scale", [0.15, 0.4, 0.7])
def test_one_block_hides_its_share(scale: float) -> None:
    assert hidden_fraction(MultiBlock(1, scale), grid=16) == pytest.approx(scale, rel=0.1)


def test_the_two_masks_of_vjepa_hide_most_of_the_frame() -> None:
    """About 90 % on average by the paper's account; blocks overlap, and small grids round."""
    assert 0.6 < hidden_fraction(SHORT_RANGE, grid=8) < 0.85
    assert 0.8 < hidden_fraction(MultiBlock(2, 0.7), grid=8) < 0.97


def test_a_single_block_is_a_rectangle_within_its_aspect_ratio() -> None:
    rng = np.random.default_rng(1)
    for _ in range(50):
        hidden = np.zeros(256, bool)
        hidden[MultiBlock(1, 0.3)(1, 1, Grid(16, 16), rng).hidden[0].numpy()] = True
        rows, columns = np.nonzero(hidden.reshape(16, 16))
        height, width = np.ptp(rows) + 1, np.ptp(columns) + 1
        assert hidden.sum() == height * width
        assert 0.65 < height / width < 1.75  # 0.75 to 1.5, and half a token of rounding


@pytest.mark.parametrize(("blocks", "scale"), [(0, 0.5), (1, 0.0), (1, 1.0), (1, float("nan"))])
def test_impossible_masks_are_refused(blocks: int, scale: float) -> None:
    with pytest.raises(ValueError, match="spatial_scale"):
        MultiBlock(blocks, scale)


def test_a_mask_moves_to_a_device() -> None:
    mask = Mask(torch.tensor([[0]]), torch.tensor([[1]])).to(torch.device("meta"))
    assert mask.visible.is_meta
    assert mask.hidden.is_meta


# --- as in the published code ----------------------------------------------------------------------------------------


class Replay:
    """A generator that hands out the draws of another one, in the form in which the published code uses them."""

    def __init__(self, uniform: float, places: list[int]) -> None:
        self.uniform, self.places = uniform, places

    def random(self) -> float:
        return self.uniform

    def integers(self, room: int) -> int:
        place = self.places.pop(0)
        assert 0 <= place < room, "the rectangles have another size than in the published code"
        return place


# Two clips of 2 tubelet layers of 6 x 8 tokens, `#` hidden, `.` visible, and a space for neither. They were drawn by
# `_MaskGenerator` of `src/masks/multiseq_multiblock3d.py` (facebookresearch/vjepa2) after `torch.manual_seed(3)`, with
# `torch.rand` and `torch.randint` recorded.
PUBLISHED = {
    (8, 0.15): (
        [1, 2, 2, 4, 0, 5, 4, 4, 0, 5, 4, 3, 0, 2, 4, 3, 2, 2, 4, 4, 0, 1, 3, 3, 3, 4, 1, 1, 1, 3, 1, 4],
        [
            "..######|..######|..#####.|....###.|...####.|...####.|"
            "..######|..######|..#####.|....###.|...####.|...##  .",
            ".###....|.######.|.######.|..#####.|...####.|....###.|"
            ".###....|.######.|.######.|..#####.|...####.|... ### ",
        ],
    ),
    (2, 0.7): (
        [0, 2, 1, 1, 0, 2, 1, 1],
        ["..######|.#######|.#######|.#######|.#######|.######.|..######|.#######|.#######|.#######|.#######|.######."]
        * 2,
    ),
}


@pytest.mark.parametrize(("blocks", "scale"), PUBLISHED)
def test_the_official_mask_is_that_of_the_published_code(blocks: int, scale: float) -> None:
    draws, drawn = PUBLISHED[(blocks, scale)]
    rng = Replay(0.08847743272781372, list(draws))
    mask = OfficialMultiBlock(blocks, scale)(2, 2, Grid(6, 8), rng)  # type: ignore[arg-type]
    assert rng.places == [], "as many draws as in the published code"
    for visible, hidden, picture in zip(mask.visible.tolist(), mask.hidden.tolist(), drawn, strict=True):
        tokens = picture.replace("|", "")
        assert visible == [i for i, mark in enumerate(tokens) if mark == "."]
        assert hidden == [i for i, mark in enumerate(tokens) if mark == "#"]


@given(
    blocks=st.integers(1, 8),
    scale=st.sampled_from([0.15, 0.4, 0.7]),
    batch=st.integers(1, 5),
    frames=st.integers(1, 4),
    grid=st.builds(Grid, st.integers(5, 9), st.integers(5, 9)),
    seed=st.integers(0, 2**32 - 1),
)
@settings(max_examples=30, deadline=None)
def test_official_blocks_have_one_size_and_the_same_place_in_every_frame(
    blocks: int, scale: float, batch: int, frames: int, grid: Grid, seed: int
) -> None:
    mask = OfficialMultiBlock(blocks, scale)(batch, frames, grid, np.random.default_rng(seed))
    again = OfficialMultiBlock(blocks, scale)(batch, frames, grid, np.random.default_rng(seed))
    assert torch.equal(mask.visible, again.visible) and torch.equal(mask.hidden, again.hidden)
    assert min(mask.visible.shape[1], mask.hidden.shape[1]) > 0
    for visible, hidden in zip(mask.visible.tolist(), mask.hidden.tolist(), strict=True):
        assert not set(visible) & set(hidden)
        assert visible == sorted(set(visible)) and hidden == sorted(set(hidden))
        # Where tokens are left out, they are the last ones of their kind.
        for kept, other in ((visible, hidden), (hidden, visible)):
            places = {token % grid.tokens for token in kept}
            expected = [token for token in range(frames * grid.tokens) if token % grid.tokens in places]
            assert kept == expected[: len(kept)]
            assert not {token % grid.tokens for token in other} & places
    if blocks == 1:
        assert mask.visible.shape[1] + mask.hidden.shape[1] == frames * grid.tokens, "one size needs no cut"


def test_official_blocks_that_leave_nothing_are_refused() -> None:
    with pytest.raises(UserError, match="2 blocks of 3 x 3 tokens leave no token of a 3 x 3 grid visible"):
        OfficialMultiBlock(2, 0.99, (1.0, 1.0))(2, 2, Grid(3, 3), np.random.default_rng(0))
    with pytest.raises(UserError, match="or hide none"):
        OfficialMultiBlock(2, 0.01)(2, 2, Grid(3, 3), np.random.default_rng(0))


@pytest.mark.parametrize("ratios", [(0.0, 1.0), (2.0, 1.0), (1.0,), (1.0, 2.0, 3.0), (1.0, float("inf"))])
def test_impossible_aspect_ratios_are_refused(ratios: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match="aspect_ratio"):
        MultiBlock(1, 0.5, ratios)

"""Masks of scattered tokens and by time, and the registry of all kinds."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from worldmodel.core.errors import UserError
from worldmodel.encoders.base import Grid
from worldmodel.encoders.jepa.masks import (
    MASKS,
    FutureBiased,
    Mask,
    MaskFn,
    MultiBlock,
    OfficialMultiBlock,
    RandomTokens,
    Tube,
    WholeFrames,
    read_mask,
)

shares = st.floats(0.02, 0.98)
targets = st.sampled_from(["any", "both", "future", "past"])
# Every kind that says that it divides all tokens. The official blocks leave some out, and have tests of their own.
dividing = st.one_of(
    st.builds(MultiBlock, st.integers(1, 8), shares),
    st.builds(Tube, shares),
    st.builds(RandomTokens, shares),
    st.builds(WholeFrames, shares, targets),
    st.builds(FutureBiased, shares, shares, shares),
)
grids = st.builds(Grid, st.integers(2, 7), st.integers(1, 7))


def hidden_map(mask: Mask, frames: int, grid: Grid) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """Hidden tokens `[B, T, places]`."""
    hidden = np.zeros((len(mask.hidden), frames * grid.tokens), bool)
    np.put_along_axis(hidden, mask.hidden.numpy(), True, axis=1)
    return hidden.reshape(len(hidden), frames, grid.tokens)


@given(kind=dividing, batch=st.integers(1, 4), frames=st.integers(3, 6), grid=grids, seed=st.integers(0, 2**32 - 1))
@settings(max_examples=80, deadline=None)
def test_a_mask_divides_the_tokens_and_the_generator_alone_decides(
    kind: MaskFn, batch: int, frames: int, grid: Grid, seed: int
) -> None:
    mask = kind(batch, frames, grid, np.random.default_rng(seed))
    assert min(mask.visible.shape[1], mask.hidden.shape[1]) > 0
    assert len(mask.visible) == len(mask.hidden) == batch
    for visible, hidden in zip(mask.visible, mask.hidden, strict=True):
        assert torch.equal(torch.cat([visible, hidden]).sort().values, torch.arange(frames * grid.tokens))
        assert bool((visible.diff() > 0).all()) and bool((hidden.diff() > 0).all())
    again = kind(batch, frames, grid, np.random.default_rng(seed))
    assert torch.equal(mask.visible, again.visible) and torch.equal(mask.hidden, again.hidden)


@pytest.mark.parametrize("ratio", [0.5, 0.75, 0.9])
@pytest.mark.parametrize("kind", [Tube, RandomTokens])
def test_scattered_masks_hide_their_share(kind: Any, ratio: float) -> None:
    mask = kind(ratio)(12, 4, Grid(10, 10), np.random.default_rng(0))
    assert mask.hidden.shape[1] == pytest.approx(400 * ratio, abs=4)
    hidden = hidden_map(mask, 4, Grid(10, 10))
    same = bool((hidden == hidden[:, :1]).all())
    assert same == (kind is Tube), "only a tube hides the same places in every frame"
    assert not (hidden[0] == hidden[1]).all(), "each clip has a mask of its own"
    assert hidden.any(0).any(0).all(), "every place may be hidden"


@pytest.mark.parametrize(("ratio", "frames", "expected"), [(0.5, 8, 4), (0.75, 8, 6), (0.99, 4, 3), (0.01, 4, 1)])
@pytest.mark.parametrize("which", ["any", "past", "future"])
def test_whole_frames_are_hidden(which: str, ratio: float, frames: int, expected: int) -> None:
    hidden = hidden_map(WholeFrames(ratio, which)(5, frames, Grid(3, 4), np.random.default_rng(0)), frames, Grid(3, 4))
    assert (hidden == hidden[:, :, :1]).all(), "a frame is hidden as a whole"
    layers = hidden[:, :, 0]
    assert (layers.sum(1) == expected).all()
    if which == "future":
        assert not layers[:, : frames - expected].any()
    if which == "past":
        assert not layers[:, expected:].any()


def test_targets_on_both_sides_leave_one_visible_stretch_somewhere() -> None:
    layers = hidden_map(WholeFrames(0.5, "both")(60, 8, Grid(1, 2), np.random.default_rng(0)), 8, Grid(1, 2))[:, :, 0]
    assert layers[:, 0].all() and layers[:, -1].all()
    assert (np.abs(np.diff(layers.astype(int), axis=1)).sum(1) == 2).all(), "hidden, then visible, then hidden"
    assert len({tuple(row) for row in layers}) == 3, "4 visible layers of 8 have three places"


def test_a_future_biased_mask_keeps_the_past_and_hides_the_future() -> None:
    hidden = hidden_map(FutureBiased()(3, 6, Grid(10, 10), np.random.default_rng(0)), 6, Grid(10, 10))
    assert (hidden[:, :3].mean((1, 2)) == pytest.approx(0.2)) and (hidden[:, 3:].mean((1, 2)) == pytest.approx(0.8))
    assert not (hidden == hidden[:, :1]).all()
    longer = hidden_map(FutureBiased(0.9, 0.6, 0.25)(3, 8, Grid(10, 10), np.random.default_rng(0)), 8, Grid(10, 10))
    assert (longer[:, :2].mean((1, 2)) == pytest.approx(0.1)) and (longer[:, 2:].mean((1, 2)) == pytest.approx(0.6))


@pytest.mark.parametrize("kind", [WholeFrames(), WholeFrames(targets="future"), FutureBiased()])
def test_a_single_image_has_no_future(kind: MaskFn) -> None:
    with pytest.raises(UserError, match=r"the clip has 1 tubelet layers, .*: expected at least 2"):
        kind(2, 1, Grid(4, 4), np.random.default_rng(0))


def test_two_layers_have_no_middle() -> None:
    with pytest.raises(UserError, match="expected at least 3 for targets on both sides"):
        WholeFrames(targets="both")(2, 2, Grid(4, 4), np.random.default_rng(0))


def test_every_kind_is_read_by_its_name_and_draws() -> None:
    for name, kind in MASKS.items():
        mask = read_mask({"kind": name})
        assert mask == kind()
        drawn = mask(2, 4, Grid(8, 8), np.random.default_rng(0))
        assert drawn.visible.shape[0] == drawn.hidden.shape[0] == 2
    assert read_mask({"blocks": 2, "spatial_scale": 0.5, "aspect_ratio": [1.0, 1.0]}) == MultiBlock(2, 0.5, (1.0, 1.0))
    assert read_mask({"kind": "multiblock_official", "blocks": 3}) == OfficialMultiBlock(3)


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"kind": "tubes"}, r"unknown kind of mask 'tubes': choose from .*tube.*did you mean tube"),
        ({"kind": "tube", "blocks": 2}, "unknown mask tube option 'blocks': choose from ratio"),
        ({"kind": "tube", "ratio": 1.0}, "ratio 1.0: expected a share between 0 and 1"),
        ({"kind": "tube", "ratio": "most"}, "expected a number"),
        ({"kind": "temporal", "targets": "now"}, "targets 'now' is unknown: choose from any, both, future, past"),
        ({"kind": "future_biased", "early": 0}, "early 0: expected a share"),
        ({"a": 1}, "unknown mask multiblock option 'a'"),
        (3, "expected its options"),
    ],
)
def test_impossible_masks_are_refused_in_one_line(values: Any, named: str) -> None:
    with pytest.raises(UserError, match=named) as caught:
        read_mask(values)
    assert "\n" not in str(caught.value)


def test_rows_of_a_mask() -> None:
    mask = Tube(0.5)(4, 2, Grid(2, 2), np.random.default_rng(0))
    part = mask.rows(slice(2, 4))
    assert torch.equal(part.visible, mask.visible[2:]) and torch.equal(part.hidden, mask.hidden[2:])

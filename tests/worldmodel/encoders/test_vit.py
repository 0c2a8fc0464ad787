"""Tokens, positions and the encoder."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tests.worldmodel.toy import ENCODER, make_clips, make_encoder
from worldmodel.core.errors import UserError
from worldmodel.core.spec import CameraSpec
from worldmodel.encoders.base import Grid
from worldmodel.encoders.vit import (
    Attention,
    EncoderConfig,
    VisionTransformer,
    attend,
    rotary_angles,
    rotate,
    sincos_positions,
    to_unit_range,
    token_coordinates,
)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"width": 33}, "33"),
        ({"width": 6, "heads": 2}, "6"),
        ({"positions": "learned"}, "rotary, rotary_vjepa2, rotary_vjepa2_1, sincos"),
        ({"patch_size": 0}, "patch_size"),
        ({"mlp_ratio": float("inf")}, "mlp_ratio inf"),
        ({"mlp_ratio": float("nan")}, "mlp_ratio nan"),
        ({"mlp_ratio": 0.01}, "mlp_ratio 0.01"),
        ({"heads": 0}, "heads"),
        ({"depth": 0}, "depth"),
    ],
)
def test_impossible_shapes_are_refused_with_their_value(changes: dict[str, Any], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        EncoderConfig(**{**ENCODER.__dict__, **changes})


def test_token_order_is_time_then_row_then_column() -> None:
    coordinates = token_coordinates(frames=2, grid=Grid(4, 4))
    assert coordinates.shape == (32, 3)
    encoder = make_encoder()
    blank = torch.full((1, 4, 32, 32, 3), 128, dtype=torch.uint8)
    for number, (t, y, x) in enumerate(coordinates.tolist()):
        clip = blank.clone()
        clip[0, 2 * t + 1, 8 * y + 3, 8 * x + 5] = 255
        changed = (encoder.embed(clip) - encoder.embed(blank)).abs().amax(-1)[0] > 0
        assert changed.nonzero().flatten().tolist() == [number]


grids = st.builds(Grid, st.integers(1, 8), st.integers(1, 8))


@given(frames=st.integers(1, 8), grid=grids, width=st.integers(6, 48).map(lambda half: 2 * half))
@settings(max_examples=30, deadline=None)
def test_every_token_has_its_own_sincos_position(frames: int, grid: Grid, width: int) -> None:
    positions = sincos_positions(token_coordinates(frames, grid), width)
    assert positions.shape == (frames * grid.tokens, width)
    # Entries are sines and cosines in pairs, so that every position has the same length.
    torch.testing.assert_close(positions.pow(2).sum(-1), torch.full((len(positions),), width / 2))
    distance = torch.cdist(positions, positions, compute_mode="donot_use_mm_for_euclid_dist")
    distance.fill_diagonal_(1.0)
    assert distance.min() > 0.05


coordinates_3d = st.tuples(*[st.integers(0, 15)] * 3)


@given(here=coordinates_3d, there=coordinates_3d, shift=coordinates_3d, head_width=st.sampled_from([4, 8, 16, 30]))
@settings(max_examples=60, deadline=None)
def test_rotation_keeps_length_and_sees_only_relative_position(
    here: tuple[int, ...], there: tuple[int, ...], shift: tuple[int, ...], head_width: int
) -> None:
    query, key = torch.randn(2, 1, 1, 1, head_width, generator=torch.Generator().manual_seed(head_width))

    def turned(vector: Tensor, place: tuple[int, ...], by: tuple[int, ...]) -> Tensor:
        coordinates = torch.tensor(place) + torch.tensor(by)
        return rotate(vector, rotary_angles(coordinates[None, None], head_width))

    none = (0, 0, 0)
    torch.testing.assert_close(turned(query, here, none).norm(), query.norm())
    at_first = (turned(query, here, none) * turned(key, there, none)).sum()
    elsewhere = (turned(query, here, shift) * turned(key, there, shift)).sum()
    torch.testing.assert_close(at_first, elsewhere, atol=2e-4, rtol=1e-4)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_rotation_sees_every_axis(axis: int) -> None:
    angles = rotary_angles(torch.eye(3)[axis], head_width=16)
    assert angles.count_nonzero() > 0
    assert rotary_angles(torch.eye(3), 16).count_nonzero(0).max() == 1, "an angle belongs to one axis"


@given(seed=st.integers(0, 99), tokens=st.integers(1, 20), heads=st.sampled_from([1, 2, 4]))
@settings(max_examples=20, deadline=None)
def test_attention_on_a_cpu_is_the_library_s(seed: int, tokens: int, heads: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    query, key, value = torch.randn(3, 2, heads, tokens, 8, generator=generator)
    wanted = F.scaled_dot_product_attention(query, key, value)
    torch.testing.assert_close(attend(query, key, value), wanted)
    halved = attend(query.bfloat16(), key.bfloat16(), value.bfloat16())
    assert halved.dtype == torch.bfloat16
    torch.testing.assert_close(halved.float(), wanted, atol=0.05, rtol=0.05)


def test_attention_without_positions_knows_no_order_and_with_them_does() -> None:
    torch.manual_seed(0)
    attention, tokens = Attention(width=16, heads=2), torch.randn(1, 5, 16)
    order = torch.tensor([3, 1, 4, 0, 2])
    angles = rotary_angles(torch.arange(5)[:, None].expand(-1, 3), head_width=8)[None]
    torch.testing.assert_close(attention(tokens[:, order]), attention(tokens)[:, order])
    moved = attention(tokens[:, order], angles)
    assert (moved - attention(tokens, angles)[:, order]).abs().max() > 1e-4


@pytest.fixture(params=["sincos", "rotary"])
def encoder(request: pytest.FixtureRequest) -> VisionTransformer:
    return make_encoder(positions=request.param, depth=2)


def test_keeping_everything_is_the_full_encoding(encoder: VisionTransformer) -> None:
    clips = make_clips()
    everything = torch.arange(32).expand(3, -1)
    torch.testing.assert_close(encoder(clips, everything), encoder(clips))


def test_kept_tokens_stand_where_they_were(encoder: VisionTransformer) -> None:
    """Order of the kept tokens is a matter of bookkeeping: each carries its own position."""
    clips = make_clips()
    keep = torch.stack([torch.randperm(32, generator=torch.Generator().manual_seed(i))[:10] for i in range(3)])
    ascending, order = keep.sort(dim=1)
    expected = torch.stack([row[places] for row, places in zip(encoder(clips, keep), order, strict=True)])
    torch.testing.assert_close(encoder(clips, ascending), expected)


def test_what_is_not_kept_is_not_seen(encoder: VisionTransformer) -> None:
    clips = make_clips()
    keep = torch.arange(0, 32, 2).expand(3, -1)
    hidden = token_coordinates(2, Grid(4, 4))[1::2]
    changed = clips.clone()
    for t, y, x in hidden.tolist():
        changed[:, 2 * t : 2 * t + 2, 8 * y : 8 * y + 8, 8 * x : 8 * x + 8] = 0
    assert not torch.equal(encoder(changed), encoder(clips))
    assert torch.equal(encoder(changed, keep), encoder(clips, keep))


def test_a_clip_is_encoded_alike_in_any_batch(encoder: VisionTransformer) -> None:
    clips = make_clips(batch=4)
    torch.testing.assert_close(encoder(clips)[2:3], encoder(clips[2:3]))


def test_a_still_frame_is_a_clip_that_stands_still() -> None:
    encoder = make_encoder()
    pictures = make_clips()[:, 0]
    encoded = encoder.encode_frames(pictures)
    assert encoded.shape == (3, 16, 32)
    torch.testing.assert_close(encoded, encoder(torch.stack([pictures, pictures], dim=1)))


def test_tokens_of_a_wide_picture_stand_row_by_row(encoder: VisionTransformer) -> None:
    """With everything but one row and column hidden, what is left is what a picture of that size would give."""
    wide = torch.randint(0, 256, (1, 2, 16, 40, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    assert encoder(wide).shape == (1, 10, 32)
    left = torch.arange(10).reshape(2, 5)[:, :2].reshape(1, -1)
    torch.testing.assert_close(encoder(wide, left), encoder(wide[:, :, :, :16]))


@pytest.mark.parametrize(("height", "width"), [(30, 32), (32, 30)])
def test_pictures_that_cannot_be_cut_whole_are_refused(height: int, width: int) -> None:
    with pytest.raises(UserError, match=rf"camera side, {height} x {width}, are not cut whole by patch_size 8"):
        ENCODER.require_fit([CameraSpec("top", 32, 48), CameraSpec("side", height, width)])
    assert ENCODER.grid_of(CameraSpec("top", 32, 48)) == Grid(rows=4, columns=6)


def test_pixels_span_minus_two_to_two() -> None:
    assert to_unit_range(torch.tensor([0, 255], dtype=torch.uint8)).tolist() == [-2.0, 2.0]

"""Rows of features are what the encoder gives for the same frames and clips."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.worldmodel.data.videos.test_items import Counted
from tests.worldmodel.toy import SIZE, make_clips, make_encoder
from worldmodel.core.errors import UserError
from worldmodel.data.videos.items import Piece
from worldmodel.encoders.export.rows import RowConfig, RowMaker
from worldmodel.encoders.pixels import PixelConfig, PixelPatches

CPU = torch.device("cpu")
EXACT = {"type": "float32"}


def rows(encoder: Any, pieces: list[Piece], **options: Any) -> dict[str, torch.Tensor]:
    return RowMaker(encoder, RowConfig(**EXACT, **options), Counted(5, 9), CPU).rows(pieces)


def pieces(*lengths: int) -> list[Piece]:
    clips = make_clips(batch=len(lengths), frames=max(lengths)).numpy()
    return [Piece(i, 10 + np.arange(n), clips[i, :n]) for i, n in enumerate(lengths)]


@torch.no_grad()
def test_a_row_for_every_frame() -> None:
    encoder, given_pieces = make_encoder(), pieces(3, 2)
    tokens = encoder.encode_frames(torch.from_numpy(np.concatenate([p.frames for p in given_pieces])))
    found = rows(encoder, given_pieces, pool="none")
    torch.testing.assert_close(found["features"], tokens)
    torch.testing.assert_close(rows(encoder, given_pieces)["features"], tokens.mean(1))
    assert found["item"].tolist() == [0, 0, 0, 1, 1]
    assert found["time_s"].tolist() == [10, 11, 12, 10, 11]


@torch.no_grad()
def test_clips_and_tubelets_are_encoded_together_and_filled_up() -> None:
    encoder, (long, short) = make_encoder(), pieces(4, 1)
    filled = np.repeat(short.frames, 4, axis=0)
    tokens = encoder(torch.from_numpy(np.stack([long.frames, filled])))  # [2, 2 tubelets of 16, 32]
    clips = rows(encoder, [long, short], per="clip", clip_frames=4)
    torch.testing.assert_close(clips["features"], tokens.mean(1))
    assert clips["item"].tolist() == [0, 1] and clips["time_s"].tolist() == [10, 10]
    every = rows(encoder, [long, short], per="tubelet", clip_frames=4, pool="none")
    torch.testing.assert_close(every["features"], torch.stack([*tokens[0].unflatten(0, (2, 16)), tokens[1, :16]]))
    assert every["time_s"].tolist() == [10, 12, 10]


def test_an_encoder_of_images_takes_the_frames_of_a_clip_one_by_one() -> None:
    encoder, given_pieces = PixelPatches(PixelConfig()), pieces(3)
    (row,) = rows(encoder, given_pieces, per="clip", clip_frames=3, pool="none")["features"]
    one_by_one = encoder.encode_frames(torch.from_numpy(given_pieces[0].frames))
    torch.testing.assert_close(row, one_by_one.flatten(0, 1))


@given(st.lists(st.integers(1, 40), min_size=1, max_size=5), st.sampled_from(["frame", "tubelet", "clip"]))
def test_the_number_of_rows_is_known_before(frames: list[int], per: str) -> None:
    encoder, config = make_encoder(), RowConfig(per=per, clip_frames=6)
    length, maker = config.frames_per_piece, RowMaker(encoder, config, Counted(*frames), CPU)
    cut = [np.arange(first, min(first + length, n)) for n in frames for first in range(0, n, length)]
    made = maker._places([Piece(0, numbers, np.zeros((len(numbers), 1, 1, 3), np.uint8)) for numbers in cut])
    assert len(made["item"]) == config.rows_of(np.array(frames), encoder)


def test_the_shape_of_a_row() -> None:
    encoder, size = make_encoder(), (SIZE, SIZE)
    assert RowConfig().shape_of(encoder, size) == (32,)
    assert RowConfig(per="tubelet", pool="none").shape_of(encoder, size) == (16, 32)
    assert RowConfig(per="clip", pool="none", clip_frames=4).shape_of(encoder, size) == (32, 32)
    assert RowConfig(per="clip", pool="none", clip_frames=4).bytes_per_row(encoder, size) == 2048
    assert rows(encoder, [])["item"].shape == (0,)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"per": "video"}, "unknown per 'video': choose from clip, frame, tubelet"),
        ({"pool": "max"}, "unknown pool 'max': choose from mean, none"),
        ({"type": "int8"}, "unknown type 'int8'"),
        ({"precision": "fp8"}, "unknown precision 'fp8'"),
        ({"clip_frames": 0}, "clip_frames 0 and batch_size 8"),
    ],
)
def test_rows_that_cannot_be(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        RowConfig(**options)


def test_clips_of_half_a_tubelet() -> None:
    with pytest.raises(UserError, match="clip_frames 3: expected a multiple of 2, the frames of a tubelet"):
        RowMaker(make_encoder(), RowConfig(per="clip", clip_frames=3), Counted(5), CPU)


def test_features_that_are_too_large_for_their_type() -> None:
    encoder = make_encoder()
    with torch.no_grad():
        encoder.norm.weight.fill_(1e6)
    with pytest.raises(UserError, match="features of item 0 are not finite as float16"):
        RowMaker(encoder, RowConfig(), Counted(5), CPU).rows(pieces(2))

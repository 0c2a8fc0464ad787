"""Heads of probes, and the training of a grid of them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.worldmodel.toy import make_clips, make_encoder
from worldmodel.core.errors import UserError
from worldmodel.encoders.pixels import PixelConfig, PixelPatches
from worldmodel.encoders.probes.features import ClipShape, encode_labelled
from worldmodel.encoders.probes.grid import GridConfig, Standardised, predict, train_grid
from worldmodel.encoders.probes.heads import AttentiveHead, CrossAttention, MeanHead, TubeletHead

CPU = torch.device("cpu")


def silent(done: int, total: int) -> None:
    assert done <= total


def test_cross_attention_is_its_equation() -> None:
    torch.manual_seed(0)
    block, queries, tokens = CrossAttention(8, 2), torch.randn(3, 2, 8), torch.randn(3, 5, 8)
    normed = block.norm1(tokens)
    query, (key, value) = block.query(queries), block.key_value(normed).chunk(2, dim=-1)
    seen = []
    for head in (slice(0, 4), slice(4, 8)):
        scores = query[..., head] @ key[..., head].transpose(1, 2) / 2.0  # the root of the head's width, 4
        seen.append(scores.softmax(-1) @ value[..., head])
    after = queries + block.out(torch.cat(seen, dim=-1))
    torch.testing.assert_close(block(queries, tokens), after + block.mlp(block.norm2(after)))


def test_depth_counts_the_block_of_cross_attention() -> None:
    assert [len(AttentiveHead(8, 2, depth, 1, 3).blocks) for depth in (1, 4)] == [0, 3]
    head = AttentiveHead(8, 2, 4, 6, 3)
    assert head(torch.randn(2, 10, 8)).shape == (2, 6, 3)
    # Cross-attention does not know the order of the tokens, which are told apart by what they hold.
    tokens, order = torch.randn(2, 10, 8), torch.randperm(10)
    torch.testing.assert_close(head(tokens), head(tokens[:, order]))


def test_linear_heads_see_means_and_tubelets() -> None:
    tokens = torch.randn(2, 6, 4)
    mean = MeanHead(4, 3)
    torch.testing.assert_close(mean(tokens)[:, 0], mean.predict(tokens.mean(1)))
    by_tubelet = TubeletHead(tokens=3, width=4, frames=2, out=2)
    found = by_tubelet(tokens)
    assert found.shape == (2, 4, 2)
    torch.testing.assert_close(found[:, 2:].flatten(1), by_tubelet.predict(tokens[:, 3:].flatten(1)))


def test_the_grid_has_every_pair_and_heads_divide_the_width() -> None:
    config = GridConfig(learning_rates=(1.0, 2.0), weight_decays=(0.0, 3.0), heads=16)
    assert config.corners == [(1.0, 0.0), (1.0, 3.0), (2.0, 0.0), (2.0, 3.0)]
    assert [config.heads_for(width) for width in (128, 48, 75, 7)] == [16, 16, 15, 7]
    assert len(GridConfig().corners) == 20, "V-JEPA 2 has five learning rates and four weight decays"


@pytest.mark.parametrize(
    "changes",
    [{"epochs": 0}, {"learning_rates": ()}, {"weight_decays": (-1.0,)}, {"precision": "fp8"}, {"seed": -1}],
)
def test_other_grids_are_refused(changes: dict) -> None:
    with pytest.raises(ValueError, match=next(iter(changes))):
        GridConfig(**changes)


def train(config: GridConfig) -> tuple[list[nn.Module], Standardised, Tensor]:
    """Heads that are to find the sign of the first number of a token, in 64 clips of 4 tokens."""
    features = np.random.default_rng(0).normal(3.0, 2.0, (64, 4, 6)).astype(np.float16)
    rows = np.arange(64)
    tokens = Standardised.of(features, rows, None, CPU)
    classes = (tokens.rows(rows)[..., 0].mean(1) > 0).long()

    def loss(predicted: Tensor, targets: Tensor) -> Tensor:
        return F.cross_entropy(predicted[:, 0], targets)

    return train_grid(lambda: MeanHead(6, 2), tokens, rows, classes, loss, config, silent), tokens, classes


def test_a_grid_trains_every_head_as_if_it_were_alone() -> None:
    both = GridConfig(epochs=15, batch_size=16, learning_rates=(1e-1, 1e-4), weight_decays=(0.1,), precision="fp32")
    together, tokens, classes = train(both)
    for head, rate in zip(together, both.learning_rates, strict=True):
        (alone,) = train(GridConfig(**{**vars(both), "learning_rates": (rate,)}))[0]
        torch.testing.assert_close(head.predict.weight, alone.predict.weight)
    right = [
        (predict(head, tokens, np.arange(64), both)[:, 0].argmax(-1) == classes).float().mean() for head in together
    ]
    assert right[0] > 0.9 and right[1] < right[0]


def test_features_are_standardised_over_the_clips_to_train_on() -> None:
    features = np.random.default_rng(1).normal(5.0, [1.0, 2.0, 0.0], (20, 4, 3)).astype(np.float16)
    tokens = Standardised.of(features, np.arange(10), torch.ones(4, 3), CPU).rows(np.arange(10)) - 1
    np.testing.assert_allclose(tokens.mean((0, 1)), 0, atol=1e-2)
    np.testing.assert_allclose(tokens.flatten(0, 1).std(0, correction=0), [1, 1, 0], atol=1e-2)


# --- features --------------------------------------------------------------------------------------------------------


def test_positions_are_added_where_an_encoder_sees_single_frames() -> None:
    video = ClipShape.of(make_encoder(), segments=2, frames=4, size=32)
    assert (video.tubelets, video.tokens, video.positions()) == (4, 64, None)
    frames = ClipShape.of(PixelPatches(PixelConfig(8)), segments=1, frames=4, size=32)
    positions = frames.positions()
    assert positions is not None and positions.shape == (frames.tokens, frames.width) == (64, 48)
    assert len(positions.unique(dim=0)) == 64
    with pytest.raises(UserError, match="frames 3: expected a multiple of the encoder's 2 tubelet frames"):
        ClipShape.of(make_encoder(), 1, 3, 32)


def test_segments_are_encoded_by_themselves(tmp_path) -> None:
    encoder, clips = make_encoder().requires_grad_(False), make_clips(batch=5, frames=8).numpy()
    shape = ClipShape.of(encoder, segments=2, frames=4, size=32)
    progress: list[tuple[int, int]] = []
    given = (encoder, shape, clips, 5, "clips", tmp_path, CPU, lambda done, total: progress.append((done, total)))
    features = encode_labelled(*given)
    assert features.shape == (5, 64, 32) and features.dtype == np.float16
    with torch.no_grad():
        second = encoder(torch.from_numpy(clips[:, 4:]))
    np.testing.assert_allclose(features[:, 32:], second, atol=0.05)  # bf16
    assert progress == [(5, 5)]
    np.testing.assert_array_equal(encode_labelled(*given), features)
    assert progress == [(5, 5)], "what is there is not encoded again"

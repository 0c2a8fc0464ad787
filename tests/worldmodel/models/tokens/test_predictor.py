"""The transformer: who sees whom, positions, and that a cache changes nothing."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from tests.worldmodel.models.tokens.small import (
    ACTION,
    GRIDS,
    PROPRIO,
    TOKEN_SIZE,
    TRANSFORMER,
    draw_blocks,
    draw_moments,
    make_predictor,
)
from worldmodel.encoders.vit import rotate
from worldmodel.models.tokens.attention import FrameOrder, attend
from worldmodel.models.tokens.predictor import Cache, Moments, TokenPredictor, camera_coordinates, waves

ROWS, BLOCKS = 2, 6
VARIANTS = [(positions, conditioning) for positions in ("learned", "rotary", "sincos")
            for conditioning in ("tokens", "adaln")]  # fmt: skip


def block_of(moments: Moments, index: int) -> Moments:
    return moments.at((slice(None), slice(index, index + 1)))


def run(predictor: TokenPredictor, moments: Moments, actions: Tensor) -> Tensor:
    """All predictions `[B, T, ·]`, tokens and proprioception, teacher-forced."""
    ahead, _ = predictor(moments, actions)
    return torch.cat([ahead.tokens.flatten(2), ahead.proprio.flatten(2)], dim=-1)


@pytest.mark.parametrize(("positions", "conditioning"), VARIANTS)
def test_predicts_every_frame_of_a_block(positions: str, conditioning: str) -> None:
    predictor = make_predictor(positions=positions, conditioning=conditioning)
    ahead, cache = predictor(draw_moments(ROWS, BLOCKS), draw_blocks(ROWS, BLOCKS))
    assert ahead.tokens.shape == (ROWS, BLOCKS, 2, 6, TOKEN_SIZE)
    assert ahead.proprio.shape == (ROWS, BLOCKS, 2, PROPRIO)
    assert cache.steps == BLOCKS
    assert {layer.key.shape[2] for layer in cache.layers} == {predictor.group}  # one frame: the window is 2


# --- causality ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("window", [1, 2, 3])
@pytest.mark.parametrize("part", ["tokens", "proprio", "actions"])
@pytest.mark.parametrize(("positions", "conditioning"), VARIANTS)
def test_a_block_changes_itself_and_those_whose_window_it_is_in(
    positions: str, conditioning: str, part: str, window: int
) -> None:
    # One layer: with more of them, a frame reaches as far as their windows together.
    predictor = make_predictor(depth=1, positions=positions, conditioning=conditioning, window=window)
    moments, actions = draw_moments(ROWS, BLOCKS), draw_blocks(ROWS, BLOCKS)
    before = run(predictor, moments, actions)
    changed = {"tokens": moments.tokens, "proprio": moments.proprio, "actions": actions}[part]
    changed[0, 2] += 1.0
    differs = (run(predictor, moments, actions) - before).abs().amax(-1) > 1e-6
    assert differs[0].tolist() == [2 <= i < 2 + window for i in range(BLOCKS)]
    assert not differs[1].any()


def test_layers_reach_as_far_as_their_windows_together() -> None:
    predictor = make_predictor(depth=2, window=2)
    moments, actions = draw_moments(1, BLOCKS), draw_blocks(1, BLOCKS)
    before = run(predictor, moments, actions)
    moments.tokens[0, 1] += 1.0
    differs = (run(predictor, moments, actions) - before).abs().amax(-1) > 1e-6
    assert differs[0].tolist() == [False, True, True, True, False, False]


@pytest.mark.parametrize(("positions", "conditioning"), VARIANTS)
def test_every_input_counts(positions: str, conditioning: str) -> None:
    predictor = make_predictor(positions=positions, conditioning=conditioning)
    moments, actions = draw_moments(1, 1), draw_blocks(1, 1)
    inputs = [moments.tokens, moments.proprio, actions]
    for value in inputs:
        value.requires_grad_(True)
    ahead, _ = predictor(moments, actions)
    # Not the residual: what goes through the network.
    ((ahead.tokens - moments.tokens[:, :, None]).sum() + (ahead.proprio - moments.proprio[:, :, None]).sum()).backward()
    for value in inputs:
        assert value.grad is not None and bool((value.grad != 0).all())


# --- the cache ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("window", [1, 2, 3])
@pytest.mark.parametrize(("positions", "conditioning"), VARIANTS)
def test_with_a_cache_the_same_comes_out(positions: str, conditioning: str, window: int) -> None:
    predictor = make_predictor(positions=positions, conditioning=conditioning, window=window)
    moments, actions = draw_moments(ROWS, BLOCKS), draw_blocks(ROWS, BLOCKS)
    together, _ = predictor(moments, actions)
    for sizes in ([1] * BLOCKS, [2, 1, 3], [4, 2]):
        cache: Cache | None = None
        first, tokens, proprio = 0, [], []
        for size in sizes:
            piece = slice(None), slice(first, first + size)
            ahead, cache = predictor(moments.at(piece), actions[piece], cache)
            tokens.append(ahead.tokens)
            proprio.append(ahead.proprio)
            first += size
        torch.testing.assert_close(torch.cat(tokens, 1), together.tokens, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(torch.cat(proprio, 1), together.proprio, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("context", [0, 1, 2])
@pytest.mark.parametrize(("positions", "conditioning"), VARIANTS)
def test_a_rollout_is_teacher_forcing_on_its_own_frames(positions: str, conditioning: str, context: int) -> None:
    predictor = make_predictor(positions=positions, conditioning=conditioning, window=3)
    moments, actions = draw_moments(ROWS, context + 1), draw_blocks(ROWS, context + 3)
    cache = None
    if context:
        _, cache = predictor(moments.at((slice(None), slice(0, context))), actions[:, :context])
    ahead = predictor.rollout(moments.at((slice(None), -1)), actions[:, context:].flatten(1, 2), cache)
    # Feed what was predicted for the ends of its blocks as if it had been seen.
    fed = Moments(
        torch.cat([moments.tokens, ahead.tokens[:, 1::2][:, :-1]], 1),
        torch.cat([moments.proprio, ahead.proprio[:, 1::2][:, :-1]], 1),
    )
    forced, _ = predictor(fed, actions)
    torch.testing.assert_close(forced.tokens[:, context:].flatten(1, 2), ahead.tokens, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(forced.proprio[:, context:].flatten(1, 2), ahead.proprio, rtol=1e-4, atol=1e-5)


def test_a_horizon_need_not_be_whole_blocks() -> None:
    predictor = make_predictor(prediction_steps=4)
    start, actions = draw_moments(ROWS, 1).at((slice(None), 0)), draw_blocks(ROWS, 1, 10)[:, 0]
    long = predictor.rollout(start, actions)
    assert long.tokens.shape == (ROWS, 10, 6, TOKEN_SIZE)
    short = predictor.rollout(start, actions[:, :8])
    torch.testing.assert_close(short.tokens, long.tokens[:, :8])
    padded = predictor.rollout(start, torch.nn.functional.pad(actions, (0, 0, 0, 2)))
    torch.testing.assert_close(long.proprio, padded.proprio[:, :10])


def test_one_past_serves_all_rows() -> None:
    predictor = make_predictor(window=3)
    past, start, actions = draw_moments(1, 2), draw_moments(ROWS, 1, seed=1), draw_blocks(ROWS, 3)
    _, shared = predictor(past, actions[:1, :2])
    _, own = predictor(past.at([0] * ROWS), actions[[0] * ROWS, :2])
    one, other = (predictor.rollout(start.at((slice(None), 0)), actions[:, 2], cache) for cache in (shared, own))
    torch.testing.assert_close(one.tokens, other.tokens)


# --- positions ---------------------------------------------------------------------------------------------------


def test_rotary_positions_turn_pairs_by_their_coordinates() -> None:
    """`q' = (q1 cos φ - q2 sin φ, q1 sin φ + q2 cos φ)`, φ = coordinate / 10000^(j / pairs), a share for each axis."""
    predictor = make_predictor(width=48, heads=2, positions="rotary")  # E = 24: 8 numbers, 4 pairs for each axis
    angles = predictor._angles(done=3, count=2, device=torch.device("cpu"))[0]
    assert angles.shape == (2 * predictor.group, 12)
    token = predictor.group + 2 + 3  # block 4, after action and proprioception: (y, x) = (1, 1) of the first camera
    frequencies = torch.tensor([10_000.0 ** (-j / 4) for j in range(4)])
    torch.testing.assert_close(angles[token], torch.cat([4 * frequencies, frequencies, frequencies]))
    for robot in (0, 1):  # a time and no place
        torch.testing.assert_close(angles[robot], torch.cat([3 * frequencies, torch.zeros(8)]))
    query = torch.randn(1, 1, 1, 24)
    turned = rotate(query, angles[token][None, None])[0, 0, 0]
    phi, (first, second) = angles[token], query[0, 0, 0].chunk(2)
    torch.testing.assert_close(turned[:12], first * phi.cos() - second * phi.sin())
    torch.testing.assert_close(turned[12:], first * phi.sin() + second * phi.cos())


@pytest.mark.parametrize(("positions", "conditioning"), VARIANTS)
def test_it_does_not_matter_when_a_sequence_began(positions: str, conditioning: str) -> None:
    predictor = make_predictor(positions=positions, conditioning=conditioning, window=2)
    moments, actions = draw_moments(ROWS, BLOCKS), draw_blocks(ROWS, BLOCKS)
    cache = None
    for index in range(BLOCKS):
        _, cache = predictor(block_of(moments, index), actions[:, index : index + 1], cache)
    assert cache is not None
    again = Cache(cache.layers, cache.steps + 4)
    if positions == "rotary":  # keys are turned by their time already: a sequence of its own that began later
        again = None
        for index in range(BLOCKS - 3, BLOCKS):
            _, again = predictor(block_of(moments, index), actions[:, index : index + 1], again)
    first, second = (predictor(block_of(moments, 0), actions[:, :1], c)[0] for c in (cache, again))
    torch.testing.assert_close(first.tokens, second.tokens, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("positions", ["learned", "rotary", "sincos"])
def test_tokens_know_their_places(positions: str) -> None:
    predictor = make_predictor(positions=positions)
    moments, actions = draw_moments(1, 1), draw_blocks(1, 1)
    swapped = Moments(moments.tokens[:, :, [1, 0, 2, 3, 4, 5]], moments.proprio)
    before, after = (predictor(m, actions)[0].tokens[0, 0, 0] for m in (moments, swapped))
    assert not torch.allclose(before[[1, 0, 2, 3, 4, 5]], after, atol=1e-4)


def test_cameras_come_one_after_the_other_row_by_row() -> None:
    assert camera_coordinates([(2, 2), (1, 2)]).tolist() == [
        [0, 0, 0], [0, 0, 1], [0, 1, 0], [0, 1, 1], [1, 0, 0], [1, 0, 1],
    ]  # fmt: skip


def test_waves_are_sines_and_cosines_of_four_octaves() -> None:
    readings = torch.tensor([[0.3, -1.2]])
    angles = torch.cat([readings, 2 * readings, 4 * readings, 8 * readings], dim=-1)
    torch.testing.assert_close(waves(readings), torch.cat([readings, angles.sin(), angles.cos()], dim=-1))


# --- parts -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_attention_is_its_equation(dtype: torch.dtype) -> None:
    query, key, value = torch.randn(3, 2, 2, 5, 8, generator=torch.Generator().manual_seed(0)).to(dtype)
    bias = torch.randn(2, 5, 5, generator=torch.Generator().manual_seed(1))
    scores = query.float() @ key.float().transpose(-1, -2) / math.sqrt(8)
    for added in (None, bias):
        weights = torch.softmax(scores if added is None else scores + added, dim=-1)
        tolerance = 1e-5 if dtype == torch.float32 else 3e-2
        attended = attend(query, key, value, added).float()
        torch.testing.assert_close(attended, weights @ value.float(), rtol=tolerance, atol=tolerance)


def test_the_order_of_frames_is_a_window() -> None:
    steps = torch.arange(4)
    order = FrameOrder(window=2, heads=3, by_age=True)
    assert order.age is not None
    order.age.data = torch.tensor([[1.0, 2.0]] * 3)
    out = -math.inf
    expected = [[1, out, out, out], [2, 1, out, out], [out, 2, 1, out], [out, out, 2, 1]]
    assert order(steps, steps)[1].tolist() == expected
    plain = FrameOrder(window=2, heads=3, by_age=False)(steps, steps)
    assert plain.shape == (1, 4, 4) and plain[0, 2].tolist() == [out, 0, 0, out]


def test_an_adaptive_block_begins_as_the_identity() -> None:
    torch.manual_seed(0)
    config = {"width": 32, "heads": 2, "depth": 2}
    changed = TRANSFORMER.__class__(**config, prediction_steps=2, conditioning="adaln")  # type: ignore[arg-type]
    predictor = TokenPredictor(changed, GRIDS, TOKEN_SIZE, PROPRIO, ACTION)
    tokens = torch.randn(2, 7, 32)
    for block in predictor.blocks:
        out, _ = block(tokens, torch.randn(2, 1, 32), None, None, None)
        assert torch.equal(out, tokens)


def test_begins_near_nothing_changes() -> None:
    torch.manual_seed(0)
    predictor = TokenPredictor(TRANSFORMER, GRIDS, TOKEN_SIZE, PROPRIO, ACTION)
    moments = draw_moments(8, 1)
    with torch.no_grad():
        ahead = predictor.rollout(moments.at((slice(None), 0)), draw_blocks(8, 6).flatten(1, 2))
    assert float((ahead.tokens - moments.tokens).abs().mean()) < 0.5


def test_without_proprioception(recwarn: pytest.WarningsRecorder) -> None:
    predictor = TokenPredictor(TRANSFORMER, GRIDS, TOKEN_SIZE, 0, ACTION)
    moments = Moments(draw_moments(1, 2).tokens, torch.zeros(1, 2, 0))
    ahead, _ = predictor(moments, draw_blocks(1, 2))
    assert ahead.proprio.shape == (1, 2, 2, 0)
    assert not recwarn.list

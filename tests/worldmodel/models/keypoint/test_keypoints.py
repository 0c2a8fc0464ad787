"""The keypoints: what they may depend on, and that training finds the thing that moves without being told."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tests.worldmodel.toy import STATE, make_trainer_config
from worldmodel.encoders.base import Grid
from worldmodel.models.features import VariedTokens
from worldmodel.models.keypoint.keypoint_training import (
    KeypointAutoencoder,
    KeypointTask,
    RobotTask,
    StateTrainingConfig,
    encode_tokens,
    neighbours,
)
from worldmodel.models.keypoint.keypoints import (
    KeypointEncoder,
    StateConfig,
    TokenDecoder,
    token_positions,
)
from worldmodel.training.trainer import Trainer

CPU = torch.device("cpu")
GRID, CHANNELS, PROPRIO = Grid(6, 6), 3, 2


def make_encoder(config: StateConfig = STATE) -> KeypointEncoder:
    torch.manual_seed(0)
    return KeypointEncoder(config, GRID, CHANNELS, PROPRIO)


def blob(centres: Tensor, channel: int) -> Tensor:
    """Tokens `[B, N, C]` that are bright around `centres [B, 2]` in one channel."""
    away = (token_positions(GRID) - centres[:, None]).pow(2).sum(-1)
    tokens = torch.zeros(len(centres), GRID.tokens, CHANNELS)
    tokens[..., channel] = 3 * torch.exp(-away / 0.15)
    return tokens


@pytest.fixture(scope="module")
def world() -> tuple[Tensor, Tensor, Tensor]:
    """40 episodes of 10 frames: a thing that slides along, a robot that jumps about; tokens, thing, robot."""
    generator = torch.Generator().manual_seed(1)
    begin, end = 1.4 * torch.rand(2, 40, 1, 2, generator=generator) - 0.7
    thing = torch.lerp(begin, end, torch.linspace(0, 1, 10)[:, None]).flatten(0, 1)
    robot = 1.4 * torch.rand(400, 2, generator=generator) - 0.7
    return blob(thing, 0) + blob(robot, 1), thing, robot


def make_task(
    world: tuple[Tensor, Tensor, Tensor],
    varied: VariedTokens | None = None,
    kind: type[KeypointTask] = KeypointTask,
    robot_width: int = 0,
) -> KeypointTask:
    tokens, _, robot = world
    given = tokens.numpy().astype(np.float16)
    rows = np.arange(400).reshape(40, 10)

    def pairs(step: int) -> np.ndarray:
        rng = np.random.default_rng(step)
        return neighbours(rows[rng.integers(0, 36, 16).repeat(4)], rng)

    torch.manual_seed(0)
    state = StateConfig(1, 1, hidden=32, robot_keypoints=1, robot_width=robot_width)
    module = KeypointAutoencoder(make_encoder(state), CHANNELS, PROPRIO)
    held_out = neighbours(rows[36:].repeat(8, axis=0), np.random.default_rng(0))
    proprio = (robot - robot.mean(0)) / robot.std(0)
    return kind(
        module, StateTrainingConfig(), given, varied or VariedTokens.none(given.shape), proprio, pairs, held_out, 0, CPU
    )


def test_positions_run_from_edge_to_edge_rows_first() -> None:
    positions = token_positions(Grid(2, 4))
    assert positions[0].tolist() == [-0.5, -0.75]
    assert positions[1].tolist() == [-0.5, -0.25]
    assert positions[-1].tolist() == [0.5, 0.75]


@settings(deadline=None, max_examples=20)
@given(st.floats(-50, 50), st.integers(0, 5))
def test_keypoints_are_inside_the_picture(scale: float, seed: int) -> None:
    tokens = scale * torch.randn(4, GRID.tokens, CHANNELS, generator=torch.Generator().manual_seed(seed))
    encoder = make_encoder()
    with torch.no_grad():
        places = encoder(tokens)[:, : 2 * STATE.keypoints]
    assert places.abs().max() <= token_positions(GRID).abs().max() + 1e-5


def test_the_decoder_shows_the_robot_where_it_is_told() -> None:
    torch.manual_seed(0)
    decoder, raw = TokenDecoder(STATE, GRID, CHANNELS, PROPRIO), torch.randn(2, STATE.raw_size)
    decoded = decoder(raw, torch.zeros(2, PROPRIO))
    assert decoded.shape == (2, GRID.tokens, CHANNELS)
    assert not torch.equal(decoder(raw, torch.ones(2, PROPRIO)), decoded)


def test_neighbours_are_of_one_clip_and_half_of_them_the_same_frame() -> None:
    rows = np.arange(4000).reshape(1000, 4) * 10
    pairs = neighbours(rows, np.random.default_rng(0))
    assert pairs.shape == (1000, 2)
    assert (pairs // 40 == np.arange(1000)[:, None]).all()
    assert 0.55 < (pairs[:, 0] == pairs[:, 1]).mean() < 0.7  # half of them, and a quarter of the rest by chance


def test_keypoints_find_the_thing_and_let_the_robot_be(world: tuple[Tensor, Tensor, Tensor], tmp_path: Path) -> None:
    task = make_task(world)
    before = task.evaluate(0)
    config = make_trainer_config(400, 64, 3e-3)
    Trainer(task, config, tmp_path, CPU).run("keypoints")
    after = task.evaluate(400)
    assert after["tokens_r2"] > max(0.7, before["tokens_r2"])
    assert after["robot_r2_00"] > 0.8
    tokens, thing, robot = world
    raw, _ = encode_tokens(task.module.encoder, tokens.numpy().astype(np.float16), CPU, lambda done, total: None)
    inputs = torch.cat([raw[:, :2], torch.ones(400, 1)], 1)

    def explained(target: Tensor) -> float:
        found = inputs[:360] @ torch.linalg.lstsq(inputs[:360], target[:360]).solution
        return float(1 - (found - target[:360]).pow(2).mean() / target[:360].var())

    assert explained(thing) > 0.9
    assert explained(robot) < 0.5


def test_a_robot_that_is_taken_out_of_the_image_does_not_move_the_keypoints(
    world: tuple[Tensor, Tensor, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    """If the robot is read and shown without error, the state is that of a scene without it."""
    _, thing, robot = world
    encoder = make_encoder(dataclasses.replace(STATE, robot_width=8))
    empty = encoder.robot_image
    encoder.robot_image = None
    with torch.no_grad():
        alone = encoder(blob(thing, 0))
    encoder.robot_image = empty
    assert empty is not None
    for places in (robot, robot.roll(7, 0)):
        monkeypatch.setattr(encoder, "robot", lambda tokens, places=places: places)
        monkeypatch.setattr(empty, "forward", lambda proprio: blob(proprio, 1))
        with torch.no_grad():
            torch.testing.assert_close(encoder(blob(thing, 0) + blob(places, 1)), alone)


@pytest.mark.slow
def test_the_robot_is_learned_first_and_does_not_change_afterwards(
    world: tuple[Tensor, Tensor, Tensor], tmp_path: Path
) -> None:
    first = make_task(world, kind=RobotTask, robot_width=64)
    encoder = first.module.encoder
    places = encoder.logits.weight.clone()
    Trainer(first, make_trainer_config(400, 64, 3e-3), tmp_path, CPU).run("robot")
    after = first.evaluate(400)
    assert after["robot_tokens_r2"] > 0.3  # half of what changes is the robot, and it is of 360 places only
    assert after["robot_r2_00"] > 0.8
    torch.testing.assert_close(encoder.logits.weight, places, rtol=0, atol=0.01)  # but for its decay
    task = make_task(world, robot_width=64)
    task.module.encoder.load_state_dict(encoder.state_dict())
    for part in task.module.encoder.robot_parts():
        part.requires_grad_(False)
    task.loss(0)["loss"].backward()
    learning = {name for name, weight in task.module.encoder.named_parameters() if weight.grad is not None}
    assert learning and not any(name.startswith("robot") for name in learning)


def test_seed_and_step_alone_decide_the_loss(world: tuple[Tensor, Tensor, Tensor]) -> None:
    first, again = make_task(world), make_task(world)
    values = [first.loss(step)["loss"].item() for step in (3, 4)]
    assert again.loss(4)["loss"].item() == values[1]
    assert values[0] != values[1]


@pytest.mark.parametrize("name", ["keypoints", "features", "embedding", "hidden", "embedding_width", "robot_keypoints"])
def test_sizes_below_one_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match=f"{name}=0"):
        dataclasses.replace(STATE, **{name: 0})


def test_what_never_changes_in_an_episode_need_not_be_reconstructed(world: tuple[Tensor, Tensor, Tensor]) -> None:
    tokens, thing, robot = world
    floor = torch.randn(40, 1, GRID.tokens, CHANNELS, generator=torch.Generator().manual_seed(6)).expand(-1, 10, -1, -1)
    plain, dressed = make_task(world), make_task((tokens + floor.flatten(0, 1), thing, robot))
    # What is encoded stays the same, what is to be reconstructed has a floor of its own in every episode.
    encoded = plain.module.encoder(tokens[:64])
    for task in (plain, dressed):
        task.module.encoder.forward = lambda seen: encoded  # type: ignore[method-assign]
    assert dressed.loss(0)["reconstruction"].item() == pytest.approx(plain.loss(0)["reconstruction"].item(), rel=1e-2)


def test_a_varied_image_is_read_and_the_original_one_is_reconstructed(world: tuple[Tensor, Tensor, Tensor]) -> None:
    tokens = world[0]
    same = VariedTokens(tokens[::2].numpy().astype(np.float16), 2)
    lighter = VariedTokens((tokens[::2] + 0.5).numpy().astype(np.float16), 2)
    plain, unchanged, changed = (make_task(world, varied).loss(0) for varied in (None, same, lighter))
    torch.testing.assert_close(unchanged["reconstruction"], plain["reconstruction"])
    assert unchanged["align"].item() == pytest.approx(0, abs=1e-8) and "align" not in plain
    assert changed["align"].item() > 1e-6
    # The decoder's targets are the same tokens: only what is read differs.
    task = make_task(world, lighter)
    seen: list[Tensor] = []
    inner = task.module.encoder.forward
    task.module.encoder.forward = lambda given: (seen.append(given), inner(given))[1]  # type: ignore[method-assign]
    task.loss(0)
    assert len(seen) == 2 and len(seen[1]) < len(seen[0])  # all, and the originals of those that were varied
    bright = seen[0].amin((1, 2)) > 0.4
    assert 0.3 < float(bright.float().mean()) < 0.7
    assert float(seen[1].amin()) < 0.4


def test_keypoints_of_the_original_image_do_not_yield_to_the_varied_one(world: tuple[Tensor, Tensor, Tensor]) -> None:
    """The features of both do. If only the varied side's did, and were fainter, all would grow with every step."""
    tokens, _, _ = world
    task = make_task(world, VariedTokens((0.6 * tokens).numpy().astype(np.float16), 1))
    raw: list[Tensor] = []
    inner = task.module.encoder.forward

    def kept(given: Tensor) -> Tensor:
        raw.append(inner(given))
        raw[-1].retain_grad()
        return raw[-1]

    task.module.encoder.forward = kept  # type: ignore[method-assign]
    task.loss(0)["align"].backward()
    varied, original = (each.grad for each in raw)
    assert varied is not None and original is not None
    places = 2 * task.module.encoder.config.keypoints
    torch.testing.assert_close(original[:, places:], -varied[:, places:])
    assert (original[:, :places] == 0).all() and (varied != 0).any(0).all()


@pytest.mark.parametrize("options", [{"frames_per_episode": 0}, {"gap": 0}, {"noise": -1.0}])
def test_impossible_training_options_are_refused(options: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(options))):
        StateTrainingConfig(**options)  # type: ignore[arg-type]

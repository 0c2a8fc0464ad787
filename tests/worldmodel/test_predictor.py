"""The recurrent predictor: what may depend on what."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import Tensor

from tests.worldmodel.toy import PREDICTOR
from worldmodel.predictor import Predictor, PredictorConfig

TOKENS, WIDTH, PROPRIO, ACTION = 16, 32, 2, 2


@pytest.fixture
def predictor() -> Predictor:
    torch.manual_seed(0)
    return Predictor(PREDICTOR, TOKENS, WIDTH, PROPRIO, ACTION).eval()


def history(frames: int = 5, batch: int = 3) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    shapes = ((batch, frames, TOKENS, WIDTH), (batch, frames, PROPRIO), (batch, frames - 1, ACTION))
    features, proprio, actions = (torch.randn(shape, generator=generator) for shape in shapes)
    return features, proprio, actions


@pytest.mark.parametrize("frames", [1, 2, 5])
def test_observing_gives_a_state_per_frame_and_a_prediction_per_action(predictor: Predictor, frames: int) -> None:
    states, before = predictor.observe(*history(frames))
    assert states.shape == (3, frames, 32)
    assert before.shape == (3, frames - 1, 32)
    assert predictor.read_features(states).shape == (3, frames, TOKENS, WIDTH)
    assert predictor.read_proprio(before).shape == (3, frames - 1, PROPRIO)


@pytest.mark.parametrize("which", ["features", "proprio", "actions"])
def test_history_is_causal(predictor: Predictor, which: str) -> None:
    """A frame changes the states from its own on and none before; an action, those from the next frame on."""
    original = dict(zip(("features", "proprio", "actions"), history(), strict=True))
    states, before = predictor.observe(**original)
    changed = {name: value.clone() for name, value in original.items()}
    changed[which][:, 2] += 1.0
    new_states, new_before = predictor.observe(**changed)
    first_state = 3 if which == "actions" else 2
    assert torch.equal(new_states[:, :first_state], states[:, :first_state])
    assert torch.equal(new_before[:, :2], before[:, :2])
    for t in range(first_state, 5):
        assert not torch.equal(new_states[:, t], states[:, t])
    assert not torch.equal(new_before[:, 2], before[:, 2])


def test_a_prediction_is_the_advance_of_the_state_before(predictor: Predictor) -> None:
    features, proprio, actions = history()
    states, before = predictor.observe(features, proprio, actions)
    torch.testing.assert_close(before, predictor.advance(states[:, :-1], actions))
    embedding = predictor.embed(features[:, 1:], proprio[:, 1:])
    torch.testing.assert_close(states[:, 1:], predictor.correct(before, embedding))


def test_rollout_is_repeated_advance(predictor: Predictor) -> None:
    generator = torch.Generator().manual_seed(2)
    state, actions = torch.randn(3, 7, 32, generator=generator), torch.randn(3, 7, 4, ACTION, generator=generator)
    rolled = predictor.rollout(state, actions)
    assert rolled.shape == (3, 7, 4, 32)
    for step in range(4):
        state = predictor.advance(state, actions[:, :, step])
        assert torch.equal(rolled[:, :, step], state)


def test_rollout_is_causal(predictor: Predictor) -> None:
    generator = torch.Generator().manual_seed(3)
    state, actions = torch.randn(2, 32, generator=generator), torch.randn(2, 5, ACTION, generator=generator)
    changed = actions.clone()
    changed[:, 3] += 1.0
    rolled, other = predictor.rollout(state, actions), predictor.rollout(state, changed)
    assert torch.equal(rolled[:, :3], other[:, :3])
    assert bool((rolled[:, 3:] != other[:, 3:]).any(-1).all())


def test_rows_of_a_batch_do_not_know_each_other(predictor: Predictor) -> None:
    features, proprio, actions = history()
    states, before = predictor.observe(features, proprio, actions)
    alone, alone_before = predictor.observe(features[1:2], proprio[1:2], actions[1:2])
    torch.testing.assert_close(states[1:2], alone)
    torch.testing.assert_close(before[1:2], alone_before)
    torch.testing.assert_close(
        predictor.rollout(states[:, -1], actions)[1:2], predictor.rollout(alone[:, -1], actions[1:2])
    )


def test_states_keep_their_scale_over_a_long_rollout(predictor: Predictor) -> None:
    rolled = predictor.rollout(torch.randn(1, 32), 100 * torch.randn(1, 200, ACTION))
    assert bool(rolled.isfinite().all())
    torch.testing.assert_close(rolled.pow(2).mean(-1), torch.ones(1, 200), atol=1e-2, rtol=0)


def test_every_parameter_learns(predictor: Predictor) -> None:
    states, before = predictor.observe(*history())
    rolled = predictor.rollout(states[:, -1], torch.randn(3, 2, ACTION))
    moments = torch.cat([states, before, rolled], dim=1)
    (predictor.read_features(moments).pow(2).mean() + predictor.read_proprio(moments).pow(2).mean()).backward()
    for name, parameter in predictor.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name


@pytest.mark.parametrize("name", ["token_width", "state_width", "hidden_width", "depth", "history"])
def test_sizes_below_one_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match=f"{name}=0"):
        dataclasses.replace(PREDICTOR, **{name: 0})
    assert isinstance(PREDICTOR, PredictorConfig)

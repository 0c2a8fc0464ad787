"""The recurrent predictor: what may depend on what."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import Tensor

from tests.worldmodel.toy import PREDICTOR
from worldmodel.predictor import Belief, Observed, Predictor

FEATURES, PROPRIO, ACTION, WIDTH = 24, 2, 3, 32


@pytest.fixture
def predictor() -> Predictor:
    torch.manual_seed(0)
    return Predictor(PREDICTOR, FEATURES, PROPRIO, ACTION).eval()


def history(frames: int = 5, batch: int = 3) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(1)
    sizes = {"features": (frames, FEATURES), "proprio": (frames, PROPRIO), "actions": (frames - 1, ACTION)}
    return {name: torch.randn(batch, *size, generator=generator) for name, size in sizes.items()}


def some_belief(*leading: int) -> Belief:
    generator = torch.Generator().manual_seed(2)
    return Belief(*(torch.randn(*leading, size, generator=generator) for size in (WIDTH, PROPRIO)))


def assert_same(actual: Belief, expected: Belief) -> None:
    torch.testing.assert_close(actual.state, expected.state)
    torch.testing.assert_close(actual.proprio, expected.proprio)


@pytest.mark.parametrize("frames", [1, 2, 5])
def test_observing_ends_in_a_belief_and_a_prediction_per_action(predictor: Predictor, frames: int) -> None:
    observed = predictor.observe(**history(frames))
    assert observed.now.state.shape == (3, WIDTH)
    assert observed.predictions.state.shape == (3, frames - 1, WIDTH)
    assert observed.predictions.proprio.shape == (3, frames - 1, PROPRIO)
    assert predictor.read(observed.predictions.state).shape == (3, frames - 1, FEATURES)


@pytest.mark.parametrize("which", ["features", "proprio", "actions"])
def test_history_is_causal(predictor: Predictor, which: str) -> None:
    """A frame, and the action taken at it, change the predictions of the frames after it and none before."""

    def observe(change: float) -> Observed:
        values = history()
        values[which][:, 2] += change
        return predictor.observe(**values)

    before, after = observe(0.0), observe(1.0)
    for old, new in (
        (before.predictions.state, after.predictions.state),
        (before.predictions.proprio, after.predictions.proprio),
    ):
        assert torch.equal(old[:, :2], new[:, :2])
        assert all(not torch.equal(old[:, t], new[:, t]) for t in (2, 3))
    assert not torch.equal(before.now.state, after.now.state)


def test_a_prediction_is_the_advance_of_a_shorter_history(predictor: Predictor) -> None:
    values = history(4)
    observed = predictor.observe(**values)
    for frames in (1, 2, 3):
        shorter = predictor.observe(
            values["features"][:, :frames], values["proprio"][:, :frames], values["actions"][:, : frames - 1]
        )
        expected = predictor.advance(shorter.now, values["actions"][:, frames - 1])
        predictions = observed.predictions
        assert_same(Belief(predictions.state[:, frames - 1], predictions.proprio[:, frames - 1]), expected)


def test_what_is_seen_corrects_what_was_expected(predictor: Predictor) -> None:
    values = history(4)
    observed = predictor.observe(**values)
    embedding = predictor.embed(values["features"][:, -1], values["proprio"][:, -1])
    torch.testing.assert_close(observed.now.state, predictor.correct(observed.predictions.state[:, -1], embedding))
    assert torch.equal(observed.now.proprio, values["proprio"][:, -1]), "proprioception is known, not estimated"


def test_rollout_is_repeated_advance(predictor: Predictor) -> None:
    belief, actions = some_belief(3, 7), torch.randn(3, 7, 4, ACTION, generator=torch.Generator().manual_seed(3))
    ahead = predictor.rollout(belief, actions)
    assert ahead.state.shape == (3, 7, 4, WIDTH)
    for step in range(4):
        belief = predictor.advance(belief, actions[:, :, step])
        assert_same(Belief(ahead.state[:, :, step], ahead.proprio[:, :, step]), belief)


def test_rollout_is_causal(predictor: Predictor) -> None:
    belief, actions = some_belief(2), torch.randn(2, 5, ACTION, generator=torch.Generator().manual_seed(4))
    changed = actions.clone()
    changed[:, 3] += 1.0
    ahead, other = predictor.rollout(belief, actions), predictor.rollout(belief, changed)
    assert torch.equal(ahead.state[:, :3], other.state[:, :3])
    assert bool((ahead.state[:, 3:] != other.state[:, 3:]).any(-1).all())


def test_proprioception_is_integrated_and_looked_at(predictor: Predictor) -> None:
    belief, action = some_belief(2), torch.zeros(2, ACTION)
    moved = Belief(belief.state, belief.proprio + 1.0)
    here, there = predictor.advance(belief, action), predictor.advance(moved, action)
    assert not torch.equal(here.state, there.state)
    torch.nn.init.zeros_(predictor.proprio_out.weight)
    torch.nn.init.zeros_(predictor.proprio_out.bias)
    assert torch.equal(predictor.advance(belief, action).proprio, belief.proprio), "nothing learned: nothing moves"


def test_rows_of_a_batch_do_not_know_each_other(predictor: Predictor) -> None:
    values = history()
    together = predictor.observe(**values)
    alone = predictor.observe(**{name: value[1:2] for name, value in values.items()})
    assert_same(Belief(together.now.state[1:2], together.now.proprio[1:2]), alone.now)
    assert_same(Belief(together.predictions.state[1:2], together.predictions.proprio[1:2]), alone.predictions)
    ahead, ahead_alone = (predictor.rollout(o.now, values["actions"][s]) for o, s in
                          ((together, slice(None)), (alone, slice(1, 2))))  # fmt: skip
    assert_same(Belief(ahead.state[1:2], ahead.proprio[1:2]), ahead_alone)


def test_states_keep_their_scale_over_a_long_rollout(predictor: Predictor) -> None:
    actions = 100 * torch.randn(1, 200, ACTION, generator=torch.Generator().manual_seed(5))
    ahead = predictor.rollout(some_belief(1), actions)
    torch.testing.assert_close(ahead.state.pow(2).mean(-1), torch.ones(1, 200), atol=1e-2, rtol=0)


def test_every_parameter_learns(predictor: Predictor) -> None:
    observed = predictor.observe(**history())
    ahead = predictor.rollout(observed.now, torch.randn(3, 2, ACTION))
    parts = (observed.predictions, ahead)
    torch.stack([predictor.read(b.state).pow(2).mean() + b.proprio.pow(2).mean() for b in parts]).sum().backward()
    for name, parameter in predictor.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name


@pytest.mark.parametrize("name", ["state_width", "hidden_width", "depth", "history"])
def test_sizes_below_one_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match=f"{name}=0"):
        dataclasses.replace(PREDICTOR, **{name: 0})

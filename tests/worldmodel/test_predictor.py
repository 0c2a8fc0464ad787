"""The predictor: what may depend on what."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import Tensor

from tests.worldmodel.toy import PREDICTOR
from worldmodel.predictor import Belief, Observed, Predictor

CODE, PROPRIO, ACTION = 24, 2, 3
MEMORY = PREDICTOR.memory


@pytest.fixture
def predictor() -> Predictor:
    torch.manual_seed(0)
    return Predictor(PREDICTOR, CODE, PROPRIO, ACTION).eval()


def history(frames: int = 5, batch: int = 3) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(1)
    sizes = {"codes": (frames, CODE), "proprio": (frames, PROPRIO), "actions": (frames - 1, ACTION)}
    return {name: torch.randn(batch, *size, generator=generator) for name, size in sizes.items()}


def some_belief(*leading: int) -> Belief:
    generator = torch.Generator().manual_seed(2)
    return Belief(*(torch.randn(*leading, size, generator=generator) for size in (CODE, PROPRIO, MEMORY)))


def assert_same(actual: Belief, expected: Belief) -> None:
    for field in dataclasses.fields(Belief):
        torch.testing.assert_close(getattr(actual, field.name), getattr(expected, field.name))


def pick(belief: Belief, index: object) -> Belief:
    return Belief(*(getattr(belief, field.name)[index] for field in dataclasses.fields(Belief)))


@pytest.mark.parametrize("frames", [1, 2, 5])
def test_observing_ends_in_a_belief_and_a_prediction_per_action(predictor: Predictor, frames: int) -> None:
    observed = predictor.observe(**history(frames))
    for name, size in (("code", CODE), ("proprio", PROPRIO), ("memory", MEMORY)):
        assert getattr(observed.now, name).shape == (3, size)
        assert getattr(observed.predictions, name).shape == (3, frames - 1, size)


@pytest.mark.parametrize("which", ["codes", "proprio", "actions"])
def test_history_is_causal(predictor: Predictor, which: str) -> None:
    """A frame, and the action taken at it, change the predictions of the frames after it and none before."""

    def observe(change: float) -> Observed:
        values = history()
        values[which][:, 2] += change
        return predictor.observe(**values)

    before, after = observe(0.0), observe(1.0)
    for old, new in (
        (before.predictions.code, after.predictions.code),
        (before.predictions.proprio, after.predictions.proprio),
    ):
        assert torch.equal(old[:, :2], new[:, :2])
        assert all(not torch.equal(old[:, t], new[:, t]) for t in (2, 3))
    assert not torch.equal(before.now.memory, after.now.memory)


def test_a_prediction_is_the_advance_of_a_shorter_history(predictor: Predictor) -> None:
    values = history(4)
    observed = predictor.observe(**values)
    for frames in (1, 2, 3):
        shorter = predictor.observe(
            values["codes"][:, :frames], values["proprio"][:, :frames], values["actions"][:, : frames - 1]
        )
        expected = predictor.advance(shorter.now, values["actions"][:, frames - 1])
        predictions = observed.predictions
        assert_same(pick(predictions, (slice(None), frames - 1)), expected)


def test_what_is_seen_is_known_and_what_was_expected_is_remembered(predictor: Predictor) -> None:
    values = history(4)
    observed = predictor.observe(**values)
    assert torch.equal(observed.now.code, values["codes"][:, -1])
    assert torch.equal(observed.now.proprio, values["proprio"][:, -1])
    assert torch.equal(observed.now.memory, observed.predictions.memory[:, -1])


def test_rollout_is_repeated_advance(predictor: Predictor) -> None:
    belief, actions = some_belief(3, 7), torch.randn(3, 7, 4, ACTION, generator=torch.Generator().manual_seed(3))
    ahead = predictor.rollout(belief, actions)
    assert ahead.code.shape == (3, 7, 4, CODE)
    for step in range(4):
        belief = predictor.advance(belief, actions[:, :, step])
        assert_same(pick(ahead, (slice(None), slice(None), step)), belief)


def test_rollout_is_causal(predictor: Predictor) -> None:
    belief, actions = some_belief(2), torch.randn(2, 5, ACTION, generator=torch.Generator().manual_seed(4))
    changed = actions.clone()
    changed[:, 3] += 1.0
    ahead, other = predictor.rollout(belief, actions), predictor.rollout(belief, changed)
    assert torch.equal(ahead.code[:, :3], other.code[:, :3])
    assert bool((ahead.code[:, 3:] != other.code[:, 3:]).any(-1).all())


def test_before_anything_is_learned_nothing_moves(predictor: Predictor) -> None:
    torch.nn.init.zeros_(predictor.change.weight)
    torch.nn.init.zeros_(predictor.change.bias)
    belief = some_belief(2)
    after = predictor.advance(belief, torch.ones(2, ACTION))
    assert torch.equal(after.code, belief.code)
    assert torch.equal(after.proprio, belief.proprio)
    assert not torch.equal(after.memory, belief.memory)


def test_rows_of_a_batch_do_not_know_each_other(predictor: Predictor) -> None:
    values = history()
    together = predictor.observe(**values)
    alone = predictor.observe(**{name: value[1:2] for name, value in values.items()})
    assert_same(pick(together.now, slice(1, 2)), alone.now)
    assert_same(pick(together.predictions, slice(1, 2)), alone.predictions)
    ahead, ahead_alone = (predictor.rollout(o.now, values["actions"][s]) for o, s in
                          ((together, slice(None)), (alone, slice(1, 2))))  # fmt: skip
    assert_same(pick(ahead, slice(1, 2)), ahead_alone)


def test_memory_stays_bounded_over_a_long_rollout(predictor: Predictor) -> None:
    actions = 100 * torch.randn(1, 200, ACTION, generator=torch.Generator().manual_seed(5))
    ahead = predictor.rollout(some_belief(1), actions)
    assert ahead.memory.abs().max() <= 1
    assert bool(ahead.code.isfinite().all())


def test_every_parameter_learns(predictor: Predictor) -> None:
    observed = predictor.observe(**history())
    ahead = predictor.rollout(observed.now, torch.randn(3, 2, ACTION))
    parts = (observed.predictions, ahead)
    torch.stack([b.code.pow(2).mean() + b.proprio.pow(2).mean() for b in parts]).sum().backward()
    for name, parameter in predictor.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name


@pytest.mark.parametrize("name", ["width", "hidden_width", "depth", "memory", "history"])
def test_sizes_below_one_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match=f"{name}=0"):
        dataclasses.replace(PREDICTOR, **{name: 0})

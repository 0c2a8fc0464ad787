"""The predictor: what may depend on what."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from tests.worldmodel.toy import PREDICTOR
from worldmodel.models.keypoint.predictor import Belief, Predictor

CODE, PROPRIO, ACTION = 24, 2, 3
BLOCK = PREDICTOR.block


@pytest.fixture
def predictor() -> Predictor:
    torch.manual_seed(0)
    return Predictor(PREDICTOR, CODE, PROPRIO, ACTION).eval()


def some_belief(*leading: int) -> Belief:
    generator = torch.Generator().manual_seed(2)
    return Belief(*(torch.randn(*leading, size, generator=generator) for size in (CODE, CODE, PROPRIO)))


def some_actions(*leading: int, seed: int = 3) -> torch.Tensor:
    return torch.randn(*leading, ACTION, generator=torch.Generator().manual_seed(seed))


def pick(belief: Belief, index: object) -> Belief:
    return Belief(*(getattr(belief, field.name)[index] for field in dataclasses.fields(Belief)))


def assert_same(actual: Belief, expected: Belief) -> None:
    for field in dataclasses.fields(Belief):
        torch.testing.assert_close(getattr(actual, field.name), getattr(expected, field.name))


def test_one_evaluation_predicts_every_step_of_a_block(predictor: Predictor) -> None:
    belief = some_belief(3)
    ahead = predictor.advance(belief, some_actions(3, BLOCK))
    assert ahead.code.shape == ahead.motion.shape == (3, BLOCK, CODE)
    assert ahead.proprio.shape == (3, BLOCK, PROPRIO)
    torch.testing.assert_close(belief.code + ahead.motion.sum(1), ahead.code[:, -1])


def test_rollout_is_repeated_advance(predictor: Predictor) -> None:
    belief, actions = some_belief(3, 7), some_actions(3, 7, 3 * BLOCK)
    ahead = predictor.rollout(belief, actions)
    assert ahead.code.shape == (3, 7, 3 * BLOCK, CODE)
    for first in range(0, 3 * BLOCK, BLOCK):
        block = predictor.advance(belief, actions[:, :, first : first + BLOCK])
        assert_same(pick(ahead, (..., slice(first, first + BLOCK), slice(None))), block)
        belief = pick(block, (..., -1, slice(None)))


@pytest.mark.parametrize("horizon", [1, BLOCK, BLOCK + 1, 3 * BLOCK - 1])
def test_any_horizon_can_be_asked_for(predictor: Predictor, horizon: int) -> None:
    ahead = predictor.rollout(some_belief(2), some_actions(2, horizon))
    assert ahead.code.shape == (2, horizon, CODE)
    assert ahead.proprio.shape == (2, horizon, PROPRIO)
    whole = predictor.rollout(some_belief(2), torch.nn.functional.pad(some_actions(2, horizon), (0, 0, 0, BLOCK)))
    assert_same(pick(whole, (slice(None), slice(0, horizon))), ahead)


def test_an_action_changes_its_block_and_what_follows_and_nothing_before(predictor: Predictor) -> None:
    actions = some_actions(2, 3 * BLOCK)
    changed = actions.clone()
    changed[:, BLOCK + 1] += 1.0
    ahead, other = (predictor.rollout(some_belief(2), a) for a in (actions, changed))
    assert torch.equal(ahead.code[:, :BLOCK], other.code[:, :BLOCK])
    assert bool((ahead.code[:, BLOCK:] != other.code[:, BLOCK:]).any(-1).all())


@pytest.mark.parametrize("name", ["code", "motion", "proprio"])
def test_all_that_is_known_of_the_present_counts(predictor: Predictor, name: str) -> None:
    belief, actions = some_belief(2), some_actions(2, BLOCK)
    other = dataclasses.replace(belief, **{name: getattr(belief, name) + 1.0})
    before, after = predictor.advance(belief, actions), predictor.advance(other, actions)
    assert not torch.equal(before.code - belief.code[:, None], after.code - other.code[:, None])


def test_before_anything_is_learned_nothing_moves(predictor: Predictor) -> None:
    torch.nn.init.zeros_(predictor.change.weight)
    torch.nn.init.zeros_(predictor.change.bias)
    belief = some_belief(2)
    after = predictor.rollout(belief, some_actions(2, 5))
    assert torch.equal(after.code, belief.code[:, None].expand(-1, 5, -1))
    assert torch.equal(after.proprio, belief.proprio[:, None].expand(-1, 5, -1))
    assert not after.motion.any()


def test_rows_of_a_batch_do_not_know_each_other(predictor: Predictor) -> None:
    belief, actions = some_belief(3), some_actions(3, 5)
    alone = predictor.rollout(pick(belief, slice(1, 2)), actions[1:2])
    assert_same(pick(predictor.rollout(belief, actions), slice(1, 2)), alone)


def test_every_parameter_learns(predictor: Predictor) -> None:
    ahead = predictor.rollout(some_belief(3), some_actions(3, 5))
    (ahead.code.pow(2).mean() + ahead.proprio.pow(2).mean()).backward()
    for name, parameter in predictor.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name


@pytest.mark.parametrize("name", ["width", "hidden_width", "depth", "block"])
def test_sizes_below_one_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match=f"{name}=0"):
        dataclasses.replace(PREDICTOR, **{name: 0})

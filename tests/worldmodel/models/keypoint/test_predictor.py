"""The predictor: what may depend on what."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from tests.worldmodel.toy import PREDICTOR
from worldmodel.models.keypoint.predictor import Belief, Predictor

STATE, PROPRIO, ACTION = 24, 2, 3
STEPS = PREDICTOR.prediction_steps


@pytest.fixture
def predictor() -> Predictor:
    torch.manual_seed(0)
    return Predictor(PREDICTOR, STATE, PROPRIO, ACTION).eval()


def some_belief(*leading: int) -> Belief:
    generator = torch.Generator().manual_seed(2)
    return Belief(*(torch.randn(*leading, size, generator=generator) for size in (STATE, STATE, PROPRIO)))


def some_actions(*leading: int, seed: int = 3) -> torch.Tensor:
    return torch.randn(*leading, ACTION, generator=torch.Generator().manual_seed(seed))


def pick(belief: Belief, index: object) -> Belief:
    return belief.map(lambda part: part[index])  # type: ignore[index]


def assert_same(actual: Belief, expected: Belief) -> None:
    for name in ("state", "motion", "proprio"):
        torch.testing.assert_close(getattr(actual, name), getattr(expected, name))


def test_one_evaluation_predicts_every_one_of_its_steps(predictor: Predictor) -> None:
    belief = some_belief(3)
    ahead = predictor.advance(belief, some_actions(3, STEPS))
    assert ahead.state.shape == ahead.motion.shape == (3, STEPS, STATE)
    assert ahead.proprio.shape == (3, STEPS, PROPRIO)
    torch.testing.assert_close(belief.state + ahead.motion.sum(1), ahead.state[:, -1])


def test_rollout_is_repeated_advance(predictor: Predictor) -> None:
    belief, actions = some_belief(3, 7), some_actions(3, 7, 3 * STEPS)
    ahead = predictor.rollout(belief, actions)
    assert ahead.state.shape == (3, 7, 3 * STEPS, STATE)
    for first in range(0, 3 * STEPS, STEPS):
        part = predictor.advance(belief, actions[:, :, first : first + STEPS])
        assert_same(pick(ahead, (..., slice(first, first + STEPS), slice(None))), part)
        belief = pick(part, (..., -1, slice(None)))


@pytest.mark.parametrize("horizon", [1, STEPS, STEPS + 1, 3 * STEPS - 1])
def test_any_horizon_can_be_asked_for(predictor: Predictor, horizon: int) -> None:
    ahead = predictor.rollout(some_belief(2), some_actions(2, horizon))
    assert ahead.state.shape == (2, horizon, STATE)
    assert ahead.proprio.shape == (2, horizon, PROPRIO)
    whole = predictor.rollout(some_belief(2), torch.nn.functional.pad(some_actions(2, horizon), (0, 0, 0, STEPS)))
    assert_same(pick(whole, (slice(None), slice(0, horizon))), ahead)


def test_an_action_changes_its_evaluation_and_what_follows_and_nothing_before(predictor: Predictor) -> None:
    actions = some_actions(2, 3 * STEPS)
    changed = actions.clone()
    changed[:, STEPS + 1] += 1.0
    ahead, other = (predictor.rollout(some_belief(2), a) for a in (actions, changed))
    assert torch.equal(ahead.state[:, :STEPS], other.state[:, :STEPS])
    assert bool((ahead.state[:, STEPS:] != other.state[:, STEPS:]).any(-1).all())


@pytest.mark.parametrize("name", ["state", "motion", "proprio"])
def test_all_that_is_known_of_the_present_counts(predictor: Predictor, name: str) -> None:
    belief, actions = some_belief(2), some_actions(2, STEPS)
    other = dataclasses.replace(belief, **{name: getattr(belief, name) + 1.0})
    before, after = predictor.advance(belief, actions), predictor.advance(other, actions)
    assert not torch.equal(before.state - belief.state[:, None], after.state - other.state[:, None])


def test_before_anything_is_learned_nothing_moves(predictor: Predictor) -> None:
    torch.nn.init.zeros_(predictor.change.weight)
    torch.nn.init.zeros_(predictor.change.bias)
    belief = some_belief(2)
    after = predictor.rollout(belief, some_actions(2, 5))
    assert torch.equal(after.state, belief.state[:, None].expand(-1, 5, -1))
    assert torch.equal(after.proprio, belief.proprio[:, None].expand(-1, 5, -1))
    assert not after.motion.any()


def test_rows_of_a_batch_do_not_know_each_other(predictor: Predictor) -> None:
    belief, actions = some_belief(3), some_actions(3, 5)
    alone = predictor.rollout(pick(belief, slice(1, 2)), actions[1:2])
    assert_same(pick(predictor.rollout(belief, actions), slice(1, 2)), alone)


def test_every_parameter_learns(predictor: Predictor) -> None:
    ahead = predictor.rollout(some_belief(3), some_actions(3, 5))
    (ahead.state.pow(2).mean() + ahead.proprio.pow(2).mean()).backward()
    for name, parameter in predictor.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name


@pytest.mark.parametrize("name", ["width", "hidden_width", "depth", "prediction_steps"])
def test_sizes_below_one_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match=f"{name}=0"):
        dataclasses.replace(PREDICTOR, **{name: 0})


# --- heads -----------------------------------------------------------------------------------------------------------

HEADS = 3


@pytest.fixture
def doubting() -> Predictor:
    torch.manual_seed(0)
    predictor = Predictor(dataclasses.replace(PREDICTOR, heads=HEADS), STATE, PROPRIO, ACTION).eval()
    with torch.no_grad():
        predictor.feature_whitening.mul_(0.5)
    return predictor


def test_the_prediction_is_the_mean_of_the_heads(doubting: Predictor) -> None:
    belief, actions = some_belief(4), some_actions(4, 2 * STEPS + 1)
    heads = doubting.rollout_heads(belief, actions)
    assert heads.state.shape == (4, HEADS, 2 * STEPS + 1, STATE)
    assert_same(heads.map(lambda part: part.mean(1)), doubting.rollout(belief, actions))


def test_doubt_does_not_change_the_prediction(doubting: Predictor) -> None:
    belief, actions = some_belief(2, 5), some_actions(2, 5, 2 * STEPS + 1)
    plain, ahead = doubting.rollout(belief, actions), doubting.rollout(belief, actions, doubting=True)
    assert_same(ahead, plain)
    assert plain.variance is None and plain.strangeness is None
    assert ahead.variance is not None and ahead.strangeness is not None
    assert ahead.variance.shape == ahead.state.shape and ahead.strangeness.shape == ahead.state.shape[:-1]


def test_doubt_is_the_variance_of_the_heads_and_only_grows(doubting: Predictor) -> None:
    belief, actions = some_belief(4), some_actions(4, 3 * STEPS)
    ahead = doubting.rollout(belief, actions, doubting=True)
    assert ahead.variance is not None and ahead.strangeness is not None
    first = doubting.advance_heads(belief, actions[:, :STEPS]).state.var(1)
    torch.testing.assert_close(ahead.variance[:, :STEPS], first)
    assert (ahead.variance[:, STEPS:] >= ahead.variance[:, STEPS - 1 : STEPS]).all()
    assert (ahead.strangeness.diff(dim=1) >= 0).all()


def test_one_head_is_the_predictor_of_older_checkpoints() -> None:
    names = set(Predictor(PREDICTOR, STATE, PROPRIO, ACTION).state_dict())
    assert names == {name for name in names if name.split(".")[0] in ("inward", "blocks", "change")}


@pytest.mark.parametrize("heads", [1, 3])
def test_a_cast_copy_rolls_out_the_same_to_the_last_bit(heads: int) -> None:
    torch.manual_seed(0)
    predictor = Predictor(dataclasses.replace(PREDICTOR, heads=heads), STATE, PROPRIO, ACTION).eval()
    belief, actions = some_belief(3, 7), some_actions(3, 7, 2 * STEPS)
    cast = predictor.cast(torch.bfloat16)
    assert cast.inward.weight.dtype == cast.change.weight.dtype == torch.bfloat16
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        plain, copied = predictor.rollout(belief, actions), cast.rollout(belief, actions)
    assert torch.equal(plain.state, copied.state) and torch.equal(plain.proprio, copied.proprio)
    assert (
        predictor.inward.weight.dtype == torch.float32
        and predictor.change.out_features == heads * cast.change.out_features
    )

"""What can be commanded: what the data set says, what its actions show, and what contradicts them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from worldmodel.core.errors import UserError
from worldmodel.data.formats.actions import ActionOptions, Told, tell_action
from worldmodel.data.formats.mapping import Choice, Part
from worldmodel.data.formats.source import Facts, Feature
from worldmodel.data.formats.survey import Survey

CHOICE = Choice({"top": "top"}, (Part("action"),), (Part("state"),), ())


def tell(
    action: NDArray[Any],
    state: NDArray[Any] | None = None,
    action_names: tuple[str, ...] = (),
    state_names: tuple[str, ...] = (),
    **options: Any,
) -> Told:
    """Of two episodes with these actions `[T, A]` and readings `[T + 1, P]`."""
    state = np.zeros((len(action) + 1, 0)) if state is None else state
    found = Survey(action.shape[1])
    for _ in range(2):
        found.add(action.astype(np.float32).astype(np.float64), state)
    features = {
        "action": Feature("action", action.shape[1:], "float32", False, action_names),
        "state": Feature("state", state.shape[1:], "float32", False, state_names),
    }
    facts = Facts("made up", "toy")
    return tell_action(facts, features, CHOICE, found, ActionOptions(**options), "made-up")


@pytest.fixture
def arm() -> tuple[NDArray[Any], NDArray[Any]]:
    """Targets of two joints and a gripper, and an arm that follows them: readings are gripper, noise, joints."""
    rng = np.random.default_rng(0)
    time = np.linspace(0, 6, 200)
    joints = np.stack([np.sin(time), 2 + np.cos(1.3 * time)], axis=1)
    gripper = (np.sin(2 * time) > 0).astype(float)
    state = np.zeros((201, 4))
    state[1:, 2:] = joints + 0.01 * rng.standard_normal((200, 2))
    state[0, 2:] = joints[0]
    state[:, 1] = rng.standard_normal(201)
    return np.column_stack([joints, gripper]), state


def test_absolute_targets_hold(arm: tuple[NDArray[Any], NDArray[Any]]) -> None:
    told = tell(*arm)
    assert told.spec.rest == ("hold", "hold", "hold")
    assert told.spec.hold_from == (2, 3, None)
    assert told.spec.kinds == ("continuous", "continuous", "binary")
    assert told.why == ("reading 2 follows it", "reading 3 follows it", "takes two values only")


def test_velocities_and_relative_moves_rest_at_zero() -> None:
    rng = np.random.default_rng(1)
    action = rng.uniform(-1, 1, (200, 2))
    state = np.concatenate([np.zeros((1, 2)), np.cumsum(action, 0) / 10])
    told = tell(action, state)
    assert told.spec.rest == ("zero", "zero") and told.spec.hold_from == (None, None)
    # A reading that repeats the last command is no position: it is far away when the next one is given.
    assert tell(action, np.concatenate([np.zeros((1, 2)), action])).spec.rest == ("zero", "zero")


def test_a_smooth_velocity_is_known_by_its_name() -> None:
    speed = np.sin(np.linspace(0, 6, 200))[:, None]
    state = np.concatenate([speed[:1], speed])
    assert tell(speed, state).spec.rest == ("hold",)
    assert tell(speed, state, ("x.vel",), ("x.vel",)).spec.rest == ("zero",)
    assert tell(speed, state, (), ("joint_velocity",)).spec.rest == ("zero",)


def test_names_are_followed(arm: tuple[NDArray[Any], NDArray[Any]]) -> None:
    action, state = arm
    slow = state.copy()
    slow[1:, 2:] = 0.5 * state[1:, 2:] + 0.5 * state[:-1, 2:] + 0.4  # too far to be found by numbers alone
    names = ("shoulder.pos", "elbow.pos", "gripper.pos")
    told = tell(action, slow, names, ("grip", "noise", "elbow.pos", "shoulder.pos"))
    assert told.spec.names == names
    assert told.spec.hold_from[1] == 2 or told.spec.hold_from[1] is None
    told = tell(action, slow, names, ("grip", "noise", "shoulder.pos", "elbow.pos"))
    assert told.spec.hold_from[:2] == (2, 3)
    assert told.why[0] == "the reading shoulder.pos follows it"


def test_bounds_without_zero_hold() -> None:
    rng = np.random.default_rng(2)
    told = tell(rng.uniform(1, 2, (50, 1)))
    assert (told.spec.rest, told.spec.hold_from, told.why) == (("hold",), (None,), ("its bounds leave zero out",))


def test_few_actions_prove_nothing() -> None:
    action = np.array([[0.0], [1.0]] * 4)
    state = np.concatenate([action[:1], action])
    told = tell(action, state)
    assert (told.spec.kinds, told.spec.rest) == (("continuous",), ("zero",))


def test_what_the_user_says_counts(arm: tuple[NDArray[Any], NDArray[Any]]) -> None:
    action, state = arm
    told = tell(action, state, rest=["zero", "hold", "0.5"], binary=[], max_rate=["1", "none", "2.5"], units=["rad"])
    assert told.spec.rest == ("zero", "hold", 0.5)
    assert told.spec.hold_from == (None, 3, None)
    assert told.spec.kinds == ("continuous",) * 3
    assert told.spec.max_rate == (1.0, None, 2.5)
    assert told.spec.units == ("rad",) * 3
    assert tell(action, state, binary=["action_2"]).spec.kinds == ("continuous", "continuous", "binary")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rest": ["zero", "hold"]}, "--rest has 2 values: expected 1 or 3"),
        ({"rest": ["still"]}, "--rest 'still': expected zero, hold or a number"),
        ({"rest": ["7"]}, r"rest of action action_0 is 7\.0: expected zero, hold or a number from"),
        ({"binary": ["grip"]}, "unknown dimension of --binary 'grip': choose from action_0, action_1, action_2"),
        ({"binary": ["action_0"]}, "--binary action_0: a binary action is -0.99.* or 0.99.*, the data set has others"),
        ({"max_rate": ["fast"]}, "--max-rate fast: expected numbers above 0, or none"),
        ({"max_rate": ["-1"]}, r"max_rate of action action_0 is -1\.0: expected a number above 0"),
        ({"low": [-1.0], "high": [2.5]}, r"action\[1\] of made-up goes from .* outside the bounds -1 to 2\.5 of --"),
    ],
)  # fmt: skip
def test_contradictions_are_refused(arm: tuple[NDArray[Any], NDArray[Any]], options: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        tell(*arm, **options)


def test_names_that_say_nothing_are_not_taken() -> None:
    action = np.random.default_rng(3).uniform(-1, 1, (30, 2))
    assert tell(action, action_names=("x", "x")).spec.names == ("action_0", "action_1")
    assert tell(action, action_names=("x",)).spec.names == ("action_0", "action_1")
    assert tell(action, action_names=("x\x1b[2J", "")).spec.names == ("x", "action_1")

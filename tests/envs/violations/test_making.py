"""Every condition: what its clips share, that possible ones are possible, and that frames give no others away."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import numpy as np
import pytest

from envs.violations.making import HIDDEN, WORLDS, ClipMaker, Condition, LabelledPair, PushClips, StageClips
from envs.violations.scene import Clip
from worldmodel.core.errors import UserError

ROWS, SCENES = 24, 3
EVERY = [
    (name, condition) for name, maker in (("stage", StageClips), ("push", PushClips)) for condition in maker.conditions
]
# Both clips of a scene have the same surroundings, so each of their frames is in an impossible clip as well.
EXCHANGED = ("vanish", "teleport", "colour", "shape", "command")


@pytest.fixture(scope="module")
def makers() -> Iterator[dict[str, ClipMaker]]:
    made = {name: make(32, ROWS) for name, make in WORLDS.items()}
    yield made
    for maker in made.values():
        maker.world.close()


def pairs_of(maker: ClipMaker, condition: Condition, seed: int = 5) -> list[LabelledPair]:
    return list(maker.pairs([condition], SCENES, seed))


def follows(maker: ClipMaker, clip: Clip) -> bool:
    """Whether physics leads from the first state through the actions to all the others."""
    ahead = maker.world.simulate(clip.states[0], clip.actions[None, :-1].astype(np.float64))[0]
    return bool(np.allclose(ahead, clip.states[1:], atol=1e-9))


@pytest.mark.parametrize(("world", "condition"), EVERY, ids=lambda value: str(value))
def test_possible_clips_are_possible_and_their_twins_are_not(
    makers: dict[str, ClipMaker], world: str, condition: Condition
) -> None:
    found = pairs_of(makers[world], condition)
    assert [labelled.scene for labelled in found] == [0, 0, 1, 1, 2, 2]
    for labelled in found:
        assert labelled.condition == condition and labelled.pair.violation
        assert follows(makers[world], labelled.pair.possible)
        assert not follows(makers[world], labelled.pair.impossible)


@pytest.mark.parametrize(("world", "condition"), EVERY, ids=lambda value: str(value))
def test_twins_look_alike_until_the_break(makers: dict[str, ClipMaker], world: str, condition: Condition) -> None:
    for labelled in pairs_of(makers[world], condition):
        pair, at = labelled.pair, labelled.pair.break_row
        (possible, felt), (impossible, felt_by_twin) = (
            makers[world].show(clip) for clip in (pair.possible, pair.impossible)
        )
        (camera,) = possible
        differ = [not np.array_equal(a, b) for a, b in zip(possible[camera], impossible[camera], strict=True)]
        assert not any(differ[:at]) and any(differ[at:])
        np.testing.assert_array_equal(felt[:at], felt_by_twin[:at])
        np.testing.assert_array_equal(pair.possible.actions, pair.impossible.actions)
        assert differ[at] == (condition.variant != HIDDEN), "a break is seen at once, unless it is behind the screen"


@pytest.mark.parametrize(("world", "condition"), EVERY, ids=lambda value: str(value))
def test_what_moves_after_the_break_is_possible_as_often_as_not(
    makers: dict[str, ClipMaker], world: str, condition: Condition
) -> None:
    """What the twins of a scene exchange is in one possible and in one impossible clip, frame by frame."""
    found = pairs_of(makers[world], condition)
    for first, second in zip(found[::2], found[1::2], strict=True):
        if condition.property in EXCHANGED:
            frames = [Counter(frame.tobytes() for frame in shown(makers[world], clip)) for clip in clips(first, second)]
            assert frames[0] + frames[2] == frames[1] + frames[3]
        states = [clip.states for clip in clips(first, second)]
        for column in range(states[0].shape[1]):
            values = [state[:, column] for state in states]
            assert sorted([*values[0], *values[2]]) == sorted([*values[1], *values[3]])


def clips(first: LabelledPair, second: LabelledPair) -> tuple[Clip, Clip, Clip, Clip]:
    return first.pair.possible, first.pair.impossible, second.pair.possible, second.pair.impossible


def shown(maker: ClipMaker, clip: Clip) -> np.ndarray:
    (images,) = maker.show(clip)[0].values()
    return images


def test_a_scene_depends_on_seed_and_condition_alone(makers: dict[str, ClipMaker]) -> None:
    maker = makers["stage"]
    conditions = maker.choose(["vanish", "wall"])
    together = list(maker.pairs(conditions, 2, seed=3))
    alone = list(maker.pairs(conditions[2:3], 3, seed=3))
    np.testing.assert_array_equal(together[8].pair.possible.states, alone[0].pair.possible.states)
    other = next(maker.pairs(conditions[2:3], 1, seed=4))
    assert not np.array_equal(other.pair.possible.states, alone[0].pair.possible.states)


def test_the_training_set_has_other_scenes_and_only_possible_ones(makers: dict[str, ClipMaker]) -> None:
    maker = makers["stage"]
    number = 2 * len(maker.conditions)
    training = list(maker.possible(maker.conditions, number, seed=5))
    assert len(training) == number and all(follows(maker, clip) for clip in training)
    starts = {labelled.pair.possible.states[0].tobytes() for labelled in maker.pairs(maker.conditions, 2, seed=5)}
    assert not starts & {clip.states[0].tobytes() for clip in training}


def test_conditions_are_chosen_by_property(makers: dict[str, ClipMaker]) -> None:
    assert {c.property for c in makers["push"].choose([])} == {"contact", "command"}
    assert [c.variant for c in makers["stage"].choose(["wall"])] == ["visible", "hidden"]
    assert [c.variant for c in makers["stage"].choose(["motion"])] == ["visible"]
    with pytest.raises(UserError, match=r"unknown property 'wal': choose from .*did you mean wall"):
        makers["stage"].choose(["wal"])


def test_the_specification_is_that_of_the_world(makers: dict[str, ClipMaker]) -> None:
    stage, push = makers["stage"].spec, makers["push"].spec
    assert (stage.env, stage.proprio_size, stage.state_size, stage.action.low) == ("stage", 0, 27, (0.0,))
    assert (push.env, push.proprio_size, push.state_size, push.action.names) == ("push", 2, 12, ("vx", "vy"))

"""Columns are found where there is no doubt, and listed where there is."""

from __future__ import annotations

import pytest

from worldmodel.core.errors import UserError
from worldmodel.data.formats.mapping import Choice, Part, choose
from worldmodel.data.formats.source import Feature


def features(pictures: str = "", numbers: str = "") -> dict[str, Feature]:
    found = {name: Feature(name, (8, 8, 3), "uint8", True) for name in pictures.split()}
    return found | {name: Feature(name, (4,), "float32", False) for name in numbers.split()}


def test_the_only_candidate_is_taken() -> None:
    found = choose(features("top", "torque angles"), {"action": "torque"})
    assert found == Choice("top", (Part("torque"),), (Part("angles"),), ())


def test_the_usual_name_is_taken_before_others() -> None:
    usual = {"action": "action", "proprio": "robot", "state": "states"}
    found = choose(features("top", "action other robot states"), usual)
    assert found == Choice("top", (Part("action"),), (Part("robot"),), (Part("states"),))


def test_what_is_given_counts() -> None:
    columns = features("top wrist", "action a b states")
    usual = {"action": "action", "state": "states"}
    found = choose(columns, usual, camera="wrist", action=["b", "a[1:3]"], proprio=["a[:2]", "b[3:]"], state=["none"])
    assert found.camera == "wrist"
    assert found.action == (Part("b"), Part("a", 1, 3))
    assert found.proprio == (Part("a", 0, 2), Part("b", 3))
    assert [str(part) for part in found.proprio] == ["a[0:2]", "b[3:]"]
    assert found.state == ()
    assert found.observed == ("wrist", "a", "b")


def test_no_proprioception_at_all() -> None:
    assert choose(features("top", "action"), {"action": "action"}).proprio == ()
    assert choose(features("top", "action a b"), {"action": "action"}, proprio=["none"]).proprio == ()


@pytest.mark.parametrize(
    ("columns", "given", "message"),
    [
        (features("top wrist", "action"), {}, "several columns can be --camera: top, wrist"),
        (features("", "action joints"), {}, "nothing in it can be --camera: it has no column of pictures"),
        (features("top", "action a b"), {}, "several columns can be --proprio: a, b, none"),
        (features("top", "left right"), {}, "several columns can be --action: left, right"),
        (features("top", ""), {}, "nothing in it can be --action"),
        (features("top", "action a"), {"camera": "tap"}, r"--camera 'tap': choose from top \(did you mean top\?\)"),
        (features("top", "action a"), {"camera": "a"}, "--camera 'a': choose from top"),
        (features("top", "action a"), {"proprio": ["top"]}, "--proprio 'top': choose from action, a, none"),
        (features("top", "action a"), {"action": ["none"]}, "--action 'none': choose from action, a"),
        (features("top", "action a"), {"camera": "top[0:1]"}, "pictures are taken whole"),
    ],
)
def test_doubt_is_told_with_all_candidates(columns: dict[str, Feature], given: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        choose(columns, {"action": "action"}, **given)

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
    assert found == Choice({"top": "top"}, (Part("torque"),), (Part("angles"),), ())


def test_the_usual_name_is_taken_before_others() -> None:
    usual = {"action": "action", "proprio": "robot", "state": "states"}
    found = choose(features("top", "action other robot states"), usual)
    assert found == Choice({"top": "top"}, (Part("action"),), (Part("robot"),), (Part("states"),))


def test_what_is_given_counts() -> None:
    columns = features("top wrist", "action a b states")
    usual = {"action": "action", "state": "states"}
    found = choose(columns, usual, camera=["wrist"], action=["b", "a[1:3]"], proprio=["a[:2]", "b[3:]"], state=["none"])
    assert found.cameras == {"wrist": "wrist"}
    assert found.action == (Part("b"), Part("a", 1, 3))
    assert found.proprio == (Part("a", 0, 2), Part("b", 3))
    assert [str(part) for part in found.proprio] == ["a[0:2]", "b[3:]"]
    assert found.state == ()
    assert found.observed == ("wrist", "a", "b")


def test_cameras_are_called_after_their_columns() -> None:
    columns = features("observation.images.top obs/wrist/rgb obs/front/rgb", "action")
    usual = {"action": "action"}
    found = choose(columns, usual, camera=["obs/wrist/rgb", "observation.images.top"])
    assert list(found.cameras.items()) == [("rgb", "obs/wrist/rgb"), ("top", "observation.images.top")]
    assert found.observed == ("obs/wrist/rgb", "observation.images.top")
    found = choose(columns, usual, camera=["obs/wrist/rgb", "obs/front/rgb"])
    assert list(found.cameras) == ["obs_wrist_rgb", "obs_front_rgb"]
    found = choose(columns, usual, camera=["front=obs/front/rgb", "obs/wrist/rgb"])
    assert found.cameras == {"front": "obs/front/rgb", "rgb": "obs/wrist/rgb"}
    for given, message in (
        (["obs/front/rgb"] * 2, "--camera names a column twice"),
        (["a=obs/front/rgb", "a=obs/wrist/rgb"], "--camera gives a name twice"),
        (["front=obs/frond/rgb"], r"--camera 'obs/frond/rgb': .*did you mean obs/front/rgb"),
    ):
        with pytest.raises(UserError, match=message):
            choose(columns, usual, camera=given)


def test_rewards_are_no_proprioception() -> None:
    columns, usual = features("top", "action joints next.reward other"), {"action": "action", "reward": "next.reward"}
    assert choose(columns, usual, proprio=["joints"]).reward == (Part("next.reward"),)
    with pytest.raises(UserError, match="several columns can be --proprio: joints, other, none"):
        choose(columns, usual)
    assert choose(columns, usual, proprio=["joints"], reward=["none"]).reward == ()
    assert choose(columns, usual, reward=["other"], proprio=["joints"]).reward == (Part("other"),)


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
        (features("top", "action a"), {"camera": ["tap"]}, r"--camera 'tap': choose from top \(did you mean top\?\)"),
        (features("top", "action a"), {"camera": ["a"]}, "--camera 'a': choose from top"),
        (features("top", "action a"), {"proprio": ["top"]}, "--proprio 'top': choose from action, a, none"),
        (features("top", "action a"), {"action": ["none"]}, "--action 'none': choose from action, a"),
        (features("top", "action a"), {"camera": ["top[0:1]"]}, "pictures are taken whole"),
    ],
)
def test_doubt_is_told_with_all_candidates(columns: dict[str, Feature], given: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        choose(columns, {"action": "action"}, **given)

from __future__ import annotations

import dataclasses
import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from worldmodel.core.errors import UserError
from worldmodel.core.spec import ActionSpec, CameraSpec, EnvironmentSpec, one_camera

# A gripper on an arm that is told where its joints should be.
ARM = ActionSpec(
    low=(-1.0, -2.0, 0.0),
    high=(1.0, 2.0, 1.0),
    units=("rad", "rad", ""),
    names=("shoulder", "elbow", "grip"),
    rest=("hold", "hold", "hold"),
    kinds=("continuous", "continuous", "binary"),
    max_rate=(3.0, None, None),
    hold_from=(0, 1, None),
)
SPEC = EnvironmentSpec(
    env="arm",
    cameras=(CameraSpec("front", 48, 64), CameraSpec("wrist", 32, 32)),
    control_step_s=0.05,
    action=ARM,
    proprio_size=2,
    state_size=0,
    simulator="none",
    options={"light": 3},
)
BEFORE_CAMERAS_HAD_NAMES = {
    "env": "push",
    "image_size": 64,
    "control_step_s": 0.1,
    "action_low": [-0.4, -0.4],
    "action_high": [0.4, 0.4],
    "action_units": ["m/s", "m/s"],
    "proprio_size": 2,
    "state_size": 12,
    "simulator": "mujoco 3.11.0",
    "options": {},
}


def test_there_and_back_through_json() -> None:
    assert EnvironmentSpec.from_dict(json.loads(json.dumps(SPEC.to_dict()))) == SPEC


def test_a_description_from_before_cameras_had_names() -> None:
    spec = EnvironmentSpec.from_dict(BEFORE_CAMERAS_HAD_NAMES)
    assert spec.cameras == one_camera(64) and spec.only_camera.shape == (64, 64, 3)
    assert (spec.action.low, spec.action.units) == ((-0.4, -0.4), ("m/s", "m/s"))
    assert (spec.action.rest, spec.action.kinds) == (("zero", "zero"), ("continuous", "continuous"))
    assert EnvironmentSpec.from_dict(spec.to_dict()) == spec


def test_what_is_not_given_has_a_meaning() -> None:
    spec = ActionSpec((0.0,), (1.0,), ("m",))
    assert (spec.names, spec.rest, spec.kinds) == (("action_0",), ("zero",), ("continuous",))
    assert (spec.max_rate, spec.hold_from, spec.size) == ((None,), (None,), 1)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"low": (0.0, "x", 0.0)}, "low of the action is"),
        ({"high": (1.0,)}, "have 3, 1 and 3 dimensions"),
        ({"low": (2.0, -2.0, 0.0)}, "expected the smaller one first"),
        ({"high": (1e39, 2.0, 1.0)}, "finite in single precision"),
        ({"rest": ("sleep", "hold", "hold")}, "rest of action shoulder is 'sleep': expected zero, hold or a number"),
        ({"rest": (7.0, "hold", "hold")}, r"rest of action shoulder is 7.0: .*from -1.0 to 1.0"),
        ({"rest": (True, "hold", "hold")}, "rest of action shoulder is True"),
        ({"rest": ("hold",)}, "rest of the action is .* one for each of 3"),
        ({"kinds": ("continuous", "ternary", "binary")}, "kind of action elbow is 'ternary': choose from binary"),
        ({"max_rate": (0.0, None, None)}, "max_rate of action shoulder is 0.0: expected a number above 0"),
        ({"max_rate": (float("inf"), None, None)}, "max_rate of action shoulder is inf"),
        ({"hold_from": (-1, None, None)}, "hold_from of action shoulder is -1"),
        ({"names": ("a", 3, "c")}, r"names\[1\] of the action is 3"),
    ],
)
def test_an_action_that_makes_no_sense_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        dataclasses.replace(ARM, **changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"cameras": ()}, "cameras are none: expected 1 to 16"),
        ({"cameras": one_camera(8) * 2}, "cameras are camera, camera: .* each name once"),
        ({"proprio_size": 1}, "hold_from of action elbow is 1: there are 1 readings"),
        ({"control_step_s": 0}, "control_step_s is 0"),
        ({"options": []}, r"options is \[\]"),
    ],
)
def test_an_environment_that_makes_no_sense_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        dataclasses.replace(SPEC, **changes)


@pytest.mark.parametrize("name", ["", "../up", "a/b", "a b", ".", "x" * 65, "é", 3])
def test_a_camera_bears_a_name_that_can_be_a_file(name: Any) -> None:
    with pytest.raises(UserError, match="camera name is"):
        CameraSpec(name, 8, 8)


def test_what_works_with_one_camera_says_so() -> None:
    with pytest.raises(UserError, match="arm has the cameras front, wrist: this works with a single one"):
        _ = SPEC.only_camera
    assert SPEC.camera("wrist").height == 32


@given(st.floats(-1e30, 1e30), st.floats(0, 1e30))
def test_single_precision_bounds_lie_within(low: float, width: float) -> None:
    """0.2 in single precision is above 0.2: a robot's driver that compares in double precision would refuse it."""
    action = ActionSpec((low,), (low + width,), ("",))
    smallest, largest = action.bounds
    assert smallest.dtype == largest.dtype == np.float32
    if width > abs(low) * 1e-6 and width > 1e-30:
        assert low <= float(smallest[0]) <= float(largest[0]) <= low + width
    assert float(ActionSpec((-0.2,), (0.2,), ("",)).bounds[1][0]) <= 0.2

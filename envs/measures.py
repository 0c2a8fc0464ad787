"""Quantities of a simulation that a configuration names: `body:object`, `site:grip`, `joint:elbow`, `state:2,3`.

Shapes: `N` simulator state, `K` numbers of one quantity, `...` any leading dimensions.
"""

from __future__ import annotations

import abc
import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import mujoco
import numpy as np

from envs.joints import Joint, scalar_joints
from envs.task import Criterion, Metric
from envs.view import Marker
from envs.world import Floats
from worldmodel.core.errors import UserError, choices_message
from worldmodel.core.options import from_config

_LENGTHS = {"m": 1.0, "cm": 100.0, "mm": 1000.0}  # per metre
_ANGLES = {"rad": 1.0, "deg": 180 / np.pi}  # per radian


class Measure(abc.ABC):
    """One quantity, computed from stored states.

    Attributes:
        units: units of errors, each with its number per own unit of the quantity. Empty if any unit is accepted.
    """

    units: Mapping[str, float]

    @abc.abstractmethod
    def values(self, states: Floats) -> Floats:
        """The quantity `[..., K]` in `states [..., N]`."""

    @abc.abstractmethod
    def error(self, values: Floats, goals: Floats) -> Floats:
        """Distance `[...]` between values and goals `[..., K]`, in the quantity's own unit."""


@dataclasses.dataclass(frozen=True)
class StateNumbers(Measure):
    """Numbers of the state itself. Several numbers are a position."""

    indices: tuple[int, ...]
    units: Mapping[str, float] = dataclasses.field(default_factory=dict)

    def values(self, states: Floats) -> Floats:
        return np.asarray(states)[..., list(self.indices)]

    def error(self, values: Floats, goals: Floats) -> Floats:
        return np.linalg.norm(values - goals, axis=-1)


@dataclasses.dataclass(frozen=True)
class StateAngle(StateNumbers):
    """One number of the state that is an angle [rad]. A full turn changes nothing."""

    units: Mapping[str, float] = dataclasses.field(default_factory=lambda: _ANGLES)

    def error(self, values: Floats, goals: Floats) -> Floats:
        return np.abs((values - goals + np.pi) % (2 * np.pi) - np.pi)[..., 0]


@dataclasses.dataclass(frozen=True)
class JointPosition(Measure):
    """Position of a hinge [rad] or a slide [m]. The error of a periodic hinge is the shorter way round."""

    joint: Joint

    @property
    def units(self) -> Mapping[str, float]:  # type: ignore[override]
        return _ANGLES if self.joint.is_hinge else _LENGTHS

    def values(self, states: Floats) -> Floats:
        return np.asarray(states)[..., [self.joint.position]]

    def error(self, values: Floats, goals: Floats) -> Floats:
        return self.joint.error(values, goals)[..., 0]


class PointPosition(Measure):
    """Position of a body, site or geom [m], in the world's frame. States begin with `qpos`."""

    units = _LENGTHS

    def __init__(self, model: mujoco.MjModel, name: str) -> None:
        self._model, self._data, self._marker = model, mujoco.MjData(model), Marker(model, name)

    def values(self, states: Floats) -> Floats:
        return _each(self._read, np.asarray(states), 3)

    def _read(self, state: Floats) -> Floats:
        self._data.qpos[:] = state[: self._model.nq]
        mujoco.mj_kinematics(self._model, self._data)
        return self._marker.position(self._data)

    def error(self, values: Floats, goals: Floats) -> Floats:
        return np.linalg.norm(values - goals, axis=-1)


class BodyOrientation(Measure):
    """Orientation of a body, as a unit quaternion. The error is the angle [rad] of the rotation between two of them."""

    units = _ANGLES

    def __init__(self, model: mujoco.MjModel, name: str) -> None:
        names = {model.body(number).name: number for number in range(1, model.nbody)}
        if name not in names:
            raise UserError(choices_message("body", name, names))
        self._model, self._data, self._body = model, mujoco.MjData(model), names[name]

    def values(self, states: Floats) -> Floats:
        return _each(self._read, np.asarray(states), 4)

    def _read(self, state: Floats) -> Floats:
        self._data.qpos[:] = state[: self._model.nq]
        mujoco.mj_kinematics(self._model, self._data)
        return self._data.xquat[self._body].copy()

    def error(self, values: Floats, goals: Floats) -> Floats:
        # Computed from the chord, because arccos of the product loses half of the digits for close orientations.
        chord = np.minimum(np.linalg.norm(values - goals, axis=-1), np.linalg.norm(values + goals, axis=-1))
        return 4 * np.arcsin(np.clip(chord / 2, 0, 1))


def _each(read: Callable[[Floats], Floats], states: Floats, size: int) -> Floats:
    """`read` applied to every finite state, `[..., size]`. Other states give NaN."""
    flat = states.reshape(-1, states.shape[-1])
    found = np.full((len(flat), size), np.nan)
    for row, state in zip(found, flat, strict=True):
        if np.isfinite(state).all():
            row[:] = read(state)
    return found.reshape(*states.shape[:-1], size)


def find_measure(text: str, model: mujoco.MjModel | None) -> Measure:
    """The quantity that `text` names.

    Args:
        text: `body:`, `site:` or `geom:NAME` (position), `angle:BODY` (orientation), `joint:NAME`, `state:INDEX,...`,
            or `state_angle:INDEX`.
        model: the MuJoCo model, None for another simulator. Then only quantities of the state exist.

    Raises:
        UserError: for another text, and for a name that the model does not have.
    """
    kind, _, name = text.partition(":")
    if kind in ("state", "state_angle"):
        if not all(part.isdecimal() and len(part) < 6 for part in name.split(",")):
            raise UserError(f"'{text}' names no numbers of the state: expected for example {kind}:2")
        indices = tuple(int(part) for part in name.split(","))
        return StateNumbers(indices) if kind == "state" else StateAngle(indices[:1])
    makers: dict[str, Callable[[], Measure]] = {}
    if model is not None:
        joints = {joint.name: joint for joint in scalar_joints(model)}
        if kind == "joint" and name not in joints:
            raise UserError(choices_message("joint", name, joints))
        makers = {
            **dict.fromkeys(("body", "site", "geom"), functools.partial(PointPosition, model, name)),
            "angle": functools.partial(BodyOrientation, model, name),
            "joint": lambda: JointPosition(joints[name]),
        }
    if kind not in makers:
        raise UserError(choices_message("kind of quantity", text, [f"{k}:" for k in (*makers, "state", "state_angle")]))
    return makers[kind]()


@dataclasses.dataclass(frozen=True)
class CriterionConfig:
    """One criterion of success.

    Attributes:
        of: the quantity, as `find_measure` reads it.
        unit: unit of `tolerance` and `min_change`. It is m, cm or mm for a position, rad or deg for an angle, and any
            text for numbers of the state.
        tolerance: largest error that counts as success.
        min_change: distance from start to goal that makes a goal interesting.
        name: name in reports, made from the quantity if empty.
    """

    of: str
    unit: str
    tolerance: float
    min_change: float
    name: str = ""

    def __post_init__(self) -> None:
        for key in ("tolerance", "min_change"):
            if not getattr(self, key) > 0:
                raise UserError(f"{key} of {self.of} is {getattr(self, key)}: expected a number above 0")


def _short(of: str) -> str:
    """Short name of a quantity: `body:block` becomes `block`. Numbers of a state keep their text."""
    kind, _, name = of.partition(":")
    return of if kind.startswith("state") else name


def make_criterion(values: Mapping[str, Any], model: mujoco.MjModel | None) -> Criterion:
    """A criterion from plain values. Raises UserError for values that cannot be used."""
    config = from_config(CriterionConfig, values, "success")
    measure = find_measure(config.of, model)
    if measure.units and config.unit not in measure.units:
        raise UserError(choices_message(f"unit of {config.of}", config.unit, measure.units))
    scale = measure.units.get(config.unit, 1.0)
    return Criterion(
        Metric(config.name or _short(config.of), config.unit, config.tolerance),
        lambda states, goal: scale * measure.error(measure.values(states), measure.values(goal)),
        config.min_change,
    )

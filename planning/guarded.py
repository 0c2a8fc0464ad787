"""A controller of one robot behind a gate: whatever goes wrong, there is a command, and it is rest.

Shapes: `A` action dimensions, `P` proprioceptive readings.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from planning.alarms import OnAlarm
from planning.controller import Controller
from planning.decision import Decision
from planning.faults import FaultKind
from planning.gate import Gate
from planning.inputs import first_command
from worldmodel.core.errors import UserError
from worldmodel.core.observation import Observation
from worldmodel.core.spec import EnvironmentSpec

# Observation `[1, ...]` and the command `[1, A]` that the user says is in force, or None.
Read = tuple[Observation, NDArray[np.float32] | None]


def act_guarded(
    gate: Gate,
    controller: Controller,
    spec: EnvironmentSpec,
    read: Callable[[], Read],
    stamp: Any = None,
    on_alarm: str = OnAlarm.STOP,
) -> tuple[Decision, Read | None, bool]:
    """The decision of a control step as it passes the gate, what was read, and whether the decision was late.

    A frame that has a fault never reaches the model. The model's history then has a gap, so it begins anew.

    Args:
        gate: the robot's.
        controller: of this one robot.
        spec: specification of the robot.
        read: reads the observation. What it raises is a fault.
        stamp: when the images were taken [s of `time.monotonic`], or None.
        on_alarm: what an alarm of the controller's monitor does. With `stop`, it is a fault.

    Raises:
        UserError: if nobody knows what to hold.
    """
    started, begun = time.perf_counter(), gate.begin()
    seen: Read | None = None
    try:
        seen = read()
    except Exception as error:  # a driver's own kind of array can raise anything
        gate.report(FaultKind.OBSERVATION, _described(error))
    else:
        gate.check_observation({name: image[0] for name, image in seen[0].images.items()}, stamp, begun)
    last = _in_force(gate, spec, seen)
    made, late = None, False
    if seen is not None and gate.fault is None:
        is_known = seen[1] is None and controller.has_begun(0)
        try:
            made = controller.act(seen[0], None if is_known else last[None], gate.search_deadline(begun))
        except Exception as error:  # a model may be anybody's
            gate.report(FaultKind.MODEL, f"{type(error).__name__}: {_described(error)}")
        else:
            _report_alarm(gate, made, on_alarm)
        late = gate.check_time(begun)
        if made is not None and made.replaced[0]:
            gate.report(FaultKind.NO_PLAN, "the model gave no plan with finite numbers")
    command = gate.pass_action(None if made is None else made.actions[0], last)
    if made is None:
        blind = Decision.blind(command[None])
        made = dataclasses.replace(blind, sub_goal=np.array([controller.sub_goal(0)]))
        controller.look_anew(0)
    else:
        controller.was_given(0, command)
    is_rest = np.array([gate.fault is not None])
    passed = dataclasses.replace(
        made, actions=command[None], replaced=is_rest, plan_ms=(time.perf_counter() - started) * 1e3
    )
    return passed, seen, late


def _report_alarm(gate: Gate, made: Decision, on_alarm: str) -> None:
    alarm = made.alarm[0] if made.alarm else None
    if alarm is not None and on_alarm == OnAlarm.STOP:
        gate.report(FaultKind.ALARM, str(alarm))


def _in_force(gate: Gate, spec: EnvironmentSpec, seen: Read | None) -> NDArray[np.float32]:
    """The command `[A]` in force: as the user says, or as it was passed last, or as the readings show."""
    if seen is not None and seen[1] is not None:
        return seen[1][0]
    if gate.last is not None:
        return gate.last
    shown = Observation({}, np.full((1, spec.proprio_size), np.nan, np.float32)) if seen is None else seen[0]
    (known,) = first_command(None, shown, spec.action, [True])
    assert known is not None, "it is the first command"
    if not np.isfinite(known).all():
        why = gate.fault.detail if gate.fault else "no reading shows it"
        raise UserError(f"nobody knows what the robot holds: give the command in force, command=[...] ({why})")
    return known


def _described(error: Exception) -> str:
    try:
        return str(error)
    except Exception:  # what raises anything may raise that, too
        return "no description"

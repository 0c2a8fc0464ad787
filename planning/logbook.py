"""What one robot saw and was told to do, control step by control step, for the recording and the flight recorder."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any, Final

import numpy as np

from planning.actions.safety import LimitCheck
from planning.decision import Decision
from planning.faults import Fault, FaultKind
from planning.flight import FlightConfig, FlightRecorder, FlightStep, latent_arrays
from planning.guarded import Read
from planning.recording import Lived, LiveRecording
from worldmodel.core.errors import UserError
from worldmodel.core.spec import EnvironmentSpec

# With these faults, what was seen is not what was there at that time.
_BLIND: Final = frozenset({FaultKind.CLOCK, FaultKind.FROZEN, FaultKind.OBSERVATION, FaultKind.STALE})


class Logbook:
    """Passes every control step on to a recording and to a flight recorder, where there are any.

    Args:
        spec: specification of the robot.
        record: the trajectory store of the recording, or None.
        flight: options of the flight recorder, or None.

    Raises:
        UserError: for a place that cannot be written to, or that holds something else.
        WritingStopped: when nothing can be written there.
    """

    def __init__(self, spec: EnvironmentSpec, record: str | Path | None, flight: FlightConfig | None) -> None:
        self._spec, self._check = spec, LimitCheck.of(spec.action, spec.control_step_s)
        self._step, self._was_stopped = 0, False
        self._is_new = False  # whether there was a fault since the flight recorder was written
        with contextlib.ExitStack() as opened:
            self._recording = None if record is None else LiveRecording(record, spec)
            if self._recording is not None:
                opened.callback(self._recording.close)
            self._flight = None if flight is None else FlightRecorder(flight, spec)
            if self._flight is not None:
                opened.callback(self._flight.close)
            self._opened = opened.pop_all()

    def keep(
        self,
        read: Read | None,
        decision: Decision,
        fault: Fault | None = None,
        stopped: bool = False,
        repeats: int = 0,
    ) -> None:
        """One control step.

        Args:
            read: what was seen and the command that the user says was in force; None if it could not be read.
            decision: of this one robot, as it was returned.
            fault: what went wrong, or None.
            stopped: whether the robot is stopped.
            repeats: how many of the latest frames in a row only repeat the one before.
        """
        if self._recording is not None:
            self._record(self._recording, read, decision, fault, stopped, repeats)
        if self._flight is not None:
            self._flight.add(self._flight_step(read, decision, fault))
            self._is_new |= fault is not None and not stopped
            if stopped and not self._was_stopped:
                self._flight.dump()
                self._is_new = False
        self._was_stopped = stopped
        self._step += 1

    def end_episode(self) -> None:
        """End the recorded episode."""
        if self._recording is not None:
            self._recording.end()

    def dump(self) -> Path | None:
        """Write the flight recorder, and wait for it. Raises UserError without one, and WritingStopped."""
        if self._flight is None:
            raise UserError("there is no flight recorder: expected RobotController(flight=...)")
        path = self._flight.dump()
        self._is_new = False
        self._flight.wait()
        return path

    def close(self, after_error: bool = False) -> None:
        """End the episode, and write the flight recorder if there was a fault since it was written last, or an error.

        What is kept after that goes nowhere.

        Raises:
            WritingStopped: when something cannot be written.
        """
        if self._flight is not None and (self._is_new or after_error):
            self._flight.dump()
        self._recording = self._flight = None
        self._opened.close()

    def _record(
        self,
        recording: LiveRecording,
        read: Read | None,
        decision: Decision,
        fault: Fault | None,
        stopped: bool,
        repeats: int,
    ) -> None:
        is_blind = fault is not None and fault.kind in _BLIND
        if read is None or stopped or is_blind:
            # The frames of a frozen camera are no data, and were recorded before anybody knew.
            recording.end(without=max(repeats - 1, 0) if fault and fault.kind == FaultKind.FROZEN else 0)
            return
        if read[1] is not None:
            given = read[1][0]
            if self._check.broken(given, given).any():  # the recording's specification knows no such action
                recording.end()
            else:
                recording.was_given(given)
        recording.add(_lived(self._spec, read, decision))

    def _flight_step(self, read: Read | None, decision: Decision, fault: Fault | None) -> FlightStep:
        plan = decision.plans[0] if decision.plans else None
        readings = {
            "distance": float(decision.distance[0]),
            "predicted_cost": float(decision.predicted_cost[0]),
            "plan_ms": decision.plan_ms,
        }
        return FlightStep(
            step=self._step,
            lived=_lived(self._spec, read, decision),
            seen=read is not None,
            latent=latent_arrays(decision.latents[0]) if decision.latents else {},
            plan=None if plan is None else plan.actions[0].cpu().numpy().copy(),
            readings=readings,
            fault=fault,
        )


def _lived(spec: EnvironmentSpec, read: Read | None, decision: Decision) -> Lived:
    """What was seen, black where it could not be read, and the command."""
    action = decision.actions[0]
    if read is None:
        black: dict[str, Any] = {camera.name: np.zeros(camera.shape, np.uint8) for camera in spec.cameras}
        return Lived(black, np.zeros(spec.proprio_size, np.float32), action)
    images = {name: image[0] for name, image in read[0].images.items()}
    return Lived(images, read[0].proprio[0], action)

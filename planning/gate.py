"""The gate between a controller and the motors of one robot. It checks what comes in and what goes out.

    gate = Gate(spec, GateConfig(deadline_s=0.08, frozen_after=5, most_age_s=0.2))
    begun = gate.begin()                                     # once per control step
    gate.check_observation(images, stamp, begun)
    gate.check_time(begun)                                   # after planning
    command = gate.pass_action(action, last)                 # action, or rest

A fault is something that must not happen. The command of a control step with a fault is rest. A fault of a kind in
`GateConfig.stop_on` stops the robot: every further command is rest, until a person calls `resume`.

Nothing here raises an exception for clocks, frames or actions of any kind. Shapes: `A` action dimensions, `H, W` height
and width of a camera's images. Times are seconds of `time.monotonic`.
"""

from __future__ import annotations

import dataclasses
import logging
import math
import time
from collections.abc import Callable, Mapping
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray

from planning.actions.limits import ActionLimits
from planning.actions.safety import LimitCheck
from planning.faults import Fault, FaultKind
from worldmodel.core.errors import UserError
from worldmodel.core.spec import EnvironmentSpec

_LOG = logging.getLogger(__name__)
# Drivers round their time stamps, at most to milliseconds: a stamp may lie so much ahead [s].
_ROUNDING_S: Final = 1e-3
# The share of the deadline that the search may use. What comes after the search takes about a millisecond.
_SEARCH_SHARE: Final = 0.9


# A late or missing plan is one step of rest. The others say that the robot's picture of the world is wrong.
STOPS_BY_DEFAULT: Final = frozenset(FaultKind) - {FaultKind.LATE, FaultKind.NO_PLAN}


@dataclasses.dataclass(frozen=True)
class GateConfig:
    """Options of `Gate`.

    Attributes:
        deadline_s: longest time from the beginning of `act` to its command [s]. None for no deadline.
        frozen_after: number of identical frames in a row, of any one camera, that count as a frozen camera. None for
            no such check. The frames of a real camera differ by their noise, also when nothing moves. Those of a
            simulator do not.
        most_age_s: largest age of an observation when `act` begins, by its time stamp [s]. Every observation then needs
            a time stamp. None for no such check. The order of given time stamps is always checked.
        stop_on: kinds of faults that stop the robot until `resume`.
    """

    deadline_s: float | None = None
    frozen_after: int | None = None
    most_age_s: float | None = None
    stop_on: frozenset[FaultKind] = STOPS_BY_DEFAULT

    def __post_init__(self) -> None:
        for name in ("deadline_s", "most_age_s"):
            value = getattr(self, name)
            if value is not None and not (_is_number(value) and value > 0):
                raise UserError(f"{name} of the gate is {value!r}: expected seconds, above 0, or None")
        after = self.frozen_after
        if after is not None and (isinstance(after, bool) or not isinstance(after, int) or after < 2):
            raise UserError(f"frozen_after of the gate is {after!r}: expected a whole number from 2 up, or None")
        try:
            object.__setattr__(self, "stop_on", frozenset(FaultKind(kind) for kind in self.stop_on))
        except (TypeError, ValueError):
            kinds = ", ".join(sorted(FaultKind))
            raise UserError(f"stop_on of the gate is {self.stop_on!r}: expected a set of {kinds}") from None


class Gate:
    """The watchdog, the limits and the latched stop of one robot.

    Args:
        spec: specification of the robot.
        config: what is checked.
        clock: the time now [s].
    """

    def __init__(self, spec: EnvironmentSpec, config: GateConfig, clock: Callable[[], float] = time.monotonic) -> None:
        self.config, self._clock = config, clock
        self._names = spec.action.names
        self._limits = ActionLimits.of(spec.action, spec.control_step_s)
        self._check = LimitCheck.of(spec.action, spec.control_step_s)
        self._step = -1
        self._stopped: Fault | None = None
        self._fault: Fault | None = None
        # Per kind, the step since which it has happened, and the last one in which it did.
        self._spans: dict[FaultKind, tuple[int, int]] = {}
        self._last: NDArray[np.float32] | None = None
        self._forget()

    def _forget(self) -> None:
        self._frames: dict[str, NDArray[Any]] = {}
        self._alike: dict[str, int] = {}
        self._stamp: float | None = None
        self._begun: float | None = None

    @property
    def stopped(self) -> Fault | None:
        """The fault that stopped the robot, until `resume`; None while it may move."""
        return self._stopped

    @property
    def fault(self) -> Fault | None:
        """What stopped the robot, or else the first fault of the present control step, or None."""
        return self._stopped or self._fault

    @property
    def last(self) -> NDArray[np.float32] | None:
        """The command `[A]` that was passed last; None before the first."""
        return None if self._last is None else self._last.copy()

    @property
    def repeats(self) -> int:
        """How many of the latest frames in a row only repeat the one before, of the camera with the most."""
        return max(self._alike.values(), default=1) - 1

    def resume(self) -> None:
        """Let the robot move again. What was seen before, and when, is forgotten."""
        self._stopped = self._fault = None
        self._spans.clear()
        self._forget()

    def begin(self) -> float:
        """Begin a control step. The time now is returned, NaN from a clock that fails."""
        self._step += 1
        self._fault = None
        now = self._now()
        if not math.isfinite(now) or (self._begun is not None and now < self._begun):
            self.report(FaultKind.CLOCK, f"the clock shows {now} after {self._begun}")
        else:
            self._begun = now
        return now

    def search_deadline(self, begun: float) -> float | None:
        """When the search of a control step that began at `begun` has to end; None without a deadline."""
        return None if self.config.deadline_s is None else begun + _SEARCH_SHARE * self.config.deadline_s

    def report(self, kind: FaultKind, detail: str) -> Fault:
        """A fault happened in the present control step."""
        since, latest = self._spans.get(kind, (self._step, self._step))
        since = since if self._step - latest <= 1 else self._step
        self._spans[kind] = since, self._step
        fault = Fault(kind, since, detail)
        self._fault = self._fault or fault
        if self._stopped is None and kind in self.config.stop_on:
            self._stopped = fault
            _LOG.warning("stopped until resume(): %s (%s, control step %d)", detail, kind, self._step)
        return fault

    def check_observation(self, images: Mapping[str, Any], stamp: Any = None, now: float | None = None) -> Fault | None:
        """The fault of an observation, or None.

        Args:
            images: by camera, `[H, W, 3]`. They are copied.
            stamp: when they were taken [s], if somebody knows.
            now: the time now [s].
        """
        found = self._check_stamp(stamp, self._now() if now is None else now)
        if self.config.frozen_after is not None:
            try:
                self._compare(images)
            except Exception as error:  # an array of a stranger's kind can raise anything
                return found or self.report(FaultKind.OBSERVATION, f"images cannot be compared: {error!r}")
            frozen = [name for name, alike in self._alike.items() if alike >= self.config.frozen_after]
            if frozen:
                detail = f"camera {frozen[0]} has shown the same frame {self._alike[frozen[0]]} times in a row"
                return found or self.report(FaultKind.FROZEN, detail)
        return found

    def check_time(self, begun: float) -> bool:
        """Whether it is too late for the decision of a control step that began at `begun`."""
        deadline = self.config.deadline_s
        if deadline is None:
            return False
        taken = self._now() - begun
        if 0 <= taken <= deadline:
            return False
        if taken > deadline:
            self.report(FaultKind.LATE, f"the decision took {taken * 1e3:.0f} ms, of {deadline * 1e3:.0f} ms allowed")
        else:
            self.report(FaultKind.CLOCK, f"the clock says that the decision took {taken} s")
        return True

    def pass_action(self, action: NDArray[np.float32] | None, last: NDArray[np.float32]) -> NDArray[np.float32]:
        """The command `[A]`, float32: `action`, or rest if there is none or any fault in this control step.

        Args:
            action: what the controller decided, or None.
            last: the command in force.

        Raises:
            UserError: if `last` is not finite and no command was passed before: nobody knows what to hold.
        """
        last = np.asarray(last, np.float32)
        if not np.isfinite(last).all():
            if self._last is None:
                raise UserError(f"the last command is {last.tolist()}: expected finite numbers [{len(last)}]")
            last = self._last
        wanted = np.full_like(last, np.nan)
        if action is not None and self.fault is None:
            wanted = self._read(action, wanted)
        commands, broken = self.pass_actions(wanted[None], last[None])
        if broken.any() and action is not None and self.fault is None:
            at = int(broken[0].argmax())
            detail = f"action {self._names[at]} is {wanted[at]} after {last[at]}, which breaks its limits"
            self.report(FaultKind.ACTION, detail)
        self._last = commands[0]
        return commands[0].copy()

    def pass_actions(
        self, actions: NDArray[np.float32], last: NDArray[np.float32]
    ) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """Commands `[B, A]`, and which numbers `[B, A]` of `actions [B, A]` break the limits after `last [B, A]`.

        Where any does, the row is rest, and no less within the limits.
        """
        broken = self._check.broken(actions, last)
        rows = broken.any(-1)
        if not rows.any():
            return actions.copy(), broken
        before = torch.from_numpy(last[rows])
        rest = self._limits.project(self._limits.rest(before)[:, None], before)[:, 0]
        commands = actions.copy()
        commands[rows] = rest.numpy()
        return commands, broken

    def _check_stamp(self, stamp: Any, now: float) -> Fault | None:
        if stamp is None:
            if self.config.most_age_s is None:
                return None
            return self.report(FaultKind.CLOCK, "an observation has no time stamp, which most_age_s needs")
        if not _is_number(stamp):
            return self.report(FaultKind.CLOCK, f"a time stamp is {type(stamp).__name__}: expected a finite number")
        before, stamp = self._stamp, float(stamp)
        if before is not None and stamp <= before:
            return self.report(FaultKind.CLOCK, f"time stamp {stamp} follows {before}: expected a later one")
        age = now - stamp
        if not age >= -_ROUNDING_S:
            return self.report(FaultKind.CLOCK, f"time stamp {stamp} is later than the present, {now}")
        self._stamp = stamp
        if self.config.most_age_s is not None and age > self.config.most_age_s:
            return self.report(
                FaultKind.STALE, f"the observation is {age:.3f} s old, of {self.config.most_age_s} s allowed"
            )
        return None

    def _read(self, action: Any, otherwise: NDArray[np.float32]) -> NDArray[np.float32]:
        """`action` as numbers of the shape of `otherwise`, which is returned if it has none."""
        try:
            with np.errstate(over="ignore"):
                wanted = np.array(action, np.float32)
        except Exception as error:  # as above
            self.report(FaultKind.ACTION, f"the action cannot be read: {error!r}")
            return otherwise
        if wanted.shape == otherwise.shape:
            return wanted
        self.report(FaultKind.ACTION, f"the action has shape {list(wanted.shape)}: expected {list(otherwise.shape)}")
        return otherwise

    def _compare(self, images: Mapping[str, Any]) -> None:
        frames = {name: np.array(image) for name, image in images.items()}

        def is_repeated(name: str) -> bool:
            return name in self._frames and np.array_equal(self._frames[name], frames[name])

        self._alike = {name: self._alike[name] + 1 if is_repeated(name) else 1 for name in frames}
        self._frames = frames

    def _now(self) -> float:
        try:
            return float(self._clock())
        except Exception:  # a clock that fails shows no time
            return math.nan


def _is_number(value: Any) -> bool:
    """Whether it is a finite real number."""
    if isinstance(value, bool | np.bool_) or not isinstance(value, int | float | np.integer | np.floating):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:  # a whole number that no float can hold
        return False

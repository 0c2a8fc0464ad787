"""Control of a real robot, or of any system outside `envs`. It takes observations and returns actions.

    controller = RobotController("runs/arm/model", goal="goal.jpg")
    while True:
        pixels, proprio = robot.observe()
        decision = controller.act(pixels, proprio)
        if decision.reached:
            break
        robot.act(decision.action)                       # always within the limits of the recording

Call `act` once per control step, every `controller.spec.control_step_s` seconds. The model was trained at this rate.
The process needs neither the simulator's packages nor those of the command line.
"""

from __future__ import annotations

import contextlib
import dataclasses
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from planning.alarms import Alarm, OnAlarm
from planning.calibration import hash_of
from planning.controller import Controller
from planning.decision import Decision
from planning.faults import Fault
from planning.flight import FlightConfig
from planning.gate import Gate, GateConfig
from planning.goal_image import CROP, require_fit
from planning.goals import read_goals
from planning.guarded import Read, act_guarded
from planning.hierarchy import HierarchyConfig, require_alone
from planning.inputs import read_images, read_numbers
from planning.loading import (
    Checkpoint,
    chosen_planner,
    read_decoder,
    read_hierarchy,
    read_model,
    with_proposals,
)
from planning.logbook import Logbook
from planning.monitor import MonitorConfig, make_monitor
from planning.planner import GoalLike
from planning.registry import make_strategy
from planning.settings import read_settings
from planning.threads import settle_threads
from planning.verification import make_verification
from worldmodel.core.device import pick_device
from worldmodel.core.errors import UserError
from worldmodel.core.observation import Observation
from worldmodel.core.spec import EnvironmentSpec


@dataclasses.dataclass(frozen=True)
class RobotDecision:
    """What to do at one control step.

    Attributes:
        action: float32 `[A]` in `spec.action.units`, finite and within the limits of the recording.
        distance: latent distance of the current observation to the goal.
        reached: whether this distance to the last goal is at most `reached_distance`.
        sub_goal: index of the current sub-goal, from 0 on.
        replaced: whether no plan could be used. The action is then rest.
        refused: whether the reason is that the verification refused the plan (`verify`).
        plan_ms: time from the observation to the action [ms].
        details: the controller's `Decision`, with a batch of one. It has imagined latents and the trace of the search.
        fault: what the gate stopped the robot for, or found at this step; None if all is well, and without a gate. The
            action is rest if there is one.
        late: whether the decision came after the gate's deadline.
        alarm: the test of the monitor that has failed, until `toward` or `resume`; None if all is well.
    """

    action: NDArray[np.float32]
    distance: float
    reached: bool
    sub_goal: int
    replaced: bool
    refused: bool
    plan_ms: float
    details: Decision = dataclasses.field(repr=False)
    fault: Fault | None = None
    late: bool = False
    alarm: Alarm | None = None

    @classmethod
    def of(cls, decision: Decision) -> RobotDecision:
        """The only row of `decision`."""
        return cls(
            decision.actions[0],
            float(decision.distance[0]),
            bool(decision.reached[0]),
            int(decision.sub_goal[0]),
            bool(decision.replaced[0]),
            bool(decision.refused[0]),
            decision.plan_ms,
            decision,
            alarm=decision.alarm[0] if decision.alarm else None,
        )


class RobotController:
    """Plans toward a goal with a world model, and replans at every control step, for one robot and one thread.

    With `record` or `flight`, use it as `with RobotController(...) as controller:`, or call `close` at the end.

    Args:
        checkpoint: a folder that `python -m worldmodel.train` has written, or a shipped checkpoint's name.
        goal: an image (a PNG or JPEG, or uint8 `[H, W, 3]` of the camera's size), a mapping from cameras to images, or
            any `Goal` that the model reads. A list of these is a sequence of sub-goals.
        options: options of the planner, as `{"horizon": 8, "options.samples": 64}` or as strings of the command line.
        device: `auto` (a GPU where there is one), `cpu`, `cuda` or `mps`.
        precision: of imagined futures: `bf16`, `fp32`, or `auto`, which is bf16 where the device has instructions
            for it.
        reached_distance: largest latent distance at which the goal counts as reached. None for the one of the monitor's
            calibration, or else for the model's own.
        seed: seed of the planner's noise.
        goal_fit: `crop` or `letterbox`, for an image file of another aspect ratio than the camera's.
        threads: of the processor, for the whole process: `auto` (as many as plan fastest, measured here) or how many.
        gate: checks of frames, clocks, deadlines and actions, with a stop that lasts until `resume`; None for none.
        record: a trajectory store, made or added to, for what the robot sees and is told to do; None for none.
        flight: a folder for the flight recorder, or its options. It keeps the last 60 s, and writes them after a fault
            that stops the robot; None for none.
        decoder: folder that `python -m worldmodel.decode` has written for this checkpoint. Only `verify` needs it.
        verify: the action is rest unless the decoded end of a plan is nearer to the goal image than the present by this
            fraction, from 0 to below 1. None executes every plan.
        monitor: tests of surprise, disagreement, novelty and progress, calibrated on successful runs; None for none. An
            alarm can only stop a robot with a gate.
        hierarchy: folder that `python -m worldmodel.landmarks` has written for this checkpoint, for goals that are not
            reached by going straight; None for none. It excludes `verify` and `monitor`.
        sub_goals: options of the hierarchy.
        compile: whether torch.compile compiles imagined futures: `auto` (on a GPU), True or False. With `onnx`, ONNX
            Runtime computes them, on a CPU and in fp32, and the controller takes some seconds longer to make.

    Attributes:
        spec: specification of the training data: cameras, limits and units of the actions, control step [s].

    Raises:
        UserError: for a checkpoint, a goal or an option that cannot be used. With a monitor, also for a goal that is
            unlike anything seen in training.
    """

    def __init__(
        self,
        checkpoint: str | Path,
        goal: GoalLike | Sequence[GoalLike],
        options: Mapping[str, Any] | Sequence[str] = (),
        device: str = "auto",
        precision: str = "auto",
        reached_distance: float | None = None,
        seed: int = 0,
        goal_fit: str = CROP,
        threads: int | str = "auto",
        gate: GateConfig | None = None,
        record: str | Path | None = None,
        flight: str | Path | FlightConfig | None = None,
        decoder: str | Path | None = None,
        verify: float | None = None,
        monitor: MonitorConfig | None = None,
        hierarchy: str | Path | None = None,
        sub_goals: HierarchyConfig = HierarchyConfig(),  # noqa: B008 (frozen)
        compile: str | bool = "auto",
    ) -> None:
        require_fit(goal_fit)
        _require_kinds(gate, record, flight, monitor)
        require_alone(hierarchy, verify=verify, monitor=monitor)
        place, self._source = pick_device(device), Checkpoint(str(checkpoint), str(checkpoint))
        model = read_model(self._source, place, precision, compile)
        self._settings = chosen_planner(read_settings(options, model.spec.env), str(checkpoint), "")
        strategy = with_proposals(make_strategy(self._settings, seed), model)
        self._settings |= strategy.proposed
        shows, _ = read_decoder(None if decoder is None else str(decoder), model)
        verification = make_verification(verify, model, shows)
        self.spec: EnvironmentSpec = model.spec
        self._fit, self._in_use = goal_fit, threading.Lock()
        goals = read_goals(goal, self.spec, goal_fit)
        self._monitor = None if monitor is None else make_monitor(monitor, model, lambda: self.belongs_to)
        far = read_hierarchy(None if hierarchy is None else str(hierarchy), sub_goals, model)
        self._controller = Controller(
            model, strategy, [goals], place, reached_distance, None, verification, self._monitor, far
        )
        strategy.warn()
        settle_threads(threads, model, strategy, goals, place)
        self._gate = None if gate is None else Gate(self.spec, gate)
        self._logbook = Logbook(self.spec, record, FlightConfig(flight) if isinstance(flight, str | Path) else flight)

    def toward(self, goal: GoalLike | Sequence[GoalLike]) -> None:
        """Start over toward `goal`, which may be the same as before. Raises UserError for one that cannot be used.

        A robot that was stopped stays so until `resume`. A recorded episode ends here.
        """
        with self._alone():
            self._controller.reset(0, read_goals(goal, self.spec, self._fit))
            self._logbook.end_episode()

    @property
    def belongs_to(self) -> dict[str, str]:
        """Hashes of the world model and of the planner's options, which a monitor's calibration keeps."""
        return {"checkpoint": self._source.sha256, "planner": hash_of(self._settings)}

    @property
    def stopped(self) -> Fault | None:
        """The fault that stopped the robot, until `resume`; None while it may move, and without a gate."""
        return None if self._gate is None else self._gate.stopped

    def resume(self) -> None:
        """Let a stopped robot move again, toward the same goal. Otherwise do nothing.

        What was wrong has to be put right before: a camera that is still frozen stops it again.
        """
        with self._alone():
            if self._monitor is not None and self._monitor.alarm(0) is not None:
                self._monitor.begin(0)
            if self._gate is not None and self._gate.stopped is not None:
                self._gate.resume()

    def act(
        self, images: Any, proprio: ArrayLike, command: ArrayLike | None = None, stamp: float | None = None
    ) -> RobotDecision:
        """The action to execute now, for one control step.

        Args:
            images: uint8 `[H, W, 3]`, RGB, of the only camera, or a mapping from cameras to such images. They come from
                the same cameras as the recording, with the same preprocessing. They are copied.
            proprio: finite numbers `[P]`, as recorded.
            command: finite numbers `[A]`, the last command, if it differs from the action that was returned last. The
                first call needs it if an action rests at `hold` and no reading shows the last command.
            stamp: when the images were taken [s of `time.monotonic`], for a gate to check.

        Raises:
            UserError: for an argument that does not fit, and when two threads act at once. After this or any other
                exception the controller is unchanged, and the next call may succeed. With a gate, such an argument and
                an exception of the model are faults instead, and the action is rest. It still raises UserError if
                nobody knows what to hold.
        """
        with self._alone():
            return self._act(images, proprio, command, stamp)

    def _act(self, images: Any, proprio: ArrayLike, command: ArrayLike | None, stamp: float | None) -> RobotDecision:
        if self._gate is None:
            if stamp is not None:
                raise UserError("stamp is checked by a gate, and there is none: expected RobotController(gate=...)")
            read = self._read(images, proprio, command)
            decision = RobotDecision.of(self._controller.act(*read))
            self._logbook.keep(read, decision.details)
            return decision
        on_alarm = OnAlarm.GO_ON if self._monitor is None else self._monitor.on_alarm
        made, seen, late = act_guarded(
            self._gate, self._controller, self.spec, lambda: self._read(images, proprio, command), stamp, on_alarm
        )
        fault = self._gate.fault
        self._logbook.keep(seen, made, fault, self._gate.stopped is not None, self._gate.repeats)
        return dataclasses.replace(RobotDecision.of(made), fault=fault, late=late)

    def dump(self) -> Path | None:
        """Write what the flight recorder holds, and wait for it. The file of latents and plans; None for nothing.

        Raises:
            UserError: without a flight recorder.
            WritingStopped: when it cannot be written.
        """
        with self._alone():
            return self._logbook.dump()

    def close(self) -> None:
        """End the recorded episode, and write the flight recorder if there was a fault since it was last written.

        What is done after that is not recorded.

        Raises:
            WritingStopped: when something cannot be written.
        """
        self._logbook.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._logbook.close(after_error=kind is not None and issubclass(kind, Exception))

    def _read(self, images: Any, proprio: ArrayLike, command: ArrayLike | None) -> Read:
        """The observation `[1, ...]` and the command `[1, A]`, checked and copied. Raises UserError."""
        pictures = {name: image[None] for name, image in read_images(images, self.spec).items()}
        felt = read_numbers(proprio, (self.spec.proprio_size,), "proprio")[None]
        given = None if command is None else read_numbers(command, (self.spec.action.size,), "command")[None]
        return Observation(pictures, felt), given

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        if not self._in_use.acquire(blocking=False):
            raise UserError("this controller is acting in another thread: expected one thread, or one controller each")
        try:
            yield
        finally:
            self._in_use.release()


def _require_kinds(gate: Any, record: Any, flight: Any, monitor: Any) -> None:
    """Raises UserError for a `gate`, `record`, `flight` or `monitor` of another kind."""
    for name, given, kinds, expected in (
        ("gate", gate, GateConfig, "a GateConfig"),
        ("record", record, str | Path, "the folder of a trajectory store"),
        ("flight", flight, str | Path | FlightConfig, "a folder or a FlightConfig"),
        ("monitor", monitor, MonitorConfig, "a MonitorConfig"),
    ):
        if given is not None and not isinstance(given, kinds):
            raise UserError(f"{name} is {given!r}: expected {expected}, or None")
    if monitor is not None and monitor.on_alarm == OnAlarm.STOP and gate is None:
        raise UserError("on_alarm is stop, and there is no gate: expected RobotController(gate=...), slow or go_on")

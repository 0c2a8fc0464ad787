"""What a robot lives through, as episodes of a trajectory store: the place where planning and recordings meet.

Episodes are written in a thread, because a disk may take longer than a control step. What is not yet written when the
process is killed is lost. What is written is whole. Shapes: `H, W` of a camera's images, `A` action dimensions, `P`
proprioceptive readings.
"""

from __future__ import annotations

import concurrent.futures
import dataclasses
import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from worldmodel.core.spec import EnvironmentSpec
from worldmodel.data.recorder import Recorder

_LOG = logging.getLogger(__name__)
# An episode is held in memory until it ends. A longer one is continued in the next [s].
MOST_EPISODE_S: Final = 60.0


@dataclasses.dataclass(frozen=True)
class Lived:
    """One control step of a robot.

    Attributes:
        images: by camera, uint8 `[H, W, 3]`.
        proprio: float32 `[P]`.
        action: float32 `[A]`, the command that was then given.
    """

    images: Mapping[str, NDArray[np.uint8]]
    proprio: NDArray[np.float32]
    action: NDArray[np.float32]


class BackgroundWriter:
    """Adds episodes to a trajectory store, in a thread of its own.

    Args:
        path: the store's directory; made if there is none.
        spec: specification of the robot. Nobody knows the state of a simulator here, so it is left out.
        origin: which part of the software writes. A store that was recorded by another is refused.
        most_waiting: control steps that may wait for the disk. If it is further behind, it does not catch up, and
            memory is finite.

    Raises:
        UserError: for a store that another process writes, or that holds a recording of something else.
        WritingStopped: when nothing can be written there.
    """

    def __init__(self, path: str | Path, spec: EnvironmentSpec, origin: str, most_waiting: int) -> None:
        self.path, self._most_waiting = Path(path), most_waiting
        self._recorder = Recorder(path, dataclasses.replace(spec, state_size=0), {"recorded_by": origin})
        self._recorder.__enter__()
        # One thread: a recorder is for one at a time. Python waits for it when the process ends.
        self._thread = concurrent.futures.ThreadPoolExecutor(1, "recording")
        self._waiting: dict[concurrent.futures.Future[None], int] = {}  # and the control steps of each
        self._error: BaseException | None = None

    def add(
        self,
        steps: Sequence[Lived],
        last: Lived | None = None,
        then: Callable[[int], None] = lambda episode: None,
        is_patient: bool = False,
    ) -> bool:
        """Begin to write an episode. The answer is whether it will be written.

        Args:
            steps: observations and the actions taken then.
            last: its observation is the one after the last action. Without it, nobody saw what came of that action,
                and the action is left out.
            then: called in the thread with the number of the episode in the store, or -1 where there is no action.
            is_patient: whether to wait for a disk that is behind. Otherwise the episode is dropped then.
        """
        if is_patient:
            concurrent.futures.wait(self._waiting)
        self._reap()
        if self._waiting and sum(self._waiting.values()) + len(steps) > self._most_waiting:
            _LOG.warning("dropped: an episode of %d steps; the disk of %s is too slow", len(steps), self.path)
            return False
        self._waiting[self._thread.submit(self._write, list(steps), last, then)] = len(steps)
        return True

    def _write(self, steps: list[Lived], last: Lived | None, then: Callable[[int], None]) -> None:
        episode = -1
        if len(steps) + (last is not None) > 1:
            try:
                for step in steps:
                    self._recorder.step(step.images, step.proprio, step.action)
                seen = (None, None) if last is None else (last.images, last.proprio)
                episode = self._recorder.end_episode(*seen)
            finally:
                self._recorder.discard_episode()
        then(episode)

    def _reap(self) -> None:
        """Forget what is written, and keep the first error."""
        for future in [future for future in self._waiting if future.done()]:
            del self._waiting[future]
            error = future.exception()
            if error is not None:
                _LOG.warning("an episode of %s could not be written: %s", self.path, error)
                self._error = self._error or error

    def wait(self) -> None:
        """Wait until all episodes are written. Raises the first error that kept one from being written."""
        concurrent.futures.wait(self._waiting)
        self._reap()
        error, self._error = self._error, None
        if error is not None:
            raise error

    def close(self) -> None:
        """Wait as `wait` does, and give the store back. Doing it twice is safe."""
        try:
            self.wait()
        finally:
            self._thread.shutdown()
            self._recorder.__exit__(None, None, None)


class LiveRecording:
    """Collects control steps, and writes them as episodes. Arguments and exceptions as of `BackgroundWriter`."""

    def __init__(self, path: str | Path, spec: EnvironmentSpec, origin: str = "planning.robot") -> None:
        self._most = max(2, round(MOST_EPISODE_S / spec.control_step_s))
        self._log = BackgroundWriter(path, spec, origin, most_waiting=2 * self._most)
        self._steps: list[Lived] = []

    def add(self, step: Lived) -> None:
        """One control step more. It is not copied."""
        if len(self._steps) >= self._most:
            self._log.add(self._steps, step)
            self._steps.clear()
        self._steps.append(step)

    def was_given(self, command: NDArray[np.float32]) -> None:
        """`command [A]` was given instead of the action that was added last."""
        if self._steps:
            self._steps[-1] = dataclasses.replace(self._steps[-1], action=command)

    def end(self, without: int = 0, is_patient: bool = False) -> None:
        """End the episode, without its last `without` steps. The outcome of its last action is not known.

        A disk that is behind is waited for if `is_patient`; otherwise the episode is dropped then.
        """
        steps = self._steps[: max(len(self._steps) - without, 0)]
        self._steps.clear()
        if len(steps) > 1:
            self._log.add(steps, is_patient=is_patient)

    def close(self) -> None:
        """End the episode, and wait until it is written. Raises what kept it from being written."""
        try:
            self.end(is_patient=True)
        finally:
            self._log.close()

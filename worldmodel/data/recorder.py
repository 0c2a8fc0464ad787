"""Recording a live robot, step by step.

    with Recorder("runs/arm/data.zarr", spec) as recorder:
        while more_is_wanted():
            pixels, proprio = robot.start()
            for _ in range(steps):
                action = policy(pixels, proprio)
                recorder.step(pixels, proprio, action)  # what was seen, and what was done then
                pixels, proprio = robot.act(action)
            recorder.end_episode(pixels, proprio)  # what came of the last action; from here on the episode is safe

Shapes: `H` and `W` are `spec.only_camera.height`, `A` is `len(spec.action.low)`, `P` is `spec.proprio_size`, `S` is
`spec.state_size`.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from worldmodel.core.errors import UserError
from worldmodel.core.spec import EnvironmentSpec
from worldmodel.data.store.durable import uninterrupted
from worldmodel.data.store.integrity import COLUMNS
from worldmodel.data.store.metadata import RowType
from worldmodel.data.store.reader import Episode, row_types
from worldmodel.data.store.writer import EpisodeWriter

NO_SEED: Final = -1  # a robot is not reset with one

_Row = dict[str, NDArray[Any]]
_log = logging.getLogger(__name__)


class Recorder:
    """Writes the episodes of a live robot to a trajectory store, or adds to one. For a single thread.

    An episode of T actions has T + 1 observations: `step` takes an observation and the action that was then taken,
    `end_episode` the observation after the last action. The unfinished episode is held in memory (H·W·3 bytes per
    step). When `end_episode` returns, its episode is on disk and stays whole whatever happens to this process or to
    the machine. Leaving the context in the middle of an episode, also by an error or Ctrl-C, drops that episode and
    says so. While an episode is being written, Ctrl-C waits (some hundredths of a second).

    Args:
        path: the store's directory; made if there is none.
        spec: what is recorded, with the units of the actions. A store that has other facts is not added to.
        recording: how, as JSON values (for example who drove the robot); a later recorder must say the same.
    """

    def __init__(self, path: str | Path, spec: EnvironmentSpec, recording: Mapping[str, Any] | None = None) -> None:
        self._types = row_types(spec)
        self._writer = EpisodeWriter(path, spec, recording, episodes_per_commit=1)
        self._rows: list[_Row] = []
        self._is_open = False

    @property
    def num_episodes(self) -> int:
        """Episodes that are on disk, whole."""
        return self._writer.num_episodes

    @property
    def num_steps(self) -> int:
        """Steps of the unfinished episode."""
        return len(self._rows)

    def __enter__(self) -> Self:
        """Open the store.

        Raises:
            UserError: when another process is writing it (with its process id and host), or it was recorded
                differently.
            StoreError: when what is at the path is damaged, or is no store.
            WritingStopped: when nothing can be written there.
        """
        if self._is_open:
            raise UserError(f"the recorder of {self._writer.path} is open already")
        self._writer.__enter__()
        self._is_open = True
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._is_open = False
        steps = len(self._rows)
        self._rows.clear()
        self._writer.__exit__(kind, error, trace)
        if steps:
            _log.warning(
                "dropped: the unfinished episode of %d steps; %s has %d episodes",
                steps,
                self._writer.path,
                self.num_episodes,
            )

    def step(self, pixels: ArrayLike, proprio: ArrayLike, action: ArrayLike, state: ArrayLike | None = None) -> None:
        """Add what the robot saw and what it did then. The values are copied.

        Args:
            pixels: uint8 `[H, W, 3]`, RGB.
            proprio: finite numbers `[P]`; kept as float32.
            action: finite numbers `[A]` in `spec.action.units`, taken at this observation; kept as float32.
            state: finite numbers `[S]`; kept as float64. Only where `spec.state_size` is not 0.

        Raises:
            UserError: when one of them is something else; nothing is added then.
        """
        self._require_open("step")
        self._rows.append(self._row({"pixels": pixels, "proprio": proprio, "action": action, "state": state}))

    def end_episode(
        self,
        pixels: ArrayLike | None = None,
        proprio: ArrayLike | None = None,
        state: ArrayLike | None = None,
        *,
        seed: int = NO_SEED,
    ) -> int:
        """Write the episode; it is safe when this returns. Its number in the store is returned.

        Without an observation, nobody saw what came of the last step's action: it is left out, and the last step's
        observation ends the episode.

        Args:
            pixels: uint8 `[H, W, 3]`, RGB, after the last action.
            proprio: finite numbers `[P]`, likewise.
            state: finite numbers `[S]`, likewise; only where `spec.state_size` is not 0.
            seed: what the episode began with, where that is a simulator's seed.

        Raises:
            UserError: when one of them is something else, or there is no action whose outcome was seen. The unfinished
                episode stays as it is.
            WritingStopped: when the disk is full, or fails. The unfinished episode stays as it is: this can be called
                again.
        """
        self._require_open("end_episode")
        if isinstance(seed, bool) or not isinstance(seed, int | np.integer) or not -(2**63) <= seed < 2**63:
            raise UserError(f"end_episode got the seed {seed!r}: expected a whole number of 64 bits")
        if (pixels is None) != (proprio is None) or (pixels is None and state is not None):
            raise UserError("end_episode got a part of an observation: it takes pixels and proprio, or neither")
        rows = list(self._rows)
        if pixels is not None:
            still = np.zeros(self._types["action"].shape, np.float32)
            rows.append(self._row({"pixels": pixels, "proprio": proprio, "action": still, "state": state}))
        elif rows:
            rows[-1] = rows[-1] | {"action": np.zeros_like(rows[-1]["action"])}
        if len(rows) < 2:
            raise UserError(f"the episode has {len(rows)} observations: expected at least 2, with an action in between")
        columns: dict[str, Any] = {name: np.stack([row[name] for row in rows]) for name in COLUMNS}
        # In one piece: after a Ctrl-C the episode is either written and no longer pending, or neither.
        with uninterrupted():
            try:
                self._writer.append(Episode(**columns, seed=int(seed)))
            except BaseException:
                self._writer.discard_pending()
                raise
            self._rows.clear()
        return self.num_episodes - 1

    def discard_episode(self) -> None:
        """Drop the unfinished episode; without one, do nothing."""
        self._rows.clear()

    def _require_open(self, method: str) -> None:
        if not self._is_open:
            raise UserError(f"{method} of a recorder that is not open: use it as `with Recorder(...) as recorder:`")

    def _row(self, given: Mapping[str, ArrayLike | None]) -> _Row:
        return {name: self._value(name, given[name]) for name in COLUMNS}

    def _value(self, name: str, given: ArrayLike | None) -> NDArray[Any]:
        row = self._types[name]
        if given is None and name == "state" and row.shape == (0,):
            return np.zeros(0, row.dtype)
        return as_row(f"step {self.num_steps}: {name}", given, row)


def as_row(what: str, given: ArrayLike | None, row: RowType) -> NDArray[Any]:
    """A copy of `given` as one row of a column: pictures as they are, finite numbers in the column's type.

    Raises:
        UserError: naming `what`, when it is something else.
    """
    dtype, shape = row
    is_picture = dtype == np.uint8
    expected = f"{dtype} {list(shape)}" if is_picture else f"finite numbers {list(shape)}"
    if given is None:
        raise UserError(f"{what} is missing: expected {expected}")
    try:
        received = np.asarray(given)
    except (ValueError, TypeError, RuntimeError):  # lists of different lengths, a tensor on another device
        raise UserError(f"{what} is not an array: expected {expected}") from None
    fits = received.dtype == dtype if is_picture else received.dtype.kind in "fiu"
    if not fits or received.shape != shape:
        raise UserError(f"{what} is {received.dtype} {list(received.shape)}: expected {expected}")
    with np.errstate(over="ignore"):  # too large for float32 is infinite, and refused below
        value = np.array(received, dtype)  # a copy: cameras write the next picture into the same memory
    if not np.isfinite(value).all():
        index = int(np.flatnonzero(~np.isfinite(value))[0])
        raise UserError(f"{what}[{index}] is {received[index]}: expected {expected} within {dtype}")
    return value

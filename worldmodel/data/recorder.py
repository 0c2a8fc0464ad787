"""Records a live robot, step by step.

    with Recorder("runs/arm/data.zarr", spec) as recorder:
        while more_is_wanted():
            images, proprio = robot.start()
            for _ in range(steps):
                action = policy(images, proprio)
                recorder.step(images, proprio, action)  # an observation, and the action taken at it
                images, proprio = robot.act(action)
            recorder.end_episode(images, proprio)  # the observation after the last action; the episode is now safe

`images` is `{"top": ..., "wrist": ...}`, one image per camera by name. For a single camera it may be the image itself.
Shapes: `H` and `W` are the height and width of a camera, `A` is `spec.action.size`, `P` is `spec.proprio_size`,
`S` is `spec.state_size`.
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
from worldmodel.core.spec import BINARY, EnvironmentSpec
from worldmodel.data.store.durable import uninterrupted
from worldmodel.data.store.instruction import encode_instruction
from worldmodel.data.store.layout import REWARD, Layout, image_column
from worldmodel.data.store.metadata import RowType
from worldmodel.data.store.reader import Episode
from worldmodel.data.store.writer import EpisodeWriter

_LOG = logging.getLogger(__name__)  # the robot's program may configure logging; otherwise, warnings go to stderr
NO_SEED: Final = -1  # a robot has no seed

Images = Mapping[str, ArrayLike] | ArrayLike  # images by camera, or the image of the only camera

_Row = dict[str, NDArray[Any]]
_OF_ACTIONS = ("action", REWARD)  # columns without a value at the last observation


class Recorder:
    """Writes the episodes of a live robot to a new or existing trajectory store, from a single thread.

    An episode of T actions has T + 1 observations. `step` takes an observation and the action taken at it, and
    `end_episode` takes the observation after the last action. The unfinished episode is held in memory (H·W·3 bytes per
    step and camera). When `end_episode` returns, its episode is on disk and survives a crash of this process or of the
    machine. Leaving the context during an episode, also by an error or Ctrl-C, drops that episode and logs a warning.
    While an episode is being written, Ctrl-C waits (some hundredths of a second).

    Args:
        path: the store's directory, which is made if needed.
        spec: specification of the robot, with the units of the actions. A store with another specification is refused.
        recording: how the robot is recorded, as JSON values (for example who drove it). Later recorders must give the
            same values.
        reward: whether every step has a reward.
    """

    def __init__(
        self,
        path: str | Path,
        spec: EnvironmentSpec,
        recording: Mapping[str, Any] | None = None,
        *,
        reward: bool = False,
    ) -> None:
        self._layout = Layout(spec, reward)
        low, high = spec.action.bounds
        # An action in double precision may round to the next float32 beyond a bound.
        self._lowest, self._highest = np.nextafter(low, np.float32(-np.inf)), np.nextafter(high, np.float32(np.inf))
        self._above, self._below = np.nextafter(high, np.float32(-np.inf)), np.nextafter(low, np.float32(np.inf))
        self._binary = np.array(spec.action.kinds) == BINARY
        self._writer = EpisodeWriter(path, spec, recording, episodes_per_commit=1, reward=reward)
        self._rows: list[_Row] = []
        self._is_open = False

    @property
    def num_episodes(self) -> int:
        """Number of complete episodes on disk."""
        return self._writer.num_episodes

    @property
    def num_steps(self) -> int:
        """Number of steps of the unfinished episode."""
        return len(self._rows)

    def __enter__(self) -> Self:
        """Open the store.

        Raises:
            UserError: when another process is writing the store (the message has its process id and host), or the store
                was recorded differently.
            StoreError: when the store is damaged, or the path holds something else.
            WritingStopped: when nothing can be written to the path.
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
            _LOG.warning(
                "dropped: the unfinished episode of %d steps; %s has %d episodes",
                steps,
                self._writer.path,
                self.num_episodes,
            )

    def step(
        self,
        images: Images,
        proprio: ArrayLike,
        action: ArrayLike,
        state: ArrayLike | None = None,
        reward: ArrayLike | None = None,
    ) -> None:
        """Add an observation and the action that was taken at it. The values are copied.

        Args:
            images: by camera, uint8 `[H, W, 3]`, RGB; for a single camera also the image itself.
            proprio: finite numbers `[P]`; kept as float32.
            action: finite numbers `[A]` in `spec.action.units` and within its bounds; kept as float32. A binary
                dimension is at one of its bounds.
            state: finite numbers `[S]`; kept as float64. Only if `spec.state_size` is not 0.
            reward: reward of the action, a finite number; kept as float32. Only if the recorder has `reward`.

        Raises:
            UserError: when one of the values is something else. Nothing is added then.
        """
        self._require_open("step")
        row = self._observation(images, proprio, state)
        row["action"] = self._action(action)
        if reward is not None and not self._layout.has_reward:
            raise UserError(f"step {self.num_steps}: reward is not recorded here: make the Recorder with reward=True")
        if self._layout.has_reward:
            row[REWARD] = self._value(REWARD, reward)
        self._rows.append(row)

    def end_episode(
        self,
        images: Images | None = None,
        proprio: ArrayLike | None = None,
        state: ArrayLike | None = None,
        *,
        seed: int = NO_SEED,
        instruction: str = "",
    ) -> int:
        """Write the episode, which is safe when this returns. Returns its number in the store.

        Without an observation, the outcome of the last step's action is unknown. That action is left out, and the last
        step's observation ends the episode.

        Args:
            images: images after the last action, as in `step`.
            proprio: finite numbers `[P]` after the last action.
            state: finite numbers `[S]` after the last action; only if `spec.state_size` is not 0.
            seed: seed of the simulator's reset, if there was one.
            instruction: the instruction to the robot, at most 512 bytes of UTF-8.

        Raises:
            UserError: when one of the values is something else, or no action has an observed outcome. The unfinished
                episode stays as it is.
            WritingStopped: when the disk is full or fails. The unfinished episode stays as it is, and this can be
                called again.
        """
        self._require_open("end_episode")
        if isinstance(seed, bool) or not isinstance(seed, int | np.integer) or not -(2**63) <= seed < 2**63:
            raise UserError(f"end_episode got the seed {seed!r}: expected a whole number of 64 bits")
        encode_instruction(instruction)
        if (images is None) != (proprio is None) or (images is None and state is not None):
            raise UserError("end_episode got a part of an observation: it takes images and proprio, or neither")
        rows = list(self._rows)
        if images is not None and proprio is not None:
            rows.append(self._observation(images, proprio, state))
        if len(rows) < 2:
            raise UserError(f"the episode has {len(rows)} observations: expected at least 2, with an action in between")
        types = self._layout.row_types
        rows[-1] = rows[-1] | {name: np.zeros(types[name].shape, np.float32) for name in types if name in _OF_ACTIONS}
        columns = {name: np.stack([row[name] for row in rows]) for name in types}
        # A Ctrl-C in between would leave an episode that is written and still pending.
        with uninterrupted():
            try:
                self._writer.append(Episode.of(self._layout, columns, int(seed), instruction))
            except BaseException:
                self._writer.discard_pending()
                raise
            self._rows.clear()
        return self.num_episodes - 1

    def discard_episode(self) -> None:
        """Drop the unfinished episode, if there is one."""
        self._rows.clear()

    def _require_open(self, method: str) -> None:
        if not self._is_open:
            raise UserError(f"{method} of a recorder that is not open: use it as `with Recorder(...) as recorder:`")

    def _observation(self, images: Images, proprio: ArrayLike, state: ArrayLike | None) -> _Row:
        row = {
            image_column(name): self._value(image_column(name), picture) for name, picture in self._by_camera(images)
        }
        row["proprio"] = self._value("proprio", proprio)
        has_state = self._layout.spec.state_size > 0
        row["state"] = np.zeros(0) if state is None and not has_state else self._value("state", state)
        return row

    def _by_camera(self, images: Images) -> list[tuple[str, ArrayLike | None]]:
        cameras = self._layout.spec.camera_names
        if isinstance(images, Mapping):
            if images.keys() != set(cameras):
                received = ", ".join(map(str, images)) or "none"
                raise UserError(
                    f"step {self.num_steps}: images are of the cameras {received}: expected {', '.join(cameras)}"
                )
            return [(name, images[name]) for name in cameras]
        if len(cameras) > 1:
            raise UserError(f"step {self.num_steps}: images are not by camera: expected {', '.join(cameras)}")
        return [(cameras[0], images)]

    def _action(self, given: ArrayLike) -> NDArray[Any]:
        value, spec = self._value("action", given), self._layout.spec.action
        outside = np.flatnonzero((value < self._lowest) | (value > self._highest))
        if len(outside):
            at = int(outside[0])
            unit = f" {spec.units[at]}".rstrip()
            raise UserError(
                f"step {self.num_steps}: action[{at}] ({spec.names[at]}) is {value[at]:g}{unit}: expected "
                f"{spec.low[at]:g} to {spec.high[at]:g}, as the spec of the recording says"
            )
        between = np.flatnonzero(self._binary & (value > self._below) & (value < self._above))
        if len(between):
            at = int(between[0])
            raise UserError(
                f"step {self.num_steps}: action[{at}] ({spec.names[at]}) is {value[at]:g}, and binary: expected "
                f"{spec.low[at]:g} or {spec.high[at]:g}"
            )
        return value

    def _value(self, name: str, given: ArrayLike | None) -> NDArray[Any]:
        return as_row(f"step {self.num_steps}: {name}", given, self._layout.row_types[name])


def as_row(what: str, given: ArrayLike | None, row: RowType) -> NDArray[Any]:
    """A copy of `given` as one row of a column. Images are unchanged, and finite numbers get the column's type.

    Raises:
        UserError: naming `what`, when `given` is something else.
    """
    dtype, shape = row
    is_picture = dtype == np.uint8
    numbers = f"finite numbers {list(shape)}" if shape else "a finite number"
    expected = f"{dtype} {list(shape)}" if is_picture else numbers
    if given is None:
        raise UserError(f"{what} is missing: expected {expected}")
    try:
        received = np.asarray(given)
    except (ValueError, TypeError, RuntimeError):  # lists of different lengths, a tensor on another device
        raise UserError(f"{what} is not an array: expected {expected}") from None
    fits = received.dtype == dtype if is_picture else received.dtype.kind in "fiu"
    if not fits or received.shape != shape:
        raise UserError(f"{what} is {received.dtype} {list(received.shape)}: expected {expected}")
    with np.errstate(over="ignore"):  # numbers too large for float32 become infinite, and are refused below
        value = np.array(received, dtype)  # a copy, since camera drivers write the next image into the same memory
    if not np.isfinite(value).all():
        index = int(np.flatnonzero(~np.isfinite(value))[0])
        where = f"{what}[{index}]" if shape else what
        raise UserError(f"{where} is {received.flat[index]}: expected {expected} within {dtype}")
    return value

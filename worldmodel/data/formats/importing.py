"""Writes the episodes of a `Source` into a trajectory store.

The store keeps T + 1 observations for T actions, in T + 1 rows whose last action is zero. If a data set also has T + 1
observations for T actions (Minari; robomimic with `next_obs`), all of it is taken. If it has as many actions as
observations (LeRobot, Diffusion Policy), nothing was observed after the last action, which is left out.

`EpisodeWriter` writes everything, so a kill leaves whole episodes, and the same command continues after them. The
store's description holds all options that affect the result, so another import into the same store is refused.
"""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from worldmodel.core.errors import UserError
from worldmodel.core.text import printable
from worldmodel.data.formats.limits import require
from worldmodel.data.formats.plan import Camera, Plan, Progress
from worldmodel.data.formats.rows import numbers, single
from worldmodel.data.formats.source import FormatError, Source
from worldmodel.data.store.instruction import INSTRUCTION_BYTES
from worldmodel.data.store.reader import Episode, StoreError, TrajectoryStore
from worldmodel.data.store.writer import EpisodeWriter

_COMMIT_BYTES = 64_000_000  # bytes of images between two commits, before compression
_UNEVEN = 0.1  # fraction of a step; rows are not evenly spaced if one is further from its time than this


def run_import(source: Source, plan: Plan, out: Path, progress: Progress) -> TrajectoryStore:
    """Write the episodes of `plan` to `out`, or continue an import. `progress` is called with (episodes done, in all).

    Raises:
        FormatError: when the source is damaged, or differs from its own description.
        UserError: when `out` holds something else.
    """
    total = len(plan.episodes)
    per_row = sum(math.prod(camera.shape) for camera in plan.spec.cameras)
    together = max(1, _COMMIT_BYTES // (max(1, plan.num_rows // total) * per_row))
    with EpisodeWriter(out, plan.spec, plan.recording, together, reward=bool(plan.choice.reward)) as writer:
        if writer.num_episodes > total:
            raise UserError(f"{out} has {writer.num_episodes} episodes already, more than the {total} to import")
        for done in range(writer.num_episodes, total):
            number, rows = plan.episodes[done]
            writer.append(_read_episode(source, plan, number, rows))
            progress(done + 1, total)
    written = TrajectoryStore.open(out)
    found = (written.num_episodes, written.num_rows)
    if found != (total, plan.num_rows):
        raise StoreError(
            f"{out} has {found[0]} episodes and {found[1]} rows, {source.path} has {total} and {plan.num_rows}: "
            "import into another place"
        )
    return written


def _read_episode(source: Source, plan: Plan, number: int, rows: int) -> Episode:
    images = {name: _pictures(source, camera, number, rows) for name, camera in plan.cameras.items()}
    _check_times(source, plan, number, rows)
    columns = {
        "action": np.zeros((rows, plan.spec.action.size), np.float32),
        "proprio": single(numbers(source, number, "proprio", plan.choice.proprio, rows)),
    }
    columns["action"][:-1] = single(numbers(source, number, "action", plan.choice.action, rows - 1))
    if plan.choice.reward:
        columns["reward"] = np.zeros(rows, np.float32)
        columns["reward"][:-1] = single(numbers(source, number, "reward", plan.choice.reward, rows - 1))[:, 0]
    for name, values in columns.items():
        require(
            bool(np.isfinite(values).all()), f"{name} of episode {number} of {source.path} is too large for float32"
        )
    return Episode(
        images,
        **columns,
        state=numbers(source, number, "state", plan.choice.state, rows),
        seed=source.seed(number),
        instruction=shortened(source.instruction(number)),
    )


def _pictures(source: Source, camera: Camera, number: int, rows: int) -> NDArray[np.uint8]:
    """The images of one camera and episode, uint8 `[rows, H, W, 3]`."""
    where = f"{camera.column} in episode {number} of {source.path}"
    pixels = np.empty((rows, camera.fit.height, camera.fit.width, 3), np.uint8)
    count = 0
    for frame in source.frames(number, camera.column, rows):
        require(count < rows, f"{where} has more than {rows} pictures")
        pixels[count] = camera.fit(frame, f"row {count} of {where}")
        count += 1
    require(count == rows, f"{where} has {count} pictures: {rows} were promised")
    return pixels


def shortened(instruction: str) -> str:
    """The instruction in one line, without control characters, and cut to the length that a store keeps."""
    return printable(instruction).encode()[:INSTRUCTION_BYTES].decode(errors="ignore")


def _check_times(source: Source, plan: Plan, number: int, rows: int) -> None:
    times = source.timestamps(number, rows) if plan.check_times else None
    if times is None:
        return
    late = np.abs(times - times[0] - np.arange(rows) * plan.spec.control_step_s) / plan.spec.control_step_s
    # After an hour, times in float32 have a resolution of a quarter of a millisecond.
    slack = _UNEVEN + np.abs(times) * np.finfo(np.float32).eps / plan.spec.control_step_s
    if not (late <= slack).all():
        row = int(np.argmax(late > slack))
        raise FormatError(
            f"row {row} of episode {number} of {source.path} is {late[row]:.2f} steps from where its rate of "
            f"{1 / plan.spec.control_step_s:g} Hz puts it: they have to be evenly spaced (or --rate takes them so)"
        )

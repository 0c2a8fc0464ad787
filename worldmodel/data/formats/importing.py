"""From a `Source` into a trajectory store.

The store keeps one observation more than actions: T actions, T + 1 rows, the last action zero. Where a data set has
T + 1 observations for T actions (Minari; robomimic with `next_obs`), all of it is taken. Where it has as many actions
as observations (LeRobot, Diffusion Policy), nothing was observed after the last action, and that one is left out.

Everything goes through `EpisodeWriter`, so a kill leaves whole episodes, and the same command goes on after them. What
decides the result is written into the store's description: another import into the same store is refused.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from worldmodel.core.errors import UserError
from worldmodel.data.formats.limits import require
from worldmodel.data.formats.plan import Plan, Progress
from worldmodel.data.formats.rows import numbers, single
from worldmodel.data.formats.source import FormatError, Source
from worldmodel.data.store.reader import Episode, StoreError, TrajectoryStore
from worldmodel.data.store.writer import EpisodeWriter

_COMMIT_BYTES = 64_000_000  # of pictures between two commits, before compression
_UNEVEN = 0.1  # of a step: rows that are further from their time than this are not evenly spaced


def run_import(source: Source, plan: Plan, out: Path, progress: Progress) -> TrajectoryStore:
    """Write what `plan` says to `out`, or go on with it. `progress` is called with (episodes done, in all).

    Raises:
        FormatError: when the source is damaged, or did not hold what it promised.
        UserError: when `out` holds something else.
    """
    total = len(plan.episodes)
    per_episode = max(1, plan.num_rows // total) * plan.spec.only_camera.height**2 * 3
    with EpisodeWriter(out, plan.spec, plan.recording, max(1, _COMMIT_BYTES // per_episode)) as writer:
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
    where = f"{plan.choice.camera} in episode {number} of {source.path}"
    pixels = np.empty((rows, plan.spec.only_camera.height, plan.spec.only_camera.height, 3), np.uint8)
    count = 0
    for frame in source.frames(number, plan.choice.camera, rows):
        require(count < rows, f"{where} has more than {rows} pictures")
        pixels[count] = plan.square(frame, f"row {count} of {where}")
        count += 1
    require(count == rows, f"{where} has {count} pictures: {rows} were promised")
    _check_times(source, plan, number, rows)
    action = np.zeros((rows, len(plan.spec.action.low)), np.float32)
    action[:-1] = single(numbers(source, number, "action", plan.choice.action, rows - 1))
    proprio = single(numbers(source, number, "proprio", plan.choice.proprio, rows))
    state = numbers(source, number, "state", plan.choice.state, rows)
    for name, values in (("action", action), ("proprio", proprio)):
        require(
            bool(np.isfinite(values).all()), f"{name} of episode {number} of {source.path} is too large for float32"
        )
    return Episode({plan.spec.only_camera.name: pixels}, action, proprio, state, source.seed(number))


def _check_times(source: Source, plan: Plan, number: int, rows: int) -> None:
    times = source.timestamps(number, rows) if plan.check_times else None
    if times is None:
        return
    late = np.abs(times - times[0] - np.arange(rows) * plan.spec.control_step_s) / plan.spec.control_step_s
    # float32 counts hours in quarters of a millisecond.
    slack = _UNEVEN + np.abs(times) * np.finfo(np.float32).eps / plan.spec.control_step_s
    if not (late <= slack).all():
        row = int(np.argmax(late > slack))
        raise FormatError(
            f"row {row} of episode {number} of {source.path} is {late[row]:.2f} steps from where its rate of "
            f"{1 / plan.spec.control_step_s:g} Hz puts it: they have to be evenly spaced (or --rate takes them so)"
        )

"""What an import is going to write, told from a `Source` before anything is written."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from worldmodel.core.errors import UserError
from worldmodel.core.spec import MOST_PIXELS, ActionSpec, EnvironmentSpec, one_camera
from worldmodel.data.formats.images import Layout, Square, white_of
from worldmodel.data.formats.limits import MOST_EPISODE_BYTES, MOST_NUMBERS, MOST_ROWS, require
from worldmodel.data.formats.mapping import Choice, Part, choose
from worldmodel.data.formats.source import FormatError, Length, Source

Progress = Callable[[int, int], None]
_LARGEST_DEFAULT = 224  # pixels: what encoders are made for; larger only when asked for


@dataclasses.dataclass(frozen=True)
class ImportOptions:
    """What a user decides; None is found out.

    Attributes:
        camera: column of pictures.
        action: columns, one after the other.
        proprio: likewise; `["none"]` for none.
        state: likewise.
        rate_hz: rows per second; given, it counts, whatever the data set says.
        size: side of the store's pictures [pixels].
        fit: how pictures become square, `crop` or `letterbox`.
        env: name of the environment.
        action_low: smallest action, one number for all dimensions or one for each.
        action_high: likewise.
        action_units: likewise.
        skip_short: leave out episodes of less than two observations rather than refuse them.
    """

    camera: str | None = None
    action: Sequence[str] | None = None
    proprio: Sequence[str] | None = None
    state: Sequence[str] | None = None
    rate_hz: float | None = None
    size: int | None = None
    fit: str = "crop"
    env: str | None = None
    action_low: Sequence[float] | None = None
    action_high: Sequence[float] | None = None
    action_units: Sequence[str] | None = None
    skip_short: bool = False


@dataclasses.dataclass(frozen=True)
class Plan:
    """What an import is going to write. Nothing has been written yet.

    Attributes:
        choice: which columns become what.
        spec: of the store.
        recording: of the store.
        square: how pictures are brought to its size.
        picture: height and width of the source's pictures [pixels].
        episodes: `(number in the source, rows to write)` of each.
        unused_actions: last actions that lead to no observation.
        skipped: numbers of episodes that are too short.
        bounds: where the action's bounds are from, in words.
        check_times: whether rows have to be where the data set's own rate puts them; a rate that the user gave counts.
    """

    choice: Choice
    spec: EnvironmentSpec
    recording: dict[str, Any]
    square: Square
    picture: tuple[int, int]
    episodes: tuple[tuple[int, int], ...]
    unused_actions: int
    skipped: tuple[int, ...]
    bounds: str
    check_times: bool

    @property
    def num_rows(self) -> int:
        """Observations to write."""
        return sum(rows for _, rows in self.episodes)

    @property
    def num_steps(self) -> int:
        """Actions to write."""
        return self.num_rows - len(self.episodes)


def plan_import(source: Source, options: ImportOptions, progress: Progress) -> Plan:
    """Read what is needed to know what an import writes: all actions, and one picture.

    Raises:
        FormatError: when the source is damaged.
        UserError: when something has to be said that the source does not say.
    """
    facts = source.facts
    choice = choose(source.features, facts.usual, options.camera, options.action, options.proprio, options.state)
    lengths = source.lengths(choice)
    require(bool(lengths), f"{source.path} has no episode")
    episodes, unused, skipped = _rows_to_write(source, lengths, options.skip_short)
    rate = options.rate_hz if options.rate_hz is not None else facts.rate_hz
    if rate is None:
        raise UserError(f"{source.path} does not say how many steps a second has: give --rate")
    if not 0 < rate <= 100_000:
        raise UserError(f"--rate {rate:g}: expected steps per second, above 0")
    first = next(iter(source.frames(episodes[0][0], choice.camera, 1)))
    layout = Layout.of(first.shape)
    require(layout is not None, f"{choice.camera} of {source.path} has shape {list(first.shape)}: expected pictures")
    assert layout is not None
    size = min(layout.height, layout.width, _LARGEST_DEFAULT) if options.size is None else options.size
    if not 1 <= size <= MOST_PIXELS:
        raise UserError(f"--size {size}: expected 1 to {MOST_PIXELS} pixels")
    square = Square(size, options.fit, white_of(first))
    _check_memory(source, episodes, size)
    low, high, bounds = _action_bounds(source, choice, episodes, options, progress)
    ours = facts.spec
    units = _for_each(options.action_units, len(low), "--action-units")
    spec = EnvironmentSpec(
        env=options.env or facts.env,
        cameras=one_camera(size),
        control_step_s=ours.control_step_s if ours is not None and options.rate_hz is None else 1 / rate,
        action=ActionSpec(
            low,
            high,
            units
            or (ours.action.units if ours is not None and len(ours.action.low) == len(low) else ())
            or ("",) * len(low),
        ),
        proprio_size=_width(source, episodes[0], "proprio", choice.proprio),
        state_size=_width(source, episodes[0], "state", choice.state),
        simulator=ours.simulator if ours is not None else facts.format,
        options=ours.options if ours is not None else {},
    )
    recording = {
        "imported": facts.format,
        "source": source.fingerprint(),
        **{role: [str(part) for part in getattr(choice, role)] for role in ("action", "proprio", "state")},
        "camera": choice.camera,
        "fit": options.fit,
        "white": square.white,
        "skip_short": options.skip_short,
    }
    picture = (layout.height, layout.width)
    check_times = options.rate_hz is None
    return Plan(choice, spec, recording, square, picture, tuple(episodes), unused, tuple(skipped), bounds, check_times)


def _rows_to_write(
    source: Source, lengths: Sequence[Length], skip_short: bool
) -> tuple[list[tuple[int, int]], int, list[int]]:
    episodes, skipped, unused = [], [], 0
    for number, length in enumerate(lengths):
        where = f"episode {number} of {source.path}"
        require(
            length.observations - length.actions in (0, 1),
            f"{where} has {length.actions} actions and {length.observations} observations: expected as many, or one "
            "observation more",
        )
        require(length.observations <= MOST_ROWS, f"{where} has {length.observations} rows: at most {MOST_ROWS:,}")
        if length.observations < 2:
            if not skip_short:
                raise UserError(
                    f"{where} has {length.observations} observations, expected at least 2 (or --skip-short)"
                )
            skipped.append(number)
            continue
        episodes.append((number, length.observations))
        unused += length.actions - (length.observations - 1)
    if not episodes:
        raise UserError(f"no episode of {source.path} has two observations")
    return episodes, unused, skipped


def _check_memory(source: Source, episodes: Sequence[tuple[int, int]], size: int) -> None:
    number, rows = max(episodes, key=lambda episode: episode[1])
    if (needed := rows * size**2 * 3) > MOST_EPISODE_BYTES:
        raise UserError(
            f"episode {number} of {source.path} takes {needed / 1e9:.1f} GB at {size} pixels: choose a smaller --size"
        )


def _action_bounds(
    source: Source,
    choice: Choice,
    episodes: Sequence[tuple[int, int]],
    options: ImportOptions,
    progress: Progress,
) -> tuple[tuple[float, ...], tuple[float, ...], str]:
    """Given, or said by the source, or else the smallest and largest that was taken."""
    facts = source.facts
    width = _width(source, (episodes[0][0], episodes[0][1] - 1), "action", choice.action)
    said = (facts.action_low, facts.action_high)
    if facts.spec is not None:
        said = (facts.spec.action.low, facts.spec.action.high)
    given = tuple(
        _for_each(values, width, f"--action-{side}")
        for side, values in (("low", options.action_low), ("high", options.action_high))
    )
    if given[0] and given[1]:
        low, high, told = given[0], given[1], "given"
    elif given[0] or given[1]:
        raise UserError("--action-low and --action-high belong together: give both or none")
    elif said[0] is not None and said[1] is not None and len(said[0]) == len(said[1]) == width:
        low, high, told = said[0], said[1], "the data set's"
    else:
        lowest, highest = np.full(width, np.inf), np.full(width, -np.inf)
        for done, (number, rows) in enumerate(episodes):
            taken = single(numbers(source, number, "action", choice.action, rows - 1))
            lowest, highest = np.minimum(lowest, taken.min(0)), np.maximum(highest, taken.max(0))
            progress(done + 1, len(episodes))
        return tuple(lowest.tolist()), tuple(highest.tolist()), "smallest and largest that was taken"
    if not all(a <= b for a, b in zip(low, high, strict=True)):
        raise UserError(f"actions from {list(low)} to {list(high)}: the first may not be above the second")
    return tuple(low), tuple(high), told


def _for_each(values: Sequence[Any] | None, width: int, option: str) -> tuple[Any, ...]:
    if not values:
        return ()
    if len(values) not in (1, width):
        raise UserError(
            f"{option} has {len(values)} values: expected 1 or {width}, one for each dimension of the action"
        )
    return tuple(values) * (width if len(values) == 1 else 1)


def _width(source: Source, episode: tuple[int, int], role: str, parts: Sequence[Part]) -> int:
    return numbers(source, episode[0], role, parts, episode[1]).shape[1]


def numbers(source: Source, episode: int, role: str, parts: Sequence[Part], rows: int) -> NDArray[Any]:
    """Columns one after the other, float64 `[rows, D]`. Raises FormatError for a number that is not finite."""
    columns = [np.zeros((rows, 0))]
    for part in parts:
        where = f"{part.name} in episode {episode} of {source.path}"
        column = source.column(episode, part.name, rows)
        if column.dtype.kind not in "biuf" or len(column) != rows:
            raise FormatError(f"{where} is {column.dtype} {list(column.shape)}: expected {rows} rows of numbers")
        flat = column.reshape(rows, -1).astype(np.float64)
        stop = flat.shape[1] if part.stop is None else part.stop
        if not 0 <= part.start < stop <= flat.shape[1]:
            raise UserError(f"--{role} '{part}': {part.name} has {flat.shape[1]} numbers")
        flat = flat[:, part.start : stop]
        if not np.isfinite(flat).all():
            row = int(np.argmax(~np.isfinite(flat).all(axis=1)))
            raise FormatError(f"{where} has a number that is not finite, in row {row}")
        columns.append(flat)
    together = np.concatenate(columns, axis=1)
    require(together.shape[1] <= MOST_NUMBERS, f"{role} has {together.shape[1]} numbers: at most {MOST_NUMBERS:,}")
    return together


def single(values: NDArray[Any]) -> NDArray[np.float32]:
    """As the store keeps them; what does not fit becomes infinite."""
    with np.errstate(over="ignore"):  # infinity is refused later
        return values.astype(np.float32)

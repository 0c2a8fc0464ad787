"""What an import is going to write, told from a `Source` before anything is written."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final

import numpy as np

from worldmodel.core.errors import UserError
from worldmodel.core.spec import MOST_PIXELS, ActionSpec, EnvironmentSpec, one_camera
from worldmodel.data.formats.actions import bounds_of, for_each
from worldmodel.data.formats.images import Layout, Square, white_of
from worldmodel.data.formats.limits import MOST_EPISODE_BYTES, MOST_ROWS, require
from worldmodel.data.formats.mapping import Choice, Part, choose
from worldmodel.data.formats.rows import numbers
from worldmodel.data.formats.source import Length, Source
from worldmodel.data.formats.survey import Survey, survey

Progress = Callable[[int, int], None]
_LARGEST_DEFAULT = 224  # pixels: what encoders are made for; larger only when asked for
_PATCH, _USUAL_PATCH = 4, 8  # pixels: the smallest patches that an encoder cuts, and those that it cuts by default
SAME_RATE: Final = 0.01  # by how much rates may differ that are the same: 29.97 is called 30


@dataclasses.dataclass(frozen=True)
class ImportOptions:
    """What a user decides; None is found out.

    Attributes:
        camera: column of pictures.
        action: columns, one after the other.
        proprio: likewise; `["none"]` for none.
        state: likewise.
        rate_hz: rows per second, where the data set does not say. Where it does and says the same, its rows are taken
            as evenly spaced, whatever their times.
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
        notes: what the user should know, a sentence each.
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
    notes: tuple[str, ...] = ()

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
    rate = _rate(source, options)
    first = next(iter(source.frames(episodes[0][0], choice.camera, 1)))
    layout = Layout.of(first.shape)
    require(layout is not None, f"{choice.camera} of {source.path} has shape {list(first.shape)}: expected pictures")
    assert layout is not None
    size = _size(options.size, layout) if facts.spec is None or options.size else facts.spec.only_camera.height
    square = Square(size, options.fit, white_of(first))
    _check_memory(source, episodes, size)
    found = survey(source, choice, episodes, progress)
    low, high, bounds = bounds_of(facts, found, options.action_low, options.action_high, str(source.path))
    ours = facts.spec
    units = for_each(options.action_units, len(low), "--action-units")
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
        "source_rate_hz": facts.rate_hz,
    }
    picture = (layout.height, layout.width)
    check_times = options.rate_hz is None
    notes = tuple(_notes(found, square.size))
    return Plan(
        choice, spec, recording, square, picture, tuple(episodes), unused, tuple(skipped), bounds, check_times, notes
    )


def _rate(source: Source, options: ImportOptions) -> float:
    said, given = source.facts.rate_hz, options.rate_hz
    if given is not None and not 0 < given <= 100_000:
        raise UserError(f"--rate {given:g}: expected steps per second, above 0")
    if said is None and given is None:
        raise UserError(f"{source.path} does not say how many steps a second has: give --rate")
    if said is not None and given is not None and abs(given - said) > SAME_RATE * said:
        raise UserError(
            f"--rate {given:g}: {source.path} says {said:g} steps per second (--rate is for data that do not say)"
        )
    rate = said if given is None else given
    assert rate is not None
    return rate


def _size(given: int | None, layout: Layout) -> int:
    if given is None:
        smallest = min(layout.height, layout.width, _LARGEST_DEFAULT)
        return max(_PATCH, smallest - smallest % _PATCH)
    if not 1 <= given <= MOST_PIXELS:
        raise UserError(f"--size {given}: expected 1 to {MOST_PIXELS} pixels")
    if given % _PATCH:
        below, above = given - given % _PATCH, given + _PATCH - given % _PATCH
        near = [n for n in (below, above) if 0 < n <= MOST_PIXELS]
        raise UserError(
            f"--size {given}: an encoder cuts pictures into patches, expected a multiple of {_PATCH}, for example "
            f"{' or '.join(map(str, near))}"
        )
    return given


def _notes(found: Survey, size: int) -> Iterator[str]:
    """What the user should know before training on it."""
    for index in np.flatnonzero(found.is_still):
        yield f"action[{index}] never changes: it is {found.low[index]:.6g} in all rows"
    if size % _USUAL_PATCH:
        low, high = size - size % _USUAL_PATCH, size + _USUAL_PATCH - size % _USUAL_PATCH
        near = " or ".join(str(n) for n in (low, high) if n)
        yield (
            f"{size} is no multiple of {_USUAL_PATCH}, the usual encoder.patch_size: train with "
            f"encoder.patch_size={_PATCH}, or import with --size {near}"
        )


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


def _width(source: Source, episode: tuple[int, int], role: str, parts: Sequence[Part]) -> int:
    return numbers(source, episode[0], role, parts, episode[1]).shape[1]

"""Plans an import. The plan says what will be written, before anything is written."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from worldmodel.core.errors import UserError
from worldmodel.core.spec import MOST_PIXELS, CameraSpec, EnvironmentSpec
from worldmodel.data.formats.actions import ActionOptions, Told, tell_action
from worldmodel.data.formats.images import KEEP, Fit, Layout, kept_size, white_of
from worldmodel.data.formats.limits import MOST_EPISODE_BYTES, MOST_ROWS, is_same_rate, require
from worldmodel.data.formats.mapping import Choice, Part, called, choose
from worldmodel.data.formats.rows import numbers
from worldmodel.data.formats.source import FormatError, Length, Source
from worldmodel.data.formats.survey import Survey, survey

Progress = Callable[[int, int], None]
_LARGEST_DEFAULT = 224  # pixels: the usual image size of encoders; larger sizes need an option
_PATCH, _USUAL_PATCH = 4, 8  # pixels: the smallest and the default patch size of encoders


@dataclasses.dataclass(frozen=True)
class ImportOptions:
    """The user's options. None means to infer the value.

    Attributes:
        camera: columns of images, `KEY` or `NAME=KEY`.
        action: columns, which are concatenated.
        proprio: columns, which are concatenated; `["none"]` for none.
        state: columns, as for `proprio`.
        reward: a column of a single number; `["none"]` for none.
        rate_hz: rows per second, for data sets without a rate. If the data set has a rate, it must be the same. Its
            rows then count as evenly spaced, whatever their times.
        size: height and width of the store's images, or one number for both [pixels]; with `keep`, the shorter side.
        fit: how images are brought to that size: `crop`, `letterbox` or `keep` (their own aspect ratio).
        env: name of the environment.
        control: options of the action.
        skip_short: leave out episodes with less than two observations, instead of an error.
    """

    camera: Sequence[str] | None = None
    action: Sequence[str] | None = None
    proprio: Sequence[str] | None = None
    state: Sequence[str] | None = None
    reward: Sequence[str] | None = None
    rate_hz: float | None = None
    size: Sequence[int] | None = None
    fit: str = "crop"
    env: str | None = None
    control: ActionOptions = dataclasses.field(default_factory=ActionOptions)
    skip_short: bool = False


@dataclasses.dataclass(frozen=True)
class Camera:
    """How one camera's images come into the store.

    Attributes:
        column: column of the data set.
        picture: height and width of its images [pixels].
        fit: how they are brought to the store's size.
    """

    column: str
    picture: tuple[int, int]
    fit: Fit


@dataclasses.dataclass(frozen=True)
class Plan:
    """Everything that an import will write.

    Attributes:
        choice: the columns of each role.
        spec: specification in the store.
        recording: description of the recording in the store.
        cameras: cameras by name.
        episodes: `(number in the source, rows to write)` of each episode.
        unused_actions: number of last actions that lead to no observation.
        skipped: numbers of episodes that are too short.
        told: the action's specification, with the reasons for it.
        check_times: whether the times of rows must match the data set's rate. They need not if the user gave a rate.
        notes: hints for the user, one sentence each.
    """

    choice: Choice
    spec: EnvironmentSpec
    recording: dict[str, Any]
    cameras: Mapping[str, Camera]
    episodes: tuple[tuple[int, int], ...]
    unused_actions: int
    skipped: tuple[int, ...]
    told: Told
    check_times: bool
    notes: tuple[str, ...] = ()

    @property
    def num_rows(self) -> int:
        """Number of observations to write."""
        return sum(rows for _, rows in self.episodes)

    @property
    def num_steps(self) -> int:
        """Number of actions to write."""
        return self.num_rows - len(self.episodes)


def plan_import(source: Source, options: ImportOptions, progress: Progress) -> Plan:
    """Plan an import. This reads all actions, some proprioception, and one image of each camera.

    Raises:
        FormatError: when the source is damaged, or contradicts itself.
        UserError: when an option is missing that the source cannot replace, or an option contradicts the source.
    """
    facts, asked = source.facts, options
    choice = _choice(source, asked)
    lengths = source.lengths(choice)
    require(bool(lengths), f"{source.path} has no episode")
    episodes, unused, skipped = _rows_to_write(source, lengths, asked.skip_short)
    rate = _rate(source, asked)
    cameras = {name: _camera(source, episodes[0][0], name, column, asked) for name, column in choice.cameras.items()}
    _check_memory(source, episodes, cameras)
    found = survey(source, choice, episodes, progress)
    told = tell_action(facts, source.features, choice, found, asked.control, str(source.path))
    ours = facts.spec
    spec = EnvironmentSpec(
        env=asked.env or facts.env,
        cameras=tuple(CameraSpec(name, of.fit.height, of.fit.width) for name, of in cameras.items()),
        control_step_s=ours.control_step_s if ours is not None and asked.rate_hz is None else 1 / rate,
        action=told.spec,
        proprio_size=_width(source, episodes[0], "proprio", choice.proprio),
        state_size=_width(source, episodes[0], "state", choice.state),
        simulator=ours.simulator if ours is not None else facts.format,
        options=ours.options if ours is not None else {},
    )
    if choice.reward and (width := _width(source, (episodes[0][0], 1), "reward", choice.reward)) != 1:
        raise UserError(f"--reward {choice.reward[0]}: it has {width} numbers in a row, expected one")
    return Plan(
        choice=choice,
        spec=spec,
        recording=_recording(source, choice, cameras, asked),
        cameras=cameras,
        episodes=tuple(episodes),
        unused_actions=unused,
        skipped=tuple(skipped),
        told=told,
        check_times=asked.rate_hz is None,
        notes=tuple(_notes(found, spec)),
    )


def _choice(source: Source, options: ImportOptions) -> Choice:
    """The columns of each role. A data set that was exported from a store keeps all of that store's cameras."""
    camera, ours = options.camera, source.facts.spec
    if camera is None and ours is not None:
        pictures = [name for name, feature in source.features.items() if feature.is_image]
        names = called(pictures)
        if len(pictures) == 1 == len(ours.cameras):
            names = {ours.cameras[0].name: pictures[0]}
        if set(names) == set(ours.camera_names):
            camera = [f"{name}={names[name]}" for name in ours.camera_names]
    return choose(
        source.features, source.facts.usual, camera, options.action, options.proprio, options.state, options.reward
    )


def _camera(source: Source, episode: int, name: str, column: str, options: ImportOptions) -> Camera:
    first = next(iter(source.frames(episode, column, 1)))
    layout = Layout.of(first.shape)
    if layout is None:
        raise FormatError(f"{column} of {source.path} has shape {list(first.shape)}: expected pictures")
    picture, ours = (layout.height, layout.width), source.facts.spec
    if options.size is None and ours is not None and name in ours.camera_names:
        size = ours.camera(name).shape[:2]
    else:
        size = _size(options.size, picture, options.fit)
    return Camera(column, picture, Fit(*size, options.fit, white_of(first)))


def _recording(source: Source, choice: Choice, cameras: Mapping[str, Camera], options: ImportOptions) -> dict[str, Any]:
    """Everything beside the specification that affects the result. A different import cannot continue this one."""
    return {
        "imported": source.facts.format,
        "source": source.fingerprint(),
        **{role: [str(part) for part in getattr(choice, role)] for role in ("action", "proprio", "state", "reward")},
        "cameras": dict(choice.cameras),
        "fit": options.fit,
        "white": {name: camera.fit.white for name, camera in cameras.items()},
        "skip_short": options.skip_short,
        "source_rate_hz": source.facts.rate_hz,
    }


def _rate(source: Source, options: ImportOptions) -> float:
    said, given = source.facts.rate_hz, options.rate_hz
    if given is not None and not 0 < given <= 100_000:
        raise UserError(f"--rate {given:g}: expected steps per second, above 0")
    if said is None and given is None:
        raise UserError(f"{source.path} does not say how many steps a second has: give --rate")
    if said is not None and given is not None and not is_same_rate(given, said):
        raise UserError(
            f"--rate {given:g}: {source.path} says {said:g} steps per second (--rate is for data that do not say)"
        )
    rate = said if given is None else given
    assert rate is not None
    return rate


def _size(given: Sequence[int] | None, picture: tuple[int, int], fit: str) -> tuple[int, int]:
    """Height and width of a camera's images in the store."""
    smallest = min(*picture, _LARGEST_DEFAULT)
    sizes = (max(_PATCH, smallest - smallest % _PATCH),) if given is None else tuple(given)
    if len(sizes) > 2 or (len(sizes) == 2 and fit == KEEP):
        raise UserError(
            f"--size {' '.join(map(str, sizes))}: expected one number, or height and width (not with --fit {KEEP})"
        )
    for size in sizes:
        _check_side(size, sizes)
    return kept_size(*picture, sizes[0]) if fit == KEEP else (sizes[0], sizes[-1])


def _check_side(size: int, sizes: Sequence[int]) -> None:
    given = f"--size {' '.join(map(str, sizes))}"
    if not 1 <= size <= MOST_PIXELS:
        raise UserError(f"{given}: expected 1 to {MOST_PIXELS} pixels")
    if size % _PATCH:
        near = [n for n in (size - size % _PATCH, size + _PATCH - size % _PATCH) if 0 < n <= MOST_PIXELS]
        raise UserError(
            f"{given}: an encoder cuts pictures into patches, expected multiples of {_PATCH}, for example "
            f"{' or '.join(map(str, near))}"
        )


def _notes(found: Survey, spec: EnvironmentSpec) -> Iterator[str]:
    """Hints for the user before training."""
    for index in np.flatnonzero(found.is_still):
        yield f"action {spec.action.names[index]} never changes: it is {found.low[index]:.6g} in all rows"
    for side in sorted({side for camera in spec.cameras for side in camera.shape[:2] if side % _USUAL_PATCH}):
        near = [n for n in (side - side % _USUAL_PATCH, side + _USUAL_PATCH - side % _USUAL_PATCH) if n]
        yield (
            f"{side} is no multiple of {_USUAL_PATCH}, the usual encoder.patch_size: train with "
            f"encoder.patch_size={_PATCH}, or import with --size {' or '.join(map(str, near))}"
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


def _check_memory(source: Source, episodes: Sequence[tuple[int, int]], cameras: Mapping[str, Camera]) -> None:
    number, rows = max(episodes, key=lambda episode: episode[1])
    row = sum(camera.fit.height * camera.fit.width * 3 for camera in cameras.values())
    if (needed := rows * row) > MOST_EPISODE_BYTES:
        sizes = ", ".join(f"{camera.fit.width} x {camera.fit.height}" for camera in cameras.values())
        raise UserError(
            f"episode {number} of {source.path} takes {needed / 1e9:.1f} GB at {sizes} pixels: choose a smaller --size"
        )


def _width(source: Source, episode: tuple[int, int], role: str, parts: Sequence[Part]) -> int:
    return numbers(source, episode[0], role, parts, episode[1]).shape[1]

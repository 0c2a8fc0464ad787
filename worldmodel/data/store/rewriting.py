"""Copies episodes into new stores, in order to pack, split, merge or upgrade recordings.

Every copy is compared with the checksums of its source. The same command continues an interrupted copy, since the
writer knows how many episodes it has.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from worldmodel.core.errors import UserError
from worldmodel.core.spec import EnvironmentSpec
from worldmodel.data.store.creating import create_store, is_vacant
from worldmodel.data.store.durable import writing
from worldmodel.data.store.layout import SCHEMA_VERSION, Layout, image_column
from worldmodel.data.store.metadata import group_attributes
from worldmodel.data.store.reader import Episode, TrajectoryStore
from worldmodel.data.store.writer import EpisodeWriter, require_same_recording

Progress = Callable[[int, int], None]
_COMMIT_BYTES = 64_000_000  # bytes copied between two commits, before compression


def pack(source: TrajectoryStore, out: Path, progress: Progress) -> TrajectoryStore:
    """Rewrite a store into few large files, for archives and object storage. Content and checksums stay the same.

    Raises:
        StoreError: when an episode of `source` is damaged.
        UserError: when `out` holds something else.
        WritingStopped: when the disk is full or fails.
    """
    _require_apart([out], [source])
    if is_vacant(out):
        with writing(out):
            create_store(out, _present(source), source.recording, packed=True)
    elif not group_attributes(out).get("packed"):
        raise UserError(f"{out} holds a recording that is not packed: write to another place")
    every = np.arange(source.num_episodes)
    return copy_episodes([(source, every)], out, source.recording, progress)


def split(
    source: TrajectoryStore, outs: Sequence[Path], fractions: Sequence[float], seed: int, progress: Progress
) -> list[TrajectoryStore]:
    """Divide whole episodes at random among new stores. Each store keeps the order of the recording.

    Args:
        source: the store to divide.
        outs: paths of the new stores.
        fractions: fraction of the episodes for each of `outs`; their sum is at most 1.
        seed: seed of the random division.
        progress: called with (episodes done, episodes in all).

    Raises:
        StoreError: when an episode of `source` is damaged.
        UserError: when a part would be empty, or `outs` hold something else.
    """
    if len(fractions) != len(outs) or not all(f > 0 for f in fractions) or sum(fractions) > 1 + 1e-9:
        raise UserError(
            f"fractions {list(fractions)} for {len(outs)} stores: expected one each, above 0, at most 1 in all"
        )
    if seed < 0:
        raise UserError(f"seed {seed}: expected at least 0")
    _require_apart(outs, [source])
    edges = np.round(np.cumsum([0.0, *fractions]) * source.num_episodes).astype(int)
    if (np.diff(edges) < 1).any():
        raise UserError(f"{source.num_episodes} episodes cannot be split by {list(fractions)}: a part would be empty")
    order = np.random.default_rng(seed).permutation(source.num_episodes)
    parts = [np.sort(order[low:high]) for low, high in itertools.pairwise(edges)]
    drawn = {**source.recording, "part_of": source.identity, "part": [seed, *fractions]}
    recordings = [{**drawn, "number": number} for number in range(len(outs))]
    # All outputs are checked before the first is written.
    for out, recording in zip(outs, recordings, strict=True):
        if not is_vacant(out):
            require_same_recording(TrajectoryStore.open(out), _present(source), recording)
    written: list[TrajectoryStore] = []
    before = 0
    for out, part, recording in zip(outs, parts, recordings, strict=True):

        def report(done: int, _: int, before: int = before) -> None:
            progress(before + done, int(edges[-1]))

        written.append(copy_episodes([(source, part)], out, recording, report))
        before += len(part)
    return written


def merge(
    sources: Sequence[TrajectoryStore], out: Path, progress: Progress, without_state: bool = False
) -> TrajectoryStore:
    """Copy all episodes of `sources` into one store, one source after the other.

    Args:
        sources: the stores.
        out: path of the new store.
        progress: called with (episodes done, episodes in all).
        without_state: leave out the simulator's states, which the recording of a robot does not have.

    Raises:
        StoreError: when an episode is damaged.
        UserError: when the stores are of different environments, or `out` holds something else.
    """
    _require_apart([out], sources)
    first = sources[0]
    spec = dataclasses.replace(first.spec, state_size=0) if without_state else first.spec
    for other in sources[1:]:
        both = [{**store.spec.to_dict(), "reward": store.layout.has_reward} for store in (first, other)]
        for name, mine in both[0].items():
            if (theirs := both[1][name]) == mine or (name == "state_size" and without_state):
                continue
            remedy = " with states; --without-state leaves them out" if name == "state_size" else ""
            raise UserError(f"{first.name} has {name} {mine}, {other.name} has {theirs}: they cannot be merged{remedy}")
    recording: dict[str, Any] = {"merged": [source.identity for source in sources]}
    parts = [(source, np.arange(source.num_episodes)) for source in sources]
    return copy_episodes(parts, out, recording, progress, spec)


def upgrade(source: TrajectoryStore, out: Path, spec: EnvironmentSpec, progress: Progress) -> TrajectoryStore:
    """Copy a store of an older schema, with every frame and number, into one of the present schema.

    Args:
        source: a store of schema 1 or 2.
        out: path of the new store.
        spec: specification with facts that `source` lacks, such as the camera's name or the rest rule of actions.
        progress: called with (episodes done, episodes in all).

    Raises:
        StoreError: when an episode of `source` is damaged.
        UserError: when `source` is of the present schema, or `out` holds something else.
        WritingStopped: when the disk is full or fails.
    """
    if source.layout.version == SCHEMA_VERSION:
        raise UserError(f"{source.name} is of schema {SCHEMA_VERSION} already: there is nothing to be upgraded")
    _require_apart([out], [source])
    every = np.arange(source.num_episodes)
    return copy_episodes([(source, every)], out, source.recording, progress, spec)


def copy_episodes(
    parts: Sequence[tuple[TrajectoryStore, NDArray[Any]]],
    out: Path,
    recording: dict[str, Any],
    progress: Progress,
    spec: EnvironmentSpec | None = None,
) -> TrajectoryStore:
    """Copy episodes from stores of one environment to `out`, or continue such a copy.

    `spec`, if given, replaces the specification of the sources. It has as many cameras, in the same order and sizes.
    With a `state_size` of 0, states are left out.

    Raises:
        StoreError: when an episode is damaged.
        UserError: when `out` holds something else.
    """
    numbered = [(source, int(episode)) for source, episodes in parts for episode in episodes]
    layout = _present(parts[0][0])
    layout = layout if spec is None else Layout(spec, layout.has_reward)
    rows = sum(source.num_rows for source, _ in parts) / max(1, sum(source.num_episodes for source, _ in parts))
    row_bytes = sum(row.num_bytes for row in layout.row_types.values())
    per_commit = max(1, int(_COMMIT_BYTES / max(1.0, rows * row_bytes)))
    with EpisodeWriter(out, layout.spec, recording, per_commit, reward=layout.has_reward) as writer:
        if writer.num_episodes > len(numbered):
            raise UserError(f"{out} has {writer.num_episodes} episodes already, more than the {len(numbered)} to copy")
        for done in range(writer.num_episodes, len(numbered)):
            source, number = numbered[done]
            episode = source.episode(number)
            writer.append(_fitted(episode, layout.spec))
            progress(done + 1, len(numbered))
    copied = TrajectoryStore.open(out)
    _require_same(copied, numbered)
    return copied


def _present(source: TrajectoryStore) -> Layout:
    """The layout of a copy."""
    return Layout(source.spec, source.layout.has_reward)


def _fitted(episode: Episode, spec: EnvironmentSpec) -> Episode:
    """The episode with the cameras' names of `spec`, and without states if `spec` has none."""
    images = dict(zip(spec.camera_names, episode.images.values(), strict=True))
    state = episode.state if spec.state_size else episode.state[:, :0]
    return dataclasses.replace(episode, images=images, state=state)


def _require_apart(outs: Sequence[Path], sources: Sequence[TrajectoryStore]) -> None:
    """Raises UserError if two outputs are the same, or one lies within a recording that is copied."""
    places = [out.resolve() for out in outs]
    for out, place in zip(outs, places, strict=True):
        if places.count(place) > 1:
            raise UserError(f"{out} is named twice: expected a place of its own for each part")
        for source in sources:
            if place.is_relative_to(source.path.resolve()):
                raise UserError(f"{out} is, or lies within, the recording that is copied: write to another place")


def _require_same(copied: TrajectoryStore, numbered: Sequence[tuple[TrajectoryStore, int]]) -> None:
    """Raises UserError if an episode differs from its source, even one that an earlier, interrupted run wrote."""
    for number, (source, episode) in enumerate(numbered):
        if source.records is None:
            continue
        mine, original = copied.digests(number), source.digests(episode)
        renamed = zip(
            map(image_column, source.spec.camera_names), map(image_column, copied.spec.camera_names), strict=True
        )
        names = {name: name for name in original} | dict(renamed)
        if not copied.spec.state_size:
            original.pop("state", None)
        if any(mine[names[name]] != digest for name, digest in original.items()):
            raise UserError(
                f"{copied.path} is a copy of something else: its episode {number} is not episode {episode} of "
                f"{source.name}; write to another place"
            )

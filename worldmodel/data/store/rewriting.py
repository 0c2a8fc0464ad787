"""Copying episodes into new stores: packing, splitting and merging.

Every copy is checked against the checksums of what it came from. A copy that was interrupted goes on by the same
command: the writer knows how many episodes it has.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from worldmodel.core.errors import UserError
from worldmodel.data.store.durable import writing
from worldmodel.data.store.metadata import group_attributes
from worldmodel.data.store.reader import TrajectoryStore
from worldmodel.data.store.verification import require_whole
from worldmodel.data.store.writer import EpisodeWriter, create_store, is_vacant, require_same_recording

Progress = Callable[[int, int], None]
_COMMIT_BYTES = 64_000_000  # copied between two commits, before compression


def pack(source: TrajectoryStore, out: Path, progress: Progress) -> TrajectoryStore:
    """Rewrite into few large files, for archives and object storage; the content and its checksums stay the same.

    Raises:
        StoreError: when an episode of `source` is damaged.
        UserError: when `out` holds something else.
        WritingStopped: when the disk is full, or fails.
    """
    _require_apart([out], [source])
    if is_vacant(out):
        with writing(out):
            create_store(out, source.spec, source.recording, packed=True)
    elif not group_attributes(out).get("packed"):
        raise UserError(f"{out} holds a recording that is not packed: write to another place")
    every = np.arange(source.num_episodes)
    return copy_episodes([(source, every)], out, source.recording, progress)


def split(
    source: TrajectoryStore, outs: Sequence[Path], fractions: Sequence[float], seed: int, progress: Progress
) -> list[TrajectoryStore]:
    """Divide whole episodes at random among new stores, each in the order of the recording.

    Args:
        source: where the episodes come from.
        outs: where they go.
        fractions: of the episodes, one for each of `outs`; together at most 1.
        seed: of the draw.
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
    # All places are looked at before the first is written to.
    for out, recording in zip(outs, recordings, strict=True):
        if not is_vacant(out):
            require_same_recording(TrajectoryStore.open(out), source.spec, recording)
    written: list[TrajectoryStore] = []
    before = 0
    for out, part, recording in zip(outs, parts, recordings, strict=True):

        def report(done: int, _: int, before: int = before) -> None:
            progress(before + done, int(edges[-1]))

        written.append(copy_episodes([(source, part)], out, recording, report))
        before += len(part)
    return written


def merge(sources: Sequence[TrajectoryStore], out: Path, progress: Progress) -> TrajectoryStore:
    """All episodes of `sources`, one store after the other.

    Raises:
        StoreError: when an episode is damaged.
        UserError: when the stores are of different environments, or `out` holds something else.
    """
    _require_apart([out], sources)
    first = sources[0]
    for other in sources[1:]:
        for name, mine in first.spec.to_dict().items():
            if (theirs := other.spec.to_dict()[name]) != mine:
                raise UserError(f"{first.name} has {name} {mine}, {other.name} has {theirs}: they cannot be merged")
    recording = {"merged": [source.identity for source in sources]}
    parts = [(source, np.arange(source.num_episodes)) for source in sources]
    return copy_episodes(parts, out, recording, progress)


def copy_episodes(
    parts: Sequence[tuple[TrajectoryStore, NDArray[Any]]], out: Path, recording: dict[str, Any], progress: Progress
) -> TrajectoryStore:
    """Write episodes of one or several stores of one environment to `out`, or go on with it.

    Raises:
        StoreError: when an episode is damaged.
        UserError: when `out` holds something else.
    """
    numbered = [(source, int(episode)) for source, episodes in parts for episode in episodes]
    spec = parts[0][0].spec
    rows = sum(source.num_rows for source, _ in parts) / max(1, sum(source.num_episodes for source, _ in parts))
    per_commit = max(1, int(_COMMIT_BYTES / max(1.0, rows * spec.only_camera.height**2 * 3)))
    with EpisodeWriter(out, spec, recording, per_commit) as writer:
        if writer.num_episodes > len(numbered):
            raise UserError(f"{out} has {writer.num_episodes} episodes already, more than the {len(numbered)} to copy")
        for done in range(writer.num_episodes, len(numbered)):
            source, episode = numbered[done]
            require_whole(source, episode)
            writer.append(source.episode(episode))
            progress(done + 1, len(numbered))
    copied = TrajectoryStore.open(out)
    _require_same(copied, numbered)
    return copied


def _require_apart(outs: Sequence[Path], sources: Sequence[TrajectoryStore]) -> None:
    """Raises UserError for places that are one, or lie within a recording that is copied."""
    places = [out.resolve() for out in outs]
    for out, place in zip(outs, places, strict=True):
        if places.count(place) > 1:
            raise UserError(f"{out} is named twice: expected a place of its own for each part")
        for source in sources:
            if place.is_relative_to(source.path.resolve()):
                raise UserError(f"{out} is, or lies within, the recording that is copied: write to another place")


def _require_same(copied: TrajectoryStore, numbered: Sequence[tuple[TrajectoryStore, int]]) -> None:
    """Also what an earlier, interrupted run wrote."""
    assert copied.records is not None
    for number, (source, episode) in enumerate(numbered):
        mine, original = copied.records[number], source.records
        if original is not None and (mine["digests"] != original["digests"][episode]).any():
            raise UserError(
                f"{copied.path} is a copy of something else: its episode {number} is not episode {episode} of "
                f"{source.name}; write to another place"
            )

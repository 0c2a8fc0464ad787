"""Verifies a store by reading everything once and comparing it with the checksums."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping

from worldmodel.data.store.files import StoreError, UnreachableError
from worldmodel.data.store.layout import INSTRUCTION
from worldmodel.data.store.reader import AlteredError, TrajectoryStore
from worldmodel.data.store.rows import Pass


@dataclasses.dataclass(frozen=True)
class Damage:
    """One column of one episode that differs from what was recorded.

    Attributes:
        episode: number of the episode.
        column: for example `images/camera` or `action`, or `instruction`.
        what: description of the damage.
    """

    episode: int
    column: str
    what: str


def verify_episode(store: TrajectoryStore, episode: int) -> list[Damage]:
    """The damage of one episode, which is missing or damaged chunks and changed numbers.

    Raises:
        UnreachableError: when a file of the episode cannot be fetched.
    """
    return _verify_episode(store, episode, _readings(store))


def require_whole(store: TrajectoryStore, episode: int) -> None:
    """Check an episode before it is copied.

    Raises:
        StoreError: when it is damaged. The message names the damage and the remedy.
    """
    for damage in verify_episode(store, episode):
        if store.hint in damage.what:  # such a message also names the store and the episode
            raise StoreError(damage.what)
        raise StoreError(f"episode {episode} of {store.name} is damaged ({damage.column} {damage.what}): {store.hint}")


def verify(store: TrajectoryStore, progress: Callable[[int, int], None]) -> list[Damage]:
    """All damage in a store. `progress` is called with (episodes done, episodes in all).

    Chunks are read one after the other, so memory holds only a few of them. A store of schema 1 has no checksums, so
    only zstd's own check of each chunk applies.

    Raises:
        UnreachableError: when a file of the store cannot be fetched.
    """
    found, readings = [], _readings(store)
    for episode in range(store.num_episodes):
        found.extend(_verify_episode(store, episode, readings))
        progress(episode + 1, store.num_episodes)
    return found


def _readings(store: TrajectoryStore) -> dict[str, Pass]:
    return {name: store.reading(name) for name in store.layout.columns}


def _verify_episode(store: TrajectoryStore, episode: int, readings: Mapping[str, Pass]) -> list[Damage]:
    found = []
    for name in (*readings, INSTRUCTION):
        try:
            if name == INSTRUCTION:
                store.instruction(episode)
                continue
            for _ in store.episode_blocks(name, episode, readings[name]):
                pass
        except UnreachableError:
            raise  # a column that did not arrive may be undamaged
        except AlteredError:
            found.append(Damage(episode, name, "is not what was recorded: its checksum differs"))
        except StoreError as error:
            found.append(Damage(episode, name, str(error)))
    return found

"""Reading everything once, to know whether it is what was recorded."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping

from worldmodel.data.store.files import StoreError, UnreachableError
from worldmodel.data.store.layout import INSTRUCTION
from worldmodel.data.store.reader import AlteredError, TrajectoryStore
from worldmodel.data.store.rows import Pass


@dataclasses.dataclass(frozen=True)
class Damage:
    """One column of one episode that is not what was recorded.

    Attributes:
        episode: its number.
        column: for example `images/camera` or `action`, or `instruction`.
        what: what is wrong with it.
    """

    episode: int
    column: str
    what: str


def verify_episode(store: TrajectoryStore, episode: int) -> list[Damage]:
    """What is wrong with one episode: chunks that are missing or damaged, and numbers that have changed.

    Raises:
        UnreachableError: when something of it cannot be fetched.
    """
    return _verify_episode(store, episode, _readings(store))


def require_whole(store: TrajectoryStore, episode: int) -> None:
    """Before an episode is copied.

    Raises:
        StoreError: naming what is wrong with it, and what can be done.
    """
    for damage in verify_episode(store, episode):
        if store.hint in damage.what:  # it names the store and the episode, too
            raise StoreError(damage.what)
        raise StoreError(f"episode {episode} of {store.name} is damaged ({damage.column} {damage.what}): {store.hint}")


def verify(store: TrajectoryStore, progress: Callable[[int, int], None]) -> list[Damage]:
    """All damage there is. `progress` is called with (episodes done, episodes in all).

    Reads one chunk after the other, so that it takes no more memory than a few of them. A store of schema 1 has no
    checksums: what zstd itself can tell about each chunk is all that is checked.

    Raises:
        UnreachableError: when something of it cannot be fetched.
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
            raise  # nothing is known of a column that did not arrive
        except AlteredError:
            found.append(Damage(episode, name, "is not what was recorded: its checksum differs"))
        except StoreError as error:
            found.append(Damage(episode, name, str(error)))
    return found

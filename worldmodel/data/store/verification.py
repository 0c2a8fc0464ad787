"""Reading everything once, to know whether it is what was recorded."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

from worldmodel.data.store.files import UnreachableError
from worldmodel.data.store.integrity import COLUMNS
from worldmodel.data.store.reader import StoreError, TrajectoryStore


@dataclasses.dataclass(frozen=True)
class Damage:
    """One column of one episode that is not what was recorded.

    Attributes:
        episode: its number.
        column: pixels, action, proprio or state.
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
    found = []
    rows = store.episode_rows(episode)
    for name in COLUMNS:
        try:
            values = store.read(name, rows.start, rows.stop)
        except UnreachableError:
            raise  # nothing is known of a column that did not arrive
        except StoreError as error:
            found.append(Damage(episode, name, str(error)))
            continue
        if not store.is_as_recorded(episode, name, values):
            found.append(Damage(episode, name, "is not what was recorded: its checksum differs"))
    return found


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

    A store of schema 1 has no checksums: what zstd itself can tell about each chunk is all that is checked.

    Raises:
        UnreachableError: when something of it cannot be fetched.
    """
    found = []
    for episode in range(store.num_episodes):
        found.extend(verify_episode(store, episode))
        progress(episode + 1, store.num_episodes)
    return found

"""Registries of everything that users select by name: environments, optimisers, encoders, model families, formats.

Each kind lists this project's own entries in its own package. A package of the user adds entries in either of two ways:

    register("optimiser", "my_search", entry)                # in a program of the user's own

    [project.entry-points."worldmodel.plugins"]              # in its pyproject.toml, for all commands
    my_package = "my_package.plugin:add"                     # a function that calls `register`

The registry of each kind documents what an `entry` is.
"""

from __future__ import annotations

import importlib
from importlib import metadata
from typing import Final, Generic, TypeVar

from worldmodel.core.errors import UserError, choices_message

ENTRY_POINTS: Final = "worldmodel.plugins"
KINDS: Final = ("env", "optimiser", "encoder", "family", "format")
T = TypeVar("T")
_registered: dict[str, dict[str, object]] = {kind: {} for kind in KINDS}
_loaded: list[str] = []


class PluginError(UserError):
    """A package that extends this one cannot be loaded."""


def register(kind: str, name: str, entry: object) -> None:
    """Make `entry` known as `name`.

    Raises:
        UserError: for an unknown kind, or a name that another entry has already.
    """
    if kind not in KINDS:
        raise UserError(choices_message("kind of plug-in", kind, KINDS))
    if _registered[kind].get(name, entry) is not entry:
        raise UserError(f"{kind} '{name}' is registered already: choose another name")
    _registered[kind][name] = entry


def load_plugins() -> None:
    """Call every installed plug-in once. Raises PluginError, naming the package, for one that fails."""
    for point in metadata.entry_points(group=ENTRY_POINTS):
        if point.value in _loaded:
            continue
        _loaded.append(point.value)
        try:
            point.load()()
        except Exception as error:
            reason = (str(error).splitlines() or [""])[0]
            raise PluginError(
                f"plug-in {point.name} ({point.value}) cannot be loaded: {type(error).__name__}: {reason}"
            ) from error


def plugins(kind: str) -> dict[str, object]:
    """What packages of the user's, or programs, have registered of one kind, by name."""
    load_plugins()
    return dict(_registered[kind])


class Registry(Generic[T]):
    """The entries of one kind, by name.

    Args:
        kind: one of `KINDS`.
        what: the word for one of them in messages.
        ours: what comes with this project: `module:attribute`, imported when it is asked for, or the entry itself.
    """

    def __init__(self, kind: str, what: str, ours: dict[str, str | T]) -> None:
        assert kind in KINDS
        self._kind, self._what, self._ours = kind, what, ours

    def names(self) -> list[str]:
        """All of them, sorted."""
        load_plugins()
        return sorted({*self._ours, *_registered[self._kind]})

    def __contains__(self, name: object) -> bool:
        return name in self._ours or name in self.names()

    def get(self, name: str) -> T:
        """The entry called `name`. Raises UserError, listing the choices, for an unknown one."""
        if name in self._ours:
            entry = self._ours[name]
            return _imported(entry) if isinstance(entry, str) else entry
        if name not in self.names():
            raise UserError(choices_message(self._what, name, self.names()))
        return _registered[self._kind][name]  # type: ignore[return-value]


def _imported(address: str) -> T:  # type: ignore[type-var]
    module, _, attribute = address.partition(":")
    entry: T = getattr(importlib.import_module(module), attribute)
    return entry

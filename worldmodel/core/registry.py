"""Registries of everything that users select by name: environments, optimisers, encoders, model families, formats.

Each kind lists this project's own entries in its own package. A package of the user adds entries in either of two ways:

    register("optimiser", "my_search", entry)                # in a program of the user

    [project.entry-points."worldmodel.plugins"]              # in its pyproject.toml, for all commands
    my_package = "my_package.plugin:add"                     # a function that calls `register`

The registry of each kind documents what an `entry` is.
"""

from __future__ import annotations

import functools
import importlib
import re
import sys
from importlib import metadata
from typing import Any, Final, Generic, TypeVar

from worldmodel.core.errors import UserError, choices_message

ENTRY_POINTS: Final = "worldmodel.plugins"
KINDS: Final = ("env", "optimiser", "encoder", "family", "format")
T = TypeVar("T")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")
# YAML and the command line read these as values of another type, so nobody could type them as names.
_NO_TEXT = re.compile(r"(?i)null|true|false|yes|no|on|off|nan|inf|[0-9_]+(e[0-9_]+)?")
_registered: dict[str, dict[str, object]] = {kind: {} for kind in KINDS}
_ours: dict[str, set[str]] = {kind: set() for kind in KINDS}
_loaded: list[str] = []


class PluginError(UserError):
    """A package that extends this one cannot be loaded."""


def register(kind: str, name: str, entry: object) -> None:
    """Make `entry` known as `name`.

    Raises:
        UserError: for an unknown kind, a name that cannot name a file, or a name that another entry has already.
    """
    if kind not in KINDS:
        raise UserError(choices_message("kind of plug-in", kind, KINDS))
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise UserError(f"name of the {kind} is {name!r}: expected at most 64 letters, digits, _ and -")
    if _NO_TEXT.fullmatch(name):
        raise UserError(f"name of the {kind} is {name!r}: a command would not read it as text; choose another name")
    if name in _ours[kind] or _registered[kind].get(name, entry) is not entry:
        raise UserError(f"{kind} '{name}' is registered already: choose another name")
    _registered[kind][name] = entry


def load_plugins() -> None:
    """Call every installed plug-in once. Raises PluginError, naming the package, for one that fails."""
    for point in _installed(tuple(sys.path)):
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


@functools.cache
def _installed(path: tuple[str, ...]) -> tuple[metadata.EntryPoint, ...]:
    """The plug-ins of the packages on `path`, which is `sys.path`. Reading all packages takes some 10 ms.

    One command asks some fifty times, so that the answers took longer than all the rest of reading its options.
    """
    return tuple(metadata.entry_points(group=ENTRY_POINTS))


def plugins(kind: str) -> dict[str, object]:
    """The entries of one kind that packages and programs of the user have registered, by name."""
    load_plugins()
    return dict(_registered[kind])


class Registry(Generic[T]):
    """The entries of one kind, by name.

    Args:
        kind: one of `KINDS`.
        what: the word for one entry in messages.
        ours: this project's own entries. A text `module:attribute` is imported on first use.
        entry: class of which an entry must be an instance or (for `Source`) a subclass; None to accept anything.
    """

    def __init__(self, kind: str, what: str, ours: dict[str, str | T], entry: type[Any] | None = None) -> None:
        assert kind in KINDS
        self._kind, self._what, self._ours, self._entry = kind, what, ours, entry
        _ours[kind] |= set(ours)

    def names(self) -> list[str]:
        """All names, sorted. Raises PluginError if a plug-in used a name of ours before ours were known."""
        load_plugins()
        for name in sorted(set(self._ours) & set(_registered[self._kind])):
            raise PluginError(f"{self._kind} '{name}' is registered already: choose another name")
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
        found = _registered[self._kind][name]
        if self._entry is not None and not isinstance(found, self._entry) and not _is_kind_of(found, self._entry):
            raise PluginError(
                f"{self._kind} '{name}' is registered as {type(found).__name__}: expected {self._entry.__name__}"
            )
        return found  # type: ignore[return-value]


def _is_kind_of(entry: object, wanted: type[Any]) -> bool:
    return isinstance(entry, type) and issubclass(entry, wanted)


def _imported(address: str) -> T:  # type: ignore[type-var]
    module, _, attribute = address.partition(":")
    entry: T = getattr(importlib.import_module(module), attribute)
    return entry
